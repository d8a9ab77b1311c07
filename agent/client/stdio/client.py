"""The client to a child process: many requests in flight over one pair of pipes, matched by ID.

Opened by `agent.client.stdio.connect`; used through `agent.client.connect.McpClient` in both eras. Each
line of the child is routed in the loop turn in which it arrives; a request only waits for its own messages. The one
rule: the child's own requests, and messages that name no request of ours, go to the caller that the child was
started for; if all callers share the child, they go to no caller.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable

from agent.client import jsonrpc
from agent.client.capabilities import ASKED_FOR_ALL
from agent.client.event import Event
from agent.client.legacy_notifications import SessionLogs, SessionSubscriptions
from agent.client.negotiation import DISCOVER, PING, ModernStamp, without_envelope
from agent.client.pending import Pending, PendingRequests
from agent.client.protocol import Request, shown_s, why_lost
from agent.client.server_info import (
    ACKNOWLEDGE_TIMEOUT_S,
    ListenNotSupported,
    OnServerRequest,
    ServerInfo,
    listen_failure,
)
from agent.client.stdio.lines import LINE_BYTES_MAX, LineCutter
from agent.client.stdio.process import Child, start_child
from agent.client.streaming import HELD_BYTES_MAX, lift, pass_on_held
from agent.client.streams import LISTEN, Heard, ListChanges, Listening, Updates
from agent.errors import (
    CallFailed,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    ProtocolBroken,
    RpcError,
    Unreachable,
)
from agent.lossless_json.ends import Text
from agent.lossless_json.raw import answered_id, answered_id_of_ends
from agent.model import Era, Json, StdioTarget

log = logging.getLogger(__name__)


class StdioClient:
    """Requests, answers and notifications over one child. `open_stdio_client` negotiates and sets `server_info`.

    `on_server_request` takes what a legacy child asks, and `on_notice` what it tells that belongs to no request or
    list.

    Long because requests and notifications of both eras share one child and one table of what is open.
    """

    def __init__(
        self,
        label: str,
        client_name: str,
        *,
        on_server_request: OnServerRequest = jsonrpc.encode_reply,
        on_notice: Callable[[str, Json], None] = lambda _method, _params: None,
    ) -> None:
        self.label = label
        self.lost = Event()
        self.lost_reason = self.lost_what = ""
        self.junk_lines = 0
        self._child: Child | None = None
        self._server_info: ServerInfo | None = None
        self._stamp: ModernStamp | None = None
        self._client_name = client_name
        self._on_server_request = on_server_request
        self._ids = itertools.count(1)
        self._subscriptions = SessionSubscriptions(on_notice)
        self._pending = PendingRequests(self._subscriptions, on_notice)
        self._logs = SessionLogs()

    def __repr__(self) -> str:
        """The child, how much is in flight, and what it wrote that is no message."""
        return f"<StdioClient {self._child!r} {len(self._pending)} in flight, {self.junk_lines} junk lines>"

    @property
    def server_info(self) -> ServerInfo:
        """What the child said of itself."""
        assert self._server_info is not None, "the client is not open"
        return self._server_info

    @property
    def dropped_notifications(self) -> int:
        """How many notifications found no place or no owner."""
        return self._pending.dropped_notifications

    @property
    def child(self) -> Child:
        """The process behind."""
        assert self._child is not None, "the client is not open"
        return self._child

    async def start(self, target: StdioTarget) -> None:
        """Start the child. Raises `Unreachable`."""
        child = Child(self.label, LineCutter(self._on_line, self._on_too_long), self._on_end)
        self._child = child  # It may write, or end, before it counts as started.
        try:
            await start_child(target, child)
        except BaseException:
            self._child = None
            raise

    def adopt(self, server_info: ServerInfo) -> None:
        """Speak as `server_info` says from now on."""
        self._server_info = server_info
        self._stamp = (
            ModernStamp(server_info.protocol_version, self._client_name) if server_info.era is Era.MODERN else None
        )

    async def request(
        self,
        request: Request,
        *,
        on_server_request: OnServerRequest | None = None,  # noqa: ARG002 - a pipe does not say which request a question is about
    ) -> Json:
        """As `SessionClient.request`, but that pipes have no headers, and this is one child, chosen already.

        A large result has come whole before its sink gets any of it: one slow reader may not hold up the pipe.
        """
        request_id, method, on_notification = next(self._ids), request.method, request.on_notification
        timeout_s = request.left_s()
        pending = Pending(takes_notifications=on_notification is not None)
        sent_params, pending.token = jsonrpc.swap_progress_token(self._stamped(request.params), request_id)
        line = jsonrpc.encode_parts(request_id, method, sent_params)
        pending.takes_unread = request.sink is not None
        self._pending[request_id] = pending
        sent = answered = False  # What is answered needs no cancellation, and was sent all the same.
        try:
            async with asyncio.timeout_at(request.deadline_s) as deadline:
                if self._stamp is None:
                    await self._logs.show(request.params, self.server_info, self.request)
                while not self.child.can_write:
                    await self.child.wait_writable()
                sent, line = self._write(*line), ()
                if on_notification is not None:
                    await pending.hand_on(on_notification)
                message = await pending.response
                answered = True
                if message is not None and isinstance(held := message.get(jsonrpc.UNREAD), bytes):
                    assert request.sink is not None, "it takes what is unread"
                    lift(deadline, request.sink)
                    message = await pass_on_held(held, request_id, self.label, request.sink)
        except TimeoutError as exc:
            self._tell_cancelled(request_id, method, "the deadline passed", sent=sent and not answered)
            if not sent:
                raise CallNotSent.about("the server", f"does not read its input; {method} was not sent") from exc
            what = f"did not answer {method} within {shown_s(timeout_s)}"
            raise CallTimedOut.about("the server", what) from exc
        except asyncio.CancelledError:
            self._tell_cancelled(request_id, method, "the caller went away", sent=sent and not answered)
            raise
        finally:
            del self._pending[request_id]
            pending.response.cancel()
        return self._result_of(message)

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:
        """Send the answer to a request of the child's own. Raises `CallOutcomeUnknown`: it may never hear it."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.child.can_write:
                    await self.child.wait_writable()
            self._write(reply)
        except (TimeoutError, CallNotSent) as exc:
            what, reason = "could not be sent the client's answer", str(exc) or "it took too long"
            raise CallOutcomeUnknown.about(self.label, what, f": {reason}") from exc

    quiet = None

    @property
    def lists_by_session(self) -> bool:
        """As `McpClient.lists_by_session`: one child has one session."""
        return False

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """As `McpClient.hear_sessions`: there are none."""

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`: a modern child is asked for a subscription, and may tell without one."""
        self._subscriptions.listeners.add(on_change)
        try:
            if self._stamp is not None:
                await self._subscribe(on_change)
            on_change("listening")
            await self.lost.wait()
            raise why_lost(self)
        finally:
            self._subscriptions.listeners.discard(on_change)

    async def _subscribe(self, on_change: Callable[[str], None]) -> None:
        """Hold a subscription to list changes; returns when the child gives none. Raises `Unreachable` at its end."""
        try:
            await self._listen(ListChanges(on_change))
        except ListenNotSupported:
            return
        except RpcError as exc:
            failure = listen_failure(exc)
            if not isinstance(failure, ListenNotSupported):
                raise failure from exc

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`."""
        if self._stamp is not None:
            await self._listen(updates)
        await self._subscriptions.follow(updates, self.request)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        try:
            method, params = (DISCOVER, ASKED_FOR_ALL) if self._stamp is not None else (PING, None)
            await self.request(Request.within(method, params, timeout_s=timeout_s))
        except RpcError:
            return
        except CallFailed as exc:
            raise Unreachable(str(exc)) from exc

    async def close(self) -> None:
        """End the child and all it started; what is in flight fails. At most 6 s."""
        if self._child is not None:
            await self._child.stop()

    def notify(self, method: str) -> None:
        """Send a notification without params. Raises `CallNotSent`."""
        self._write(jsonrpc.encode_notification(method))

    def ask(self, method: str, params: Json) -> asyncio.Future[Json | None]:
        """Send a request of the negotiation; the future gives its response, or None when the child ended first."""
        request_id = next(self._ids)
        pending = self._pending[request_id] = Pending()
        try:
            self._write(jsonrpc.encode_request(request_id, method, params))
        except CallNotSent:
            pending.response.set_result(None)
        pending.response.add_done_callback(lambda _: self._pending.pop(request_id, None))
        return pending.response

    async def _listen(self, listening: Listening) -> None:
        """Hold one `subscriptions/listen` request; always ends with an exception."""
        request_id = next(self._ids)
        pending = self._pending[request_id] = Pending()
        heard = Heard(listening)
        pending.listener = heard.take
        pending.response.add_done_callback(lambda _: heard.word.set())
        try:
            self._write(jsonrpc.encode_request(request_id, LISTEN, self._stamped(listening.params)))
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                await heard.word.wait()
            if heard.refusal is not None:
                raise heard.refusal
            self._result_of(await pending.response)
            raise Unreachable("the server ended the stream of changes")
        except TimeoutError as exc:
            raise Unreachable("the server did not acknowledge the subscription in time") from exc
        except CallFailed as exc:
            raise Unreachable(str(exc)) from exc
        finally:
            answered = pending.response.done() and not pending.response.cancelled()
            self._tell_cancelled(request_id, LISTEN, "no subscriber is left", sent=not answered)
            del self._pending[request_id]
            pending.response.cancel()

    def _result_of(self, message: Json | None) -> Json:
        if message is None:
            raise self.child.ended_as(CallOutcomeUnknown)
        return jsonrpc.result_of(message)

    def _stamped(self, params: Json | None) -> Json | None:
        return self._stamp.params(params) if self._stamp is not None else without_envelope(params)

    def _write(self, *line: Text) -> bool:
        if not self.child.write(*line):
            raise self.child.ended_as(CallNotSent)
        return True

    def _tell_cancelled(self, request_id: int, method: str, reason: str, *, sent: bool) -> None:
        if sent and not self.lost.is_set() and method not in jsonrpc.NEVER_CANCELLED:
            self.child.write(jsonrpc.encode_cancelled(request_id, reason))

    def _on_line(self, line: bytes) -> None:
        if len(line) > HELD_BYTES_MAX and self._left_unread(line):
            return
        try:
            message = jsonrpc.decode(line)
        except ProtocolBroken:
            # Libraries print to stdout; a log line among the messages does no harm.
            self.junk_lines += 1
            self.child.printed(line)
            log.debug("MCP server wrote a line that is no message", extra={"server": self.label})
            return
        if "method" not in message:
            self._pending.take_response(message)
        elif jsonrpc.is_request(message):
            reply = self._on_server_request(message)
            if reply is not None and self.child.can_write:  # One that asks but does not read may not fill our memory.
                self.child.write(reply)
        else:
            self._pending.take_notification(message)

    def _left_unread(self, line: bytes) -> bool:
        """Whether a large line need not be read here."""
        if jsonrpc.is_too_large(line):
            log.warning("MCP notification dropped, larger than the limit", extra={"server": self.label})
            return True
        request_id = answered_id(line)
        pending = None if request_id is None else self._pending.get(request_id)
        if request_id is None or pending is None or not pending.takes_unread:
            return False
        pending.settle({"id": request_id, jsonrpc.UNREAD: line})
        return True

    def _on_too_long(self, head: bytes, tail: bytes | None) -> bool:
        """Fail the call that a line answers which is too long to be held; any other call than that goes on.

        Where several calls are open and the line does not show its ID, each keeps its deadline: the wrong one must not
        fail.
        """
        request_id = answered_id_of_ends(head, tail)
        if request_id is None and tail is not None and head.lstrip().startswith(b"{") and b'"method"' not in head:
            calls = [known for known, pending in self._pending.items() if pending.listener is None]
            request_id = calls[0] if len(calls) == 1 else None
        pending = None if request_id is None else self._pending.get(request_id)
        if request_id is None or pending is None:
            if tail is not None:
                log.warning("MCP message dropped, larger than the limit", extra={"server": self.label})
            return False
        what = f"answered with a message of more than {LINE_BYTES_MAX} bytes"
        pending.settle(jsonrpc.unreadable(request_id, self.label, what))
        return True

    def _on_end(self) -> None:
        how = self.child.ended_as(Unreachable)
        self.lost_reason, self.lost_what = str(how), how.what
        self.lost.set()
        self._pending.end(self.lost_reason)
