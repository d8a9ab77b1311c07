"""The client to a server of the old HTTP+SSE transport (MCP 2024-11-05): one stream brings all, messages are posted.

Made by `agent.client.http.sse_connect`; used through `agent.client.sessions.router`, as the client of a session of
streamable HTTP is. The server's `endpoint` event says where to post, and whatever it has to say comes on the stream,
answers too, matched by ID. The one rule: the stream is the session, so when it ends, what was posted and not answered
has an unknown outcome; the client is lost, or opens another session, where it is that of a whole link.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from agent import clock
from agent.client import jsonrpc
from agent.client.event import Event
from agent.client.http.dial import DialFailed
from agent.client.http.pool import HttpPool, RequestBody, Response, Route
from agent.client.http.response import ANSWER_BYTES_MAX, SSE_TYPE, HttpRefusal, MessageStream, check_status
from agent.client.http.restart import RESTART_S, Restart, may_go_again, may_pass
from agent.client.http.session import COURTESY_TIMEOUT_S
from agent.client.http.siblings import Siblings
from agent.client.http.silence import noted
from agent.client.http.stateless import timed_out
from agent.client.legacy_notifications import SessionLogs, SessionSubscriptions
from agent.client.negotiation import (
    INITIALIZE,
    INITIALIZED,
    PING,
    initialize_params,
    judge_initialize,
    without_envelope,
)
from agent.client.pending import Pending, PendingRequests
from agent.client.protocol import Request
from agent.client.server_info import OnServerRequest, ServerInfo
from agent.client.streams import Updates
from agent.errors import (
    CallFailed,
    CallNotSent,
    CallOutcomeUnknown,
    DialRefused,
    LinkFailed,
    MeshError,
    ProtocolBroken,
    RpcError,
    Unreachable,
)
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION
from agent.model import Json

log = logging.getLogger(__name__)

# A session that is opened anew: where the network is to blame the server answers at once when it is heard again.
RENEW_TIMEOUT_S: Final = 10.0
# Replies to the server's own requests that are under way; beyond it the server gets none.
REPLIES_MAX: Final = 64


class SseSessionClient:
    """One session, from `open` to `close`; its tasks run in the group that it is given.

    `version` is what `initialize` asks for. `on_server_request` takes the server's requests, and `on_notice` what it
    says that belongs to no request or list. `renews`: when its stream has ended, the next request or probe opens
    another session with the same server, or the one after it; a refusal of the server's own makes the client lost.

    Long because every request waits for its answer on the one stream that the session has.
    """

    def __init__(
        self,
        pool: HttpPool,
        client_name: str,
        group: asyncio.TaskGroup,
        siblings: Siblings,
        *,
        version: str = LATEST_HANDSHAKE_VERSION,
        features: Json | None = None,
        on_server_request: OnServerRequest = jsonrpc.encode_reply,
        on_notice: Callable[[str, Json], None] = lambda _method, _params: None,
        renews: bool = False,
    ) -> None:
        self.lost = Event()
        self.lost_reason = self.lost_what = ""
        self._pool = pool
        self._client_name = client_name
        self._group = group
        self._version = version
        self._features = features or {}
        self._on_server_request = on_server_request
        self._route = Route()  # To the endpoint; the stream has the same cookies.
        self._server_info: ServerInfo | None = None
        self._siblings = siblings
        self._ids = siblings.ids
        self._renews = renews
        self._endpoint_timeout_s = 0.0
        self._over = Event()  # The present stream has ended; `_end`: why, and whether by silence.
        self._end = ("", False)
        self._restart = Restart()
        self._reader: asyncio.Task[None] | None = None
        self._replies: set[asyncio.Task[None]] = set()
        self._subscriptions = SessionSubscriptions(on_notice)
        self._pending = PendingRequests(self._subscriptions, on_notice)
        self._logs = SessionLogs()

    def __repr__(self) -> str:
        lost = f" lost: {self.lost_reason}" if self.lost.is_set() else ""
        return f"<SseSessionClient {self._pool.where} {len(self._pending)} in flight{lost}>"

    @property
    def server_info(self) -> ServerInfo:
        """What the server said when the session was opened."""
        assert self._server_info is not None, "the client is not open"
        return self._server_info

    async def open(self, endpoint_timeout_s: float) -> None:
        """Open the stream and initialize the session.

        `endpoint_timeout_s` bounds the wait for the stream's first word; the caller bounds all of it. Raises
        `RpcError`, `HttpRefusal`, `CallFailed`, `LinkFailed`, `TimeoutError`.
        """
        self._endpoint_timeout_s = endpoint_timeout_s
        self._route.target = None  # That of a session before was where to post.
        async with asyncio.timeout(endpoint_timeout_s):
            response = await self._pool.get({"Accept": SSE_TYPE}, self._route)
            try:
                stream = await self._endpoint_of(response)
            except BaseException:
                response.close()
                raise
        if not any(one is self._pending for one in self._siblings.pending):
            self._siblings.pending.append(self._pending)
        over = Event()
        reading = self._read(response, stream, over)
        self._reader = self._group.create_task(reading, name="stream of an HTTP+SSE session")
        params = initialize_params(self._client_name, self._features, self._version)
        server_info = judge_initialize(jsonrpc.result_of(await self._answered(INITIALIZE, params)))
        self._server_info = self._pool.as_believed(replace(server_info, keeps_sessions=True))  # Its stream is one.
        await self._post(RequestBody(jsonrpc.encode_notification(INITIALIZED)))
        self._over = over
        self._restart.over()

    def close(self) -> None:
        """End the session by the end of its stream; this transport has no other word for it."""
        self._renews = False
        self._siblings.pending = [one for one in self._siblings.pending if one is not self._pending]
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None  # What it ends with knows of this client: a circle, for the garbage collector to find.
        for task in self._replies:
            task.cancel()

    async def request(
        self,
        request: Request,
        *,
        on_server_request: OnServerRequest | None = None,  # noqa: ARG002 - the stream does not say which request a question is about
    ) -> Json:
        """As `SessionClient.request`; a large result is held, since what follows it on the stream is for others."""
        again = False  # In another session, for the one before had ended or was forgotten.
        while True:
            if self._over.is_set():
                await self._tried(self._renew, request.method, request.deadline_s)
            over, failed = self._over, self._restart.failed
            try:
                return await self._asked(request)
            except CallNotSent as exc:
                is_refused = isinstance(exc.__cause__, DialFailed)
                is_forgotten = over.is_set() and may_go_again(request, exc)
                if not self._may_restart(exc) or not (is_refused or (is_forgotten and not again)):
                    raise
                again |= not is_refused
                if (is_refused or self._over.is_set()) and not await self._restart.pause(request.deadline_s):
                    raise
                if is_refused:
                    await self._tried(self._reach, request.method, request.deadline_s, failed)

    def _may_restart(self, failed: CallFailed) -> bool:
        return self._renews and not failed.silent and not self.lost.is_set()

    async def _asked(self, request: Request) -> Json:
        request_id, method, timeout_s = next(self._ids), request.method, request.left_s()
        on_notification = request.on_notification
        pending = Pending(takes_notifications=on_notification is not None)
        sent_params, pending.token = jsonrpc.swap_progress_token(without_envelope(request.params), request_id)
        body = RequestBody(jsonrpc.encode_request(request_id, method, sent_params))
        self._pending[request_id] = pending
        posting: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout_at(request.deadline_s):
                await self._logs.show(request.params, self.server_info, self.request)
                # Beside the wait for the answer: some servers answer the POST only when they are done.
                posting = self._start(self._deliver(body, dict(request.headers or {}), pending))
                if on_notification is not None:
                    await pending.hand_on(on_notification)
                message = await pending.response
        except TimeoutError as exc:
            self._send_cancelled(request_id, method, body, "the deadline passed")
            raise timed_out(self._pool, method, timeout_s, sent=body.sent) from exc
        except asyncio.CancelledError:
            self._send_cancelled(request_id, method, body, "the caller went away")
            raise
        finally:
            del self._pending[request_id]
            if posting is not None:
                posting.cancel()
            pending.forget()
        if message is None:
            reason, silent = self._end
            failure = (CallOutcomeUnknown if body.sent else CallNotSent)(reason).as_silence(silent=silent)
            raise failure.with_nothing_sent(nothing_sent=not body.went_out)
        return jsonrpc.result_of(message)

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:
        """Send the reply to a server request. Raises `CallOutcomeUnknown`: it may never arrive."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._post(RequestBody(reply))
        except (MeshError, HttpRefusal, TimeoutError) as exc:
            reason = str(exc) or "it took too long"
            what = "could not be sent the client's answer"
            raise CallOutcomeUnknown.about(self._pool.where, what, f": {reason}") from exc

    quiet = None

    @property
    def lists_by_session(self) -> bool:
        """As `McpClient.lists_by_session`: this is one session."""
        return False

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """As `McpClient.hear_sessions`: there are none."""

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`: the session's one stream, which is open."""
        self._subscriptions.listeners.add(on_change)
        try:
            over = self._over
            if not over.is_set():
                on_change("listening")
                await over.wait()
            reason, silent = self._end
            if not silent:
                with contextlib.suppress(CallNotSent):
                    await self._tried(self._renew, PING, math.inf)
            raise Unreachable(reason, silent=silent)
        finally:
            self._subscriptions.listeners.discard(on_change)

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`."""
        await self._subscriptions.follow(updates, self.request)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`; a restart is waited for beside that."""
        ping = Request.within(PING, timeout_s=timeout_s + RESTART_S)
        while True:
            try:
                with contextlib.suppress(RpcError):
                    await self.request(ping)
            except CallFailed as exc:
                if not (self._over.is_set() and self._may_restart(exc) and await self._restart.pause(ping.deadline_s)):
                    raise Unreachable.because(exc) from exc
            else:
                return

    # The stream

    async def _tried(
        self, attempt: Callable[[], Awaitable[None]], method: str, deadline_s: float, known: CallNotSent | None = None
    ) -> None:
        """As `Restart.tried`, for a request of this method; `known`: as it was before that failed itself."""
        restart, timeout_s = self._restart, deadline_s - clock.now_s()
        try:
            async with asyncio.timeout_at(deadline_s):
                await restart.tried(attempt, known or restart.failed, deadline_s, self._may_restart)
        except TimeoutError as exc:
            raise timed_out(self._pool, method, timeout_s, sent=False) from exc

    async def _reach(self) -> None:
        """Have a connection for what is posted, while there is a stream. Raises `CallNotSent`."""
        if not self._over.is_set():
            await self._pool.reach()

    async def _renew(self) -> None:
        """Have a session again whose stream has ended. Raises `CallNotSent`: none is to be had."""
        if not self._over.is_set():
            return
        if self.lost.is_set():
            raise CallNotSent(self.lost_reason)
        known = self._server_info
        try:
            try:
                async with asyncio.timeout(RENEW_TIMEOUT_S):
                    await self.open(self._endpoint_timeout_s)
                self._refuse_another_than(known)
            except BaseException:
                self._server_info = known
                if self._reader is not None:
                    self._reader.cancel()
                raise
        except (MeshError, HttpRefusal, TimeoutError) as exc:
            reason = str(exc) or f"{self._pool.where} opened no session within {RENEW_TIMEOUT_S:g} s"
            if not may_pass(exc):
                self._lose(reason)
            nothing_sent = isinstance(exc, Unreachable) and exc.nothing_sent  # Else it has a stream by now.
            raise noted(CallNotSent(reason), exc).with_nothing_sent(nothing_sent=nothing_sent) from exc

    def _refuse_another_than(self, known: ServerInfo | None) -> None:
        if self._server_info != known:
            raise ProtocolBroken(f"{self._pool.where} is another server now")

    async def _endpoint_of(self, response: Response) -> MessageStream:
        """Read until the server has said where to post."""
        await check_status(response, self._pool)
        if response.content_type != SSE_TYPE:
            raise ProtocolBroken(f"{self._pool.where} answers GET with {response.content_type[:80]!r}, not a stream")
        stream = MessageStream(response, self._pool, ANSWER_BYTES_MAX)
        while stream.endpoint is None:
            if not await stream.read_on():
                raise ProtocolBroken(f"{self._pool.where} ended its stream without an endpoint event")
        try:
            self._route.target = self._pool.target_of(stream.endpoint)
        except ValueError as exc:
            # Our headers and the arguments of calls would go there.
            raise ProtocolBroken(f"{self._pool.where} names an endpoint for messages that {exc}") from exc
        return stream

    async def _read(self, response: Response, stream: MessageStream, over: Event) -> None:
        """Take what comes until the stream ends; whatever ends it is the reason of the loss. `over`: set then."""
        reason, silent = f"{self._pool.where} had not answered when this node ended its session with it", False
        try:
            while (message := await stream.next()) is not None:
                self._take(message)
            reason = f"{self._pool.where} ended the stream of its session"
        except asyncio.CancelledError:
            over.set()
            raise
        except (MeshError, HttpRefusal) as exc:
            reason, silent = str(exc), isinstance(exc, MeshError) and exc.silent
        except Exception as exc:  # A bug of ours ends this session, and no other.
            log.exception("MCP session broke unexpectedly")
            reason = f"unexpected {type(exc).__name__}"
        finally:
            response.close()
            self._ended(over, reason, silent=silent)

    def _take(self, message: Json) -> None:
        if "method" not in message:
            self._owner(jsonrpc.answered(message)).take_response(message)
        elif not jsonrpc.is_request(message):
            self._owner(jsonrpc.params_of(message).get("progressToken")).take_notification(message)
        elif (reply := self._on_server_request(message)) is not None:
            self._send_soon(reply)

    def _owner(self, request_id: object) -> PendingRequests:
        """The requests of the session with this one: ours, but for servers that know one stream only."""
        if not isinstance(request_id, int) or request_id in self._pending:
            return self._pending
        return next((one for one in self._siblings.pending if request_id in one), self._pending)

    def _ended(self, over: Event, reason: str, *, silent: bool) -> None:
        if not self._renews:
            self._lose(reason, silent=silent)
        elif not over.is_set():  # Else it was given up while it was opened, and says nothing of the present one.
            self._end = reason, silent
            self._restart.begun()
            self._pending.end(reason)
        over.set()

    def _lose(self, reason: str, *, silent: bool = False) -> None:
        if not self.lost.is_set():
            self._end = reason, silent
            self.lost_reason = reason
            self.lost.set()
            self._over.set()
            self._pending.end(reason)

    # Messages to the server

    async def _answered(self, method: str, params: Json) -> Json:
        """One request of the handshake; the caller bounds it in time."""
        request_id, pending = next(self._ids), Pending()
        self._pending[request_id] = pending
        body = RequestBody(jsonrpc.encode_request(request_id, method, params))
        posting = self._start(self._deliver(body, {}, pending))
        try:
            message = await pending.response
        finally:
            del self._pending[request_id]
            posting.cancel()
            pending.forget()
        if message is None:
            raise Unreachable(self._end[0], silent=self._end[1])
        return message

    async def _deliver(self, body: RequestBody, headers: dict[str, str], pending: Pending) -> None:
        """Post a request; a refusal is its answer, anything else comes on the stream."""
        try:
            await self._post(body, headers)
        except HttpRefusal as exc:
            if exc.forgets_session:
                reason = f"{self._pool.where} forgot our session: {exc}"
                refused = CallNotSent(reason)  # What becomes of the others is not known.
                refused.cut_off = True  # Where the session alone is gone, the server answers a probe in another.
                pending.fail(refused)
                self._ended(self._over, reason, silent=False)
                if self._reader is not None:
                    self._reader.cancel()
            else:
                pending.fail(exc.as_failure())
        except DialRefused as exc:
            pending.fail(CallNotSent(str(exc)))
        except MeshError as exc:
            pending.fail(exc)

    async def _post(self, body: RequestBody, headers: dict[str, str] | None = None) -> None:
        if self.lost.is_set():
            raise CallNotSent(self.lost_reason)
        response = await self._pool.post(body, headers or {}, self._route)
        try:
            if response.status not in (200, 202, 204):
                await check_status(response, self._pool)
            if not self._over.is_set():
                self._restart.over()
        finally:
            response.close() if response.content_length else response.release()

    async def _courtesy(self, message: bytes) -> None:
        with contextlib.suppress(LinkFailed, CallFailed, HttpRefusal, TimeoutError):
            async with asyncio.timeout(COURTESY_TIMEOUT_S):
                await self._post(RequestBody(message))

    def _send_cancelled(self, request_id: int, method: str, body: RequestBody, reason: str) -> None:
        """In this era the end of a POST does not cancel; only the notification does."""
        if body.sent and method not in jsonrpc.NEVER_CANCELLED:
            self._send_soon(jsonrpc.encode_cancelled(request_id, reason))

    def _send_soon(self, message: bytes) -> None:
        """Send what has no answer, as a courtesy: a server that takes none of them loses what is too much."""
        if not self._over.is_set() and len(self._replies) < REPLIES_MAX:
            task = self._start(self._courtesy(message))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._group.create_task(work, name="message of an HTTP+SSE session")
