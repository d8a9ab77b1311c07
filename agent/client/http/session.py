"""The client to an HTTP server with sessions (2025-11-25 and before): initialize, `Mcp-Session-Id`, a GET stream.

Made by `agent.client.http.connect` when `server/discover` is unknown; used through `agent.client.sessions.router`. A
session may serve many callers, so progress tokens are made unique. Its declared capabilities and the receiver of server
requests are passed in. The one rule: a lost session is opened anew once, by the first request that finds it lost, and a
request that was refused for it, and so not executed, is sent again.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from agent import clock
from agent.client import jsonrpc
from agent.client.event import Event
from agent.client.http.forgetting import DOUBT_PAUSE_S, REFUSED_PINGS_PAUSE_S, Doubts, Refused, Standing
from agent.client.http.pool import HttpPool, RequestBody, Response, Route
from agent.client.http.response import (
    SESSION_HEADER,
    SSE_TYPE,
    HttpRefusal,
    MessageStream,
    check_status,
    exchange,
)
from agent.client.http.resumption import Resumption
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
from agent.client.protocol import Request
from agent.client.server_info import (
    ACKNOWLEDGE_TIMEOUT_S,
    ListenNotSupported,
    OnNotification,
    OnServerRequest,
    ServerInfo,
)
from agent.client.streaming import lift
from agent.client.streams import Updates
from agent.errors import (
    AuthRefused,
    CallFailed,
    CallNotSent,
    CallOutcomeUnknown,
    DialRefused,
    LinkFailed,
    ProtocolBroken,
    RpcError,
    Unreachable,
)
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION
from agent.model import Json

log = logging.getLogger(__name__)

# Clean-up messages (cancelled, session end, replies to server requests) are a courtesy: they may not delay anything.
COURTESY_TIMEOUT_S: Final = 1.0
# A ping that only tells whether the session is known; servers answer it at once.
DOUBT_TIMEOUT_S: Final = 5.0


class HttpSessionClient:
    """One session over one pool. `open` first, `close` at the end.

    `version`: the one to ask for. `features`: the client capabilities to declare. `on_server_request` takes the server
    requests, and `on_notice` the notifications, of the session's own stream, which belongs to no request.

    Long because requests, the session's own stream and its renewal all use or replace one session ID.
    """

    def __init__(
        self,
        pool: HttpPool,
        client_name: str,
        handshake_timeout_s: float,
        *,
        version: str = LATEST_HANDSHAKE_VERSION,
        features: Json | None = None,
        on_server_request: OnServerRequest = jsonrpc.encode_reply,
        on_notice: Callable[[str, Json], None] = lambda _method, _params: None,
    ) -> None:
        self.lost = Event()
        self.lost_reason = self.lost_what = ""
        self.asked_version = version
        self._pool = pool
        # A balancer that keeps a session on one machine does so by the session's own cookies.
        self._route = Route()
        self._client_name = client_name
        self._handshake_timeout_s = handshake_timeout_s
        self._features = features or {}
        self._on_server_request = on_server_request
        self._on_notice = on_notice
        self._server_info: ServerInfo | None = None
        self._session_id: str | None = None
        self._headers: dict[str, str] = {}
        self._generation = 0
        self._renewal = asyncio.Lock()
        self._doubts = Doubts()
        # The session that a ping showed to be forgotten, by generation, and how the ping was refused.
        self._forgotten: tuple[int, Refused | None] = (-1, None)
        self._ids = itertools.count(1)
        self._streams: set[MessageStream] = set()
        self._subscriptions = SessionSubscriptions(on_notice)
        self._logs = SessionLogs()

    def __repr__(self) -> str:
        return f"<HttpSessionClient {self._pool.where} session {self._generation}>"

    @property
    def server_info(self) -> ServerInfo:
        """What the server said when the present session was opened."""
        assert self._server_info is not None, "the client is not open"
        return self._server_info

    @property
    def has_id(self) -> bool:
        """Whether the server gave the session an ID; one without keeps nothing between two requests."""
        return self._session_id is not None

    async def open(self) -> None:
        """Initialize a session. Raises `RpcError`, `HttpRefusal`, `CallFailed`, `LinkFailed`, `TimeoutError`."""
        request_id = next(self._ids)
        params = initialize_params(self._client_name, self._features, self.asked_version)
        body = RequestBody(jsonrpc.encode_request(request_id, INITIALIZE, params))
        async with asyncio.timeout(self._handshake_timeout_s):
            message, headers = await exchange(self._pool, body, {}, request_id, route=self._route)
            server_info = judge_initialize(jsonrpc.result_of(message))
            self._session_id = headers.get(SESSION_HEADER)
            self._headers = {"MCP-Protocol-Version": server_info.protocol_version}
            if self._session_id is not None:
                self._headers[SESSION_HEADER] = self._session_id
            try:
                await self._post(jsonrpc.encode_notification(INITIALIZED))
            except CallNotSent as exc:
                exc.nothing_sent = False  # It was asked for the session.
                raise
        self._server_info = self._pool.as_believed(replace(server_info, keeps_sessions=self.has_id))
        self._generation += 1
        self._subscriptions.session_ended(f"{self._pool.where} opened another session")
        for stream in tuple(self._streams):
            stream.response.close()  # It belongs to the session before; its listeners have to list again anyway.

    async def close(self) -> None:
        """End the session at the server; bounded in time, failures are ignored."""
        if self._session_id is not None:
            with contextlib.suppress(LinkFailed, CallNotSent, TimeoutError):
                async with asyncio.timeout(COURTESY_TIMEOUT_S):
                    await self._pool.delete(self._headers, self._route)

    async def request(self, request: Request, *, on_server_request: OnServerRequest | None = None) -> Json:
        """As `SessionClient.request`, in a session that is chosen already, whatever the affinity."""
        request_id, method, timeout_s = next(self._ids), request.method, request.left_s()
        sent_params, token = jsonrpc.swap_progress_token(without_envelope(request.params), request_id)
        data = jsonrpc.encode_request(request_id, method, sent_params)
        on_message = self._receiver(token, request.on_notification, on_server_request or self._on_server_request)
        body = RequestBody(data, harmless=method == PING)

        async def send() -> Json:
            message, _ = await exchange(
                self._pool,
                body,
                {**self._headers, **(request.headers or {})},
                request_id,
                on_message,
                large=request.sink,
                route=self._route,
                resumption=self._resumption(),
            )
            return self._without_doubt(message)

        try:
            async with asyncio.timeout_at(request.deadline_s) as deadline:
                lift(deadline, request.sink)
                await self._logs.show(request.params, self.server_info, self.request)
                generation = self._generation
                try:
                    message = await send()
                except HttpRefusal as exc:
                    if not await self._is_forgotten(exc.refused, generation, method):
                        raise
                    body = RequestBody(data)
                    await self._renew(generation)
                    message = await self._sent_again(send, method)
        except TimeoutError as exc:
            await self._send_cancelled(request_id, method, body, "the deadline passed")
            raise timed_out(self._pool, method, timeout_s, sent=body.sent) from exc
        except asyncio.CancelledError:
            await self._send_cancelled(request_id, method, body, "the caller went away")
            raise
        except HttpRefusal as exc:
            raise exc.as_failure() from exc
        except DialRefused as exc:
            raise CallNotSent(str(exc)) from exc
        return jsonrpc.result_of(message)

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:
        """Send the reply to a server request. Raises `CallOutcomeUnknown`: it may never arrive."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._post(reply)
        except (LinkFailed, CallFailed, HttpRefusal, TimeoutError) as exc:
            what, reason = "could not be sent the client's answer", str(exc) or "it took too long"
            raise CallOutcomeUnknown.about(self._pool.where, what, f": {reason}") from exc

    quiet = None

    @property
    def lists_by_session(self) -> bool:
        """As `McpClient.lists_by_session`: this is one session."""
        return False

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """As `McpClient.hear_sessions`: there are none."""

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`: the session's GET stream."""
        generation = self._generation
        self._subscriptions.listeners.add(on_change)
        try:
            try:
                await self._follow(on_change)
            except HttpRefusal as exc:
                if not await self._is_forgotten(exc.refused, generation):
                    raise
                await self._renew(generation)
                await self._follow(on_change)
        except TimeoutError as exc:
            what = "did not open the stream of list changes in time"
            raise Unreachable(f"{self._pool.where} {what}", silent=True) from exc
        except HttpRefusal as exc:
            if exc.status in (400, 404, 405, 406, 410, 422, 501):
                raise ListenNotSupported(str(exc)) from exc
            failure = exc.as_failure()
            raise failure if isinstance(failure, AuthRefused) else Unreachable(str(exc)) from exc
        except CallFailed as exc:
            raise Unreachable.because(exc) from exc
        finally:
            self._subscriptions.listeners.discard(on_change)

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`; updates come on the GET stream, or on that of any request."""
        await self._subscriptions.follow(updates, self.request)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        try:
            with contextlib.suppress(RpcError):
                await self.request(Request.within(PING, timeout_s=timeout_s))
        except CallFailed as exc:
            raise Unreachable.because(exc) from exc

    async def _follow(self, on_change: Callable[[str], None]) -> None:
        async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S) as deadline:
            response = await self._pool.get({"Accept": SSE_TYPE, **self._headers}, self._route)
            stream = MessageStream(response, self._pool, jsonrpc.NOTIFICATION_BYTES_MAX, resumption=self._resumption())
            self._streams.add(stream)
            try:
                await check_status(response, self._pool, in_session=self.has_id)
                if response.content_type != SSE_TYPE:
                    raise ListenNotSupported(f"{self._pool.where} answers GET without a stream")
                deadline.reschedule(None)
                on_change("listening")
                while (message := await stream.next()) is not None:
                    if not await self._take(message, self._on_server_request) and "method" in message:
                        self._on_notice(message["method"], jsonrpc.params_of(message))
                raise Unreachable(f"{self._pool.where} ended the stream of list changes")
            finally:
                self._streams.discard(stream)
                stream.response.close()

    def _resumption(self) -> Resumption:
        """Takes streams of the present session up again, and of no other."""
        session = self._headers

        async def open_behind(last_id: bytes) -> Response:
            if session is not self._headers:
                raise ProtocolBroken(f"{self._pool.where} opened another session")
            headers = {"Accept": SSE_TYPE, "Last-Event-ID": last_id.decode("utf-8", "surrogateescape")}
            return await self._pool.get(headers | session, self._route)

        return Resumption(open_behind)

    def _receiver(
        self, token: object, on_notification: OnNotification | None, on_server_request: OnServerRequest
    ) -> Callable[[Json], Awaitable[None]]:
        """The receiver of each message on a request's stream other than its response."""

        async def on_message(message: Json) -> None:
            method = message["method"]
            if await self._take(message, on_server_request) or on_notification is None:
                return
            params = jsonrpc.params_of(message)
            if method == jsonrpc.PROGRESS_METHOD:
                params = jsonrpc.restore_progress_token(params, token)
            await on_notification(method, params)

        return on_message

    async def _take(self, message: Json, on_server_request: OnServerRequest) -> bool:
        """Take a message that does not belong to one request: server requests, list changes and updates."""
        if jsonrpc.is_request(message):
            if (reply := on_server_request(message)) is not None:
                with contextlib.suppress(CallFailed):
                    await self.answer(reply, timeout_s=COURTESY_TIMEOUT_S)
            return True
        return self._subscriptions.take(message.get("method", ""), jsonrpc.params_of(message))

    # A session that the server forgot

    def _without_doubt(self, message: Json) -> Json:
        """An answer of HTTP 200; one that may say that the session is forgotten is raised as `HttpRefusal`."""
        error = message.get("error")
        if isinstance(error, dict) and self.has_id:
            refusal = HttpRefusal(200, self._pool.where, message, str(error.get("message", "")))
            if refusal.refused.standing is Standing.DOUBTFUL:
                raise refusal
        return message

    async def _is_forgotten(self, refused: Refused, generation: int, method: str = "") -> bool:
        """Whether a request in the session of `generation` was refused because the server forgot that session."""
        if not self.has_id or refused.standing is not Standing.DOUBTFUL:
            return self.has_id and refused.standing is Standing.FORGOTTEN
        async with self._renewal:
            forgotten, ping = self._forgotten
            if forgotten == generation:
                return refused.confirmed_by(ping)
            if self._generation != generation:
                return refused.may_be_of_old_session
            if self._doubts.are_settled(refused.status, clock.now_s()):
                return False
            asked_s = clock.now_s()
            ping = refused if method == PING else await self._refusal_of_ping()
            if refused.confirmed_by(ping):
                self._forgotten = generation, ping
                return True
            self._doubts.settle(refused.status, asked_s + DOUBT_PAUSE_S)
            return False

    async def _refusal_of_ping(self) -> Refused | None:
        """How the server refuses a ping in the present session; None when it does not, or gives no answer."""
        request_id = next(self._ids)
        body = RequestBody(jsonrpc.encode_request(request_id, PING, None), harmless=True)
        on_message = self._receiver(jsonrpc.NO_TOKEN, None, self._on_server_request)
        try:
            async with asyncio.timeout(DOUBT_TIMEOUT_S):
                message, _ = await exchange(self._pool, body, self._headers, request_id, on_message, route=self._route)
            self._without_doubt(message)
        except HttpRefusal as exc:
            return exc.refused
        except (CallFailed, LinkFailed, TimeoutError):
            return None
        return None

    async def _sent_again(self, send: Callable[[], Awaitable[Json]], method: str) -> Json:
        """Send in the session that was opened for it. Raises `CallNotSent` where that one is forgotten already."""
        try:
            return await send()
        except CallNotSent as exc:
            exc.nothing_sent = False  # It forgot the session before, and has opened another.
            raise
        except HttpRefusal as exc:
            refused = exc.refused
            if method != PING and refused.is_unexecuted and not isinstance(exc.as_failure(), AuthRefused):
                what = "forgot the session that was opened a moment before"
                raise CallNotSent.about(self._pool.where, what, f": {exc}") from exc
            if refused.standing is Standing.DOUBTFUL:
                pause_s = REFUSED_PINGS_PAUSE_S if method == PING else DOUBT_PAUSE_S
                self._doubts.settle(refused.status, clock.now_s() + pause_s)
            raise

    async def _renew(self, generation: int) -> None:
        """Open a new session unless another request has since `generation`. Raises `CallNotSent`, `AuthRefused`."""
        async with self._renewal:
            if self._generation != generation:
                return
            try:
                try:
                    await self.open()
                except HttpRefusal as exc:
                    if not exc.forgets_session:
                        raise
                    await self.open()  # It restarted again, right after our initialize.
            except AuthRefused as exc:
                self._lose(str(exc))
                raise
            except (RpcError, HttpRefusal, ProtocolBroken) as exc:
                refused = CallNotSent.about(self._pool.where, "forgot our session and refuses another", f": {exc}")
                self._lose(str(refused))
                raise refused from exc
            except (CallFailed, LinkFailed, TimeoutError) as exc:
                what, reason = "forgot our session; opening another failed", str(exc) or "it did not answer in time"
                raise noted(CallNotSent.about(self._pool.where, what, f": {reason}"), exc) from exc
            log.info("MCP session opened anew", extra={"where": self._pool.where})

    def _lose(self, reason: str) -> None:
        self.lost_reason = reason
        self.lost.set()

    async def _send_cancelled(self, request_id: int, method: str, body: RequestBody, reason: str) -> None:
        # In this era a closed connection does not cancel; only the notification does.
        if body.sent and method not in jsonrpc.NEVER_CANCELLED:
            with contextlib.suppress(LinkFailed, CallFailed, HttpRefusal, TimeoutError):
                async with asyncio.timeout(COURTESY_TIMEOUT_S):
                    await self._post(jsonrpc.encode_cancelled(request_id, reason))

    async def _post(self, data: bytes) -> None:
        """Send a message that has no answer."""
        response = await self._pool.post(RequestBody(data), self._headers, self._route)
        try:
            if response.status not in (202, 204):
                await check_status(response, self._pool)
        finally:
            response.close() if response.content_length else response.release()
