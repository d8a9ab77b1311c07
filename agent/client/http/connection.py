"""One HTTP/1.1 connection: a request goes out, its answer is read, one exchange after the other.

Used by `agent.client.http.pool` alone, which dials and reuses connections; the clients get `Response`. A connection is
idle, or waits for the head of an answer, or for the rest of its body, or is over: after its first failure, an answer
that says so, or an unexpected byte. The one rule: only a connection that is idle and clean is used again, so that no
byte of one answer can ever be taken for the next.
"""

import asyncio
import errno
import os
import select
import socket
from typing import Final, Protocol, cast

from agent.client.http.answer import (
    ANSWER_GIVEN_UP,
    BadAnswer,
    Body,
    ConnectionBroken,
    Head,
    KnownHead,
    NotHttp,
    Taker,
    begins_usual,
    end_of_head,
    parsed_head,
    whole_answer,
)
from agent.client.http.large_request import UNREAD_BYTES_MAX, LargeRequest
from agent.client.http.received import Response
from agent.client.http.silence import is_silence
from agent.client.http.waiting import shared_waiting
from agent.turns import turn_of

# What may wait for a slow reader is twice this, 256 KiB; then we stop taking bytes from the socket.
_LOW_WATER_BYTES: Final = 128 * 1024
# Below this, copying a body behind its head is cheaper than a second system call. A larger one goes out in such parts,
# as the socket takes them: of what it does not take, asyncio would make a copy.
_ONE_WRITE_BYTES: Final = 256 * 1024
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_SWITCHING_PROTOCOLS: Final = 101


def unbind(transport: asyncio.BaseTransport | None) -> None:
    """Let a transport that is over go: Python 3.11 leaves it bound to itself, for the collector; 3.12 does this."""
    if transport is not None and hasattr(transport, "_read_ready_cb"):
        transport._read_ready_cb = None  # noqa: SLF001 - there is no other way


class ConnectionOwner(Protocol):
    """The pool of a connection."""

    def take_back(self, connection: "Connection") -> None:
        """It is idle."""
        ...

    def forget(self, connection: "Connection") -> None:
        """It is over."""
        ...


class Connection(asyncio.Protocol):
    """See the module. Written by the event loop and by the one exchange that is under way.

    Its owner's `take_back` is called when an exchange is over and another may follow, `forget` once, when none may
    follow any more.

    Long because the exchange, its answer and the end of the connection share one state.
    """

    __slots__ = (
        "_batch",
        "_body",
        "_closing",
        "_held",
        "_is_full",
        "_known",
        "_large",
        "_loop",
        "_owner",
        "_paused",
        "_poll",
        "_response",
        "_taker",
        "_transport",
        "_turn",
        "_unsent",
        "_waiting",
        "failure",
        "is_asked",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        self.failure: ConnectionBroken | None = None
        self.is_asked = False
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self._taker: Taker | None = None
        self._held = b""  # The beginning of a head.
        self._known: KnownHead | None = None  # Of the last answer to a request that was started.
        self._response: Response | None = None
        self._body: Body | None = None
        self._closing = False
        self._paused = False
        self._is_full = False  # The socket takes no more for now.
        self._large: LargeRequest | None = None  # The request under way, which has more time to be read.
        self._unsent: memoryview | None = None  # Of a large body.
        self._batch = 0  # Of the request that was started, in the turn of the event loop.
        self._poll: select.poll | None = None  # Of one that was used before.

    def __repr__(self) -> str:
        if self.failure is not None:
            return f"<Connection over: {self.failure}>"
        if self._response is not None:
            return "<Connection reads an answer>"
        return f"<Connection {'idle' if self._waiting is None and self._taker is None else 'waits for an answer'}>"

    # The exchange

    @property
    def is_waited_for(self) -> bool:
        """Whether an answer, or the rest of one, is."""
        return self._taker is not None or self._waiting is not None or self._response is not None

    def is_dead(self, *, used_before: bool) -> bool:
        """Whether it is over, or the kernel already knows so though the event loop has not read it yet.

        On one that was used before, unexpected bytes mean the same; not with TLS, where they may be no application
        data.
        """
        transport = self._transport
        if self.failure is not None or transport is None or transport.is_closing():
            return True
        if used_before and self._poll is not None:
            return bool(self._poll.poll(0))
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        plain = transport.get_extra_info("sslcontext") is None
        poll = select.poll()
        poll.register(sock.fileno(), _HUNG_UP | select.POLLIN if used_before and plain else _HUNG_UP)
        if used_before:
            self._poll = poll
        return bool(poll.poll(0))

    async def exchange(self, head: bytes, body: bytes) -> Response:
        """Write a request, from its first byte on before anything is awaited, and wait for the answer's head.

        Only for a connection that is idle and not dead. When cancelled, the connection is closed.

        Raises:
            ConnectionBroken: No answer will come.
            NotHttp: What came is no answer.
        """
        self._write(head, body)
        self._waiting = self._loop.create_future()
        return await self.answer()

    def start(self, head: bytes, body: bytes, taker: Taker) -> None:
        """Write a request whose answer `taker` gets, if it is usual and comes whole. As for `exchange`."""
        assert self._transport is not None, "exchange on a connection that is over"
        assert self._waiting is None, "exchange during another"
        assert self._taker is None, "exchange during another"
        if len(body) > UNREAD_BYTES_MAX:
            self._wait_for_reader()
        turn = self._turn
        self._batch = turn.written
        turn.write(self._transport, head + body)
        self._taker = taker

    def _write(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None, "exchange on a connection that is over"
        assert self._waiting is None, "exchange during another"
        assert self._taker is None, "exchange during another"
        assert self._response is None, "exchange during another"
        if len(body) > UNREAD_BYTES_MAX:
            self._wait_for_reader()
        if len(body) < _ONE_WRITE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._write_on()

    @property
    def waits(self) -> bool:
        """As `MayWait.waits`. One that is lent does."""
        is_idle = self._waiting is None and self._taker is None and self._response is None
        return not is_idle or (self._transport is not None and self._transport.get_protocol() is not self)

    @property
    def sock(self) -> socket.socket | None:
        """As `MayWait.sock`."""
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        return sock if sock is not None and sock.fileno() >= 0 else None

    def _wait_for_reader(self) -> None:
        if (sock := self.sock) is not None:
            self._large = LargeRequest(sock, self._is_unheard)

    def _is_unheard(self) -> None:
        self.abort(ConnectionBroken(f"cannot be reached: {os.strerror(errno.ETIMEDOUT)}", silent=True))

    def _read_by_now(self) -> None:
        large, self._large = self._large, None
        if large is not None:
            large.end()

    def _write_on(self) -> None:
        """Write of a large body what the socket takes."""
        while self._unsent is not None and self._transport is not None and not self._is_full:
            part, rest = self._unsent[:_ONE_WRITE_BYTES], self._unsent[_ONE_WRITE_BYTES:]
            self._unsent = rest if len(rest) else None
            self._transport.write(part)

    def wait(self) -> None:
        """The answer to the request that was started is waited for from now on, by `answer`, which has to be called."""
        self._taker, self._waiting = None, self._loop.create_future()
        if self._held:
            held, self._held = self._held, b""
            self.data_received(held)

    async def answer(self) -> Response:
        """As `exchange`, of a request that has gone out."""
        waiting = self._waiting
        assert waiting is not None, "a request has gone out"
        try:
            response = await waiting
        except asyncio.CancelledError:
            self.abort(ConnectionBroken(ANSWER_GIVEN_UP))
            raise
        finally:
            self._waiting = None
        if response.whole is None or self.failure is not None:
            response.begin(self)
        else:
            self.finish()
        return response

    def finish(self) -> None:
        """The answer is complete: be idle, unless this connection has to end with it."""
        transport = self._transport
        self._response = self._body = None
        if self.failure is None and transport is not None:
            # An answer that came before the whole request went out leaves the rest of it in the way of the next.
            is_unsent = self._unsent is not None or transport.get_write_buffer_size()
            if self._closing or transport.is_closing() or is_unsent:
                self.abort(ConnectionBroken("closed the connection"))
            else:
                if self._paused:  # Its last bytes were too many for a slow reader; the next answer is another one.
                    self.resume_reading()
                if self._large is not None:
                    self._read_by_now()
                self._owner.take_back(self)

    def abort(self, failure: ConnectionBroken) -> None:
        """End it at once, whatever is under way; the first reason stays. What was received whole can still be read."""
        self._read_by_now()
        if self._taker is not None:
            self._taker.wait()
        if self.failure is None:
            self.failure = failure
            self._owner.forget(self)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(failure)
        response, self._response, self._body, self._held = self._response, None, None, b""
        self._unsent = None
        if response is not None and not response.is_complete:
            response.fail(failure)
        if self._transport is not None:
            self._transport.abort()  # Not `close`: that first writes what is left of a request, however long it takes.

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        shared_waiting().add(self)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        if self.failure is not None:
            return
        if self._taker is not None:
            self._give(self._taker, self._held + data if self._held else data)
            return
        waiting = self._waiting
        if self._response is None and waiting is not None and not self._held and not waiting.done():
            usual = whole_answer(data)
            if usual is not None and usual.proof is None:
                self._closing = False
                self._response = response = Response(usual.head.status, usual.head.headers, usual.body)
                waiting.set_result(response)
                return
        try:
            if self._response is None:
                data = self._take_head(data)
            if data and self._response is not None:
                if self._body is None:
                    self.abort(NotHttp("sent more than one answer to a request"))
                else:
                    self._take_body(self._response, self._body, data)
        except BadAnswer as exc:
            self.abort(NotHttp(f"does not speak HTTP: {exc}"))

    def pause_writing(self) -> None:
        """As `asyncio.Protocol`."""
        self._is_full = True

    def resume_writing(self) -> None:
        """As `asyncio.Protocol`."""
        self._is_full = False
        self._write_on()

    def _give(self, taker: Taker, data: bytes) -> None:
        """What has come of an answer that is not waited for."""
        if self._batch == self._turn.written:  # It has not gone out yet.
            self.abort(NotHttp("spoke without being asked"))
            return
        whole = whole_answer(data, self._known)
        if whole is not None:
            self._known = whole.known
            self._taker, self._closing, self._held = None, False, b""
            self.finish()
            taker.take(whole)
            return
        self._held = data
        if not begins_usual(data):
            taker.wait()

    def _take_head(self, data: bytes) -> bytes:
        """What follows the head of the final answer. Raises `BadAnswer`."""
        if self._waiting is None or self._waiting.done():
            self.abort(NotHttp("spoke without being asked"))
            return b""
        if self._held:
            data = self._held + data
        while (end := end_of_head(data)) is not None:
            head, data = parsed_head(data[:end]), data[end:]
            if head.status == _SWITCHING_PROTOCOLS:
                self.abort(NotHttp("does not speak HTTP: it changes to another protocol"))
                return b""
            if head.is_final:
                self._begin(head)
                return data
        self._held = data
        return b""

    def _begin(self, head: Head) -> None:
        assert self._waiting is not None, "an answer was waited for"
        self._held = b""
        self._closing = head.closing
        body = self._body = Body(head)
        response = self._response = Response(head.status, head.headers)
        if body.is_over:
            response.complete()
        self._waiting.set_result(response)

    def _take_body(self, response: Response, body: Body, data: bytes) -> None:
        """Raises `BadAnswer`."""
        parts, rest = body.fed(data)
        if parts:
            response.feed(parts)
            if response.unread_bytes > 2 * _LOW_WATER_BYTES:
                self._pause_reading()
        if body.is_over and not response.is_complete:
            response.complete()
        if rest:
            self.abort(NotHttp("sent more than one answer to a request"))

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        transport, self._transport = self._transport, None
        shared_waiting().discard(self)
        unbind(transport)
        if self._taker is not None:
            self._taker.wait()
        response, body = self._response, self._body
        if response is not None and body is not None and exc is None and body.may_end_with_connection:
            response.complete()  # The end of a body without a length, and of that alone.
        if self._waiting is not None and not self._waiting.done():
            reason = f"cannot be reached: {getattr(exc, 'strerror', None) or exc}" if exc is not None else ""
            what = reason or "closed the connection without an answer"
        else:
            what = "broke off in the middle of its answer"
        self.abort(ConnectionBroken(what, silent=is_silence(exc)))

    # While another reads in its place

    @property
    def body(self) -> Body | None:
        """Of the answer that is under way, what is still to come."""
        return self._body

    def lend(self, reader: asyncio.Protocol) -> asyncio.Transport | None:
        """Let `reader` get all that comes, until `reads_again`. Returns the transport, None where that is over."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return None
        self._response = self._body = self._poll = None
        transport.set_protocol(reader)
        self.resume_reading()
        return transport

    def reads_again(self) -> bool:
        """Get what comes itself; whether another request may be sent. It may have been lent for long."""
        transport = self._transport
        if transport is None:
            return False
        transport.set_protocol(self)
        return not (transport.is_closing() or self._unsent is not None or transport.get_write_buffer_size())

    # For the reader of a body

    def _pause_reading(self) -> None:
        """Take no more bytes from the socket: the reader is slower than the server."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
