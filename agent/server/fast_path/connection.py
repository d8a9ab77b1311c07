"""One client's connection on the fast path: a request comes whole, its handler runs, its answer goes out in one write.

Made by `agent.server.fast_path.serving` for each connection that is accepted. The first bytes that are anything else,
and all that follow, go to aiohttp's own protocol, which has the connection from then on. The one rule: a request gets
the same handlers, and an answer the same bytes, as it would from aiohttp.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter
from aiohttp.tcp_helpers import tcp_keepalive

from agent import clock
from agent.authority.caller import Caller
from agent.client.http.connection import unbind
from agent.server.fast_path.answers import Answers
from agent.server.fast_path.heads import Beginning, Head, Heads, Judged
from agent.server.fast_path.whole_body import WholeBody
from agent.server.write_deadline import AT_ONCE_BYTES_MAX, WRITE_TIMEOUT_S, drop, in_time
from agent.turns import turn_of

if TYPE_CHECKING:
    from aiohttp.web_urldispatcher import UrlMappingMatchInfo

log = logging.getLogger(__name__)

# A body that comes in parts is waited for here up to this size, and so are requests that are sent ahead: what aiohttp's
# reader holds too. Its sender has not shown a token yet.
HELD_BYTES_MAX: Final = 128 << 10
# What comes more slowly is aiohttp's, where bodies have a time limit (`agent.server.request`).
PARTS_WITHIN_S: Final = 5.0
# Longer than proxies and balancers keep theirs (Google's 600 s is the longest default): whose end closes first must not
# lose the other's next request. Where there is no room, less (`agent.app.first_bytes`).
IDLE_MAX_S: Final = 650.0

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
# What goes on with a request that was begun without a task.
HandlerOf: TypeAlias = Callable[["FastRequest"], Handler]
# Takes a connection away at a boundary between requests, with the bytes that have come, and says whether it did; what
# they begin with, where that is a whole request of the fast path.
Elsewhere: TypeAlias = Callable[["Connection", Beginning | None, bytes], bool]


class Unwaited(Protocol):
    """A request under way without a task (`Head.start`). It ends with `Connection.answer`, or `Connection.go_on`."""

    def leave(self) -> None:
        """Go on in a task: `Connection.go_on` is called before this returns."""
        ...


# Serves a request of the caller without a task, if it can: it then has the connection until it ends.
Start: TypeAlias = Callable[["Connection", Beginning, bytes, Caller], Unwaited | None]


class ServedElsewhere(Exception):
    """The request was not executed here and has no answer: another process is to serve it (`agent.workers`)."""


class Owner(Protocol):
    """What a connection needs of what made it (`agent.server.fast_path.serving`)."""

    heads: Heads
    answers: Answers
    connections: set["Connection"]
    elsewhere: Elsewhere | None

    def start(self, connection: "Connection", beginning: Beginning, body: bytes) -> Unwaited | None:
        """Serve a request without a task; None where it needs one."""
        ...

    def handle(self, request: "FastRequest") -> Awaitable[web.StreamResponse]:
        """Answer a request."""
        ...

    def go_on(self, request: "FastRequest", handler_of: HandlerOf) -> Awaitable[web.StreamResponse]:
        """Answer a request that was begun without a task. `handler_of` is called before this returns."""
        ...

    def left(self, request: "asyncio.Task[None]") -> None:
        """Note that the client of this request has gone, and that it has not ended yet."""
        ...

    def other_protocol(self) -> asyncio.Protocol:
        """A new protocol of aiohttp, for what is not served here."""
        ...


class _Sent(web.Response):
    """Stands for an answer that has gone out whole."""

    @property
    def prepared(self) -> bool:
        """That it was begun, as aiohttp knows it."""
        return True


SENT: Final = _Sent()


class FastRequest(web.Request):
    """A request whose head is remembered, so that its own length stands beside it. `whole_body`: all that it has."""

    ATTRS = web.Request.ATTRS | frozenset(
        {"head", "whole_body", "connection", "proof", "judged", "writer_made", "_payload_writer"}
    )

    def __init__(self, connection: "Connection", beginning: Beginning, body: bytes, loop: Any) -> None:
        reader: Any = WholeBody(body)  # Not cast, which is a call.
        protocol: Any = connection
        task: Any = None
        writer: Any = None
        self.writer_made: AbstractStreamWriter | None = None  # Of aiohttp, where that writes its answer.
        super().__init__(beginning.head.message, reader, protocol, writer, task, loop)
        self.head: Head = beginning.head
        self.connection = connection
        self.whole_body = body
        self.proof = beginning.proof
        self.judged, connection.judged = connection.judged, None

    @property
    def _payload_writer(self) -> AbstractStreamWriter:
        """That of aiohttp, made when it is asked for: most answers go out without it."""
        if self.writer_made is None:
            self.writer_made = StreamWriter(self.connection, self._loop)
        return self.writer_made

    @_payload_writer.setter
    def _payload_writer(self, given: AbstractStreamWriter) -> None:
        self.writer_made = given

    @property
    def content_length(self) -> int:
        """Of its body, in bytes."""
        return len(self.whole_body)

    def begun(self, task: "asyncio.Task[None]") -> None:
        """Note the task that it is handled in."""
        self._task = task

    def ended(self) -> None:
        """Forget the task: one that was cancelled refers to the request, a circle for the garbage collector."""
        self._task = None  # type: ignore[assignment]  # of a request that is over, which aiohttp reads no more

    def take_route(self, route: "UrlMappingMatchInfo") -> None:
        """Note where it leads, which aiohttp finds anew for each request."""
        self._match_info = self.head.route = route


class Connection(BaseProtocol):
    """See the module. Its last three attributes are what aiohttp's requests ask of their protocol.

    Long because what may become of a connection depends on what has come of its next request.
    """

    __slots__ = (
        "_ending",
        "_held",
        "_idle_since_s",
        "_last",
        "_owner",
        "_request",
        "_turn",
        "_unwaited",
        "_write",
        "judged",
        "moved",
        "peername",
        "sockname",
        "ssl_context",
    )

    def __init__(self, owner: Owner) -> None:
        super().__init__(asyncio.get_running_loop())
        self._turn = turn_of(self._loop)
        self._write: Callable[[asyncio.WriteTransport, bytes], None] = self._turn.write  # A whole answer.
        self._owner = owner
        self._request: asyncio.Task[None] | None = None
        self._unwaited: Unwaited | None = None  # The request under way, while it has no task.
        self._last: Head | None = None  # Of the last request: the next one most likely has the same.
        self.judged: Judged | None = None  # Of the request under way, if that was found already.
        self._held = b""
        self.moved: Any = None  # What the owner's `elsewhere` remembers of this connection.
        self._ending = False
        self._idle_since_s = clock.now_s()
        self.ssl_context: Any = None
        self.peername = self.sockname = self.ssl_context

    def __repr__(self) -> str:
        return f"<Connection {'serves a request' if self._is_busy else 'idle'}>"

    @property
    def _is_busy(self) -> bool:
        return self._request is not None or self._unwaited is not None

    @property
    def request(self) -> "asyncio.Task[None] | None":
        """The request under way, if one is."""
        return self._request

    def hold(self, data: bytes | None = None) -> bytes:
        """What has come of a request that is not whole, or that waits for its turn; `data` in its place, if given."""
        self._held = self._held if data is None else data
        return self._held

    @property
    def idle_since_s(self) -> float | None:
        """Since when nothing has come; None while a request is under way."""
        return None if self._is_busy else self._idle_since_s

    def end(self) -> None:
        """Close it, as soon as the request under way is answered, or the one that has begun to come."""
        if self._held and not self._is_busy:
            self._hand_over(self._held)
        elif not self._is_busy:
            self.abort()
        self._ending = True

    def abort(self) -> None:
        """Close it now. The event loop cancels the request under way."""
        if self.transport is not None:
            self._turn.end()  # Its last answer.
            self.transport.close()
        self._cancel()

    def sweep(self, now_s: float) -> None:
        """Let aiohttp have what comes slowly, and close what was idle for too long. Called every few seconds."""
        if self._is_busy:
            return
        if self._held and self._idle_since_s + PARTS_WITHIN_S < now_s:
            self._hand_over(self._held)
        elif self._idle_since_s + IDLE_MAX_S < now_s:
            self.abort()

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        super().connection_made(transport)
        tcp_keepalive(cast("asyncio.Transport", transport))
        self.ssl_context = transport.get_extra_info("sslcontext")
        self.peername = transport.get_extra_info("peername")
        self.sockname = transport.get_extra_info("sockname")
        self._owner.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """As `asyncio.Protocol`. A client that has gone cancels its request's handler, as with aiohttp."""
        unbind(self.transport)
        super().connection_lost(exc)
        self._owner.connections.discard(self)
        self._held = b""  # What it had sent ahead is not begun any more.
        self._cancel()
        if self._request is not None:
            self._owner.left(self._request)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        if self._held:
            data = self._held + data
        if self._request is None and self._unwaited is None:
            self._take(data)
            return
        self._held = data
        if len(data) > HELD_BYTES_MAX and not self._buffer_paused:
            self._pause_reading_for_buffer()

    # Requests

    def _take(self, data: bytes) -> None:
        """Serve the request that `data` begins with, or wait for the rest of it, or let aiohttp have it."""
        last = self._last
        known = None if last is None or last.same is None else last.same.again(data, last)
        beginning = known or self._owner.heads.read(data)
        if beginning is None:
            self._hand_over(data)
            return
        self._last = beginning.head
        end = beginning.head_bytes + beginning.body_bytes
        if len(data) < end:
            if end > HELD_BYTES_MAX:
                self._hand_over(data)
            else:
                if not self._held:  # Each part must not begin the time anew.
                    self._idle_since_s = clock.now_s()
                self._held = data
            return
        elsewhere = self._owner.elsewhere
        if elsewhere is not None and elsewhere(self, beginning, data):
            return
        body = data[beginning.head_bytes : end]
        self._held = data[end:]
        if beginning.head.start is not None:
            self._unwaited = self._owner.start(self, beginning, body)
            if self._unwaited is not None:
                return
        self._run(FastRequest(self, beginning, body, self._loop))

    def _run(self, request: FastRequest, answer: Awaitable[web.StreamResponse] | None = None) -> None:
        self._request = task = self._loop.create_task(self._serve(request, answer), name="MCP request")
        request.begun(task)

    async def _serve(self, request: FastRequest, answer: Awaitable[web.StreamResponse] | None) -> None:
        try:
            try:
                response = await (self._owner.handle(request) if answer is None else answer)
            except web.HTTPException as exc:
                response = exc  # As aiohttp does: it is an answer as well.
            if response is not SENT:
                await in_time(request, response)
                if not self._is_written(request, response):
                    await response.prepare(request)
                    await response.write_eof()
                self._ending |= response.keep_alive is False
        except ConnectionError:
            self._ending = True  # The client has gone.
        except ServedElsewhere:
            elsewhere, held, self._held = self._owner.elsewhere, self._held, b""
            self._ending |= elsewhere is None or not elsewhere(self, None, held)
        except Exception:  # one request's failure must not end in silence, nor its connection be used again
            log.exception("MCP request failed")
            self._ending = True
        finally:
            self._request = None
            request.ended()
            self._go_on()

    def go_on(self, beginning: Beginning, body: bytes, handler_of: HandlerOf) -> None:
        """Answer the request under way, which had no task, in one. `handler_of` is called before this returns."""
        self._unwaited = None
        # A context of its own: whatever has called this goes on in that one.
        copy_context().run(self._go_on_with, FastRequest(self, beginning, body, self._loop), handler_of)

    def _go_on_with(self, request: FastRequest, handler_of: HandlerOf) -> None:
        self._run(request, self._owner.go_on(request, handler_of))

    def leave(self) -> None:
        """Have the request under way go on in a task, if it has none."""
        if self._unwaited is not None:
            self._unwaited.leave()

    def _cancel(self) -> None:
        """Cancel the request under way."""
        self.leave()
        if self._request is not None:
            # One that is cancelled before its first step would not know how to end what it has begun.
            self._loop.call_soon(self._request.cancel)

    def answer(self, body: bytes) -> bool:
        """End the request under way, which has no task, with a result in JSON; False where its client makes us wait."""
        if not self.sent(None, body, None if self.judged is None else self.judged.proof, bytes_max=HELD_BYTES_MAX):
            return False
        self._unwaited = self.judged = None
        transport = self.transport if len(body) > AT_ONCE_BYTES_MAX else None
        if transport is not None and transport.get_write_buffer_size() > AT_ONCE_BYTES_MAX:
            self._request = self._loop.create_task(self._taken_in_time(), name="MCP answer")
        else:
            self._go_on()
        return True

    async def _taken_in_time(self) -> None:
        """Go on when the client has taken most of its answer; drop one that takes nothing of it."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._drain_helper()
        except (TimeoutError, ConnectionError) as exc:
            if isinstance(exc, TimeoutError):
                drop(self.transport)
            self._ending = True
        finally:
            self._request = None
            self._go_on()

    def sent(
        self,
        request: FastRequest | None,
        body: bytes,
        proof: str | None = None,
        *,
        bytes_max: int = AT_ONCE_BYTES_MAX,
    ) -> bool:
        """Send a result in JSON, where the client takes it at once; False: it has to be answered with a response.

        `request`: None for one that passed by its head, but for a proof. `proof`: what its answer shows.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or len(body) > bytes_max or transport.get_write_buffer_size():
            return False  # Not in the least where its reader has not taken earlier answers.
        whole = self._owner.answers.composed(request, 200, "application/json", body, proof=proof)
        if whole is None:
            return False
        self._write(transport, whole)
        return True

    def _is_written(self, request: FastRequest, response: web.StreamResponse) -> bool:
        """Write an answer that is whole and usual."""
        transport, whole = self.transport, self._owner.answers.whole(request, response)
        if whole is None or transport is None or transport.is_closing():
            return False
        self._write(transport, whole)
        return True

    def _go_on(self) -> None:
        if self._ending:
            self.abort()
            return
        self._idle_since_s = self._loop.time()
        if self._held:
            held, self._held = self._held, b""
            self._take(held)
        if self._buffer_paused and len(self._held) <= HELD_BYTES_MAX:
            self._resume_reading_for_buffer()

    def give_away(self, give: Callable[[int], bool]) -> bool:
        """Have its descriptor taken, and forget it; False where an answer is still being read, or `give` does not."""
        self._turn.end()
        transport = self.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > 0:
            return False
        if not give(transport.get_extra_info("socket").fileno()):
            return False
        self._held = b""
        self._owner.connections.discard(self)
        transport.abort()  # Closes this process's descriptor: the connection itself goes on.
        return True

    def _hand_over(self, data: bytes) -> None:
        self._turn.end()
        elsewhere = self._owner.elsewhere
        if elsewhere is not None and not self._ending and elsewhere(self, None, data):
            return
        transport = self.transport
        if transport is None or self._ending:
            self.abort()
            return
        self._owner.connections.discard(self)
        self.transport, self._held = None, b""
        other = self._owner.other_protocol()
        transport.set_protocol(other)
        other.connection_made(transport)
        if self._buffer_paused:
            transport.resume_reading()
        other.data_received(data)
