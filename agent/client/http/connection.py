"""One HTTP/1.1 connection: a request goes out, its answer is read by aiohttp's parser, one exchange after the other.

Used by `agent.client.http.pool` alone, which dials and reuses connections; the clients get `Response`. A connection is
idle, or waits for the head of an answer, or for the rest of its body, or is over: after its first failure, an answer
that says so, or an unexpected byte. The one rule: only a connection that is idle and clean is used again, so that no
byte of one answer can ever be taken for the next.
"""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, cast

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser

from agent.client.http.coding import BadCoding, Unpacker

if TYPE_CHECKING:
    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.streams import StreamReader
    from multidict import CIMultiDictProxy


# What may wait for a slow reader is twice this, 256 KiB; then we stop taking bytes from the socket.
_LOW_WATER_BYTES: Final = 128 * 1024
# Below this, copying a body behind its head is cheaper than a second system call.
_ONE_WRITE_BYTES: Final = 256 * 1024
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_SWITCHING_PROTOCOLS: Final = 101
_FIRST_FINAL_STATUS: Final = 200


class ConnectionBroken(ConnectionError):
    """The connection ended before the answer was complete. The text reads on after the server's name."""


class NotHttp(ConnectionBroken):
    """The bytes are not valid HTTP/1.1, so the end of an answer cannot be known."""


class Response:
    """An answer, from the moment its head is there. `content` is read as it comes; `status` is 200 to 599.

    The connection goes back by itself when the body is complete; a reader that stops early calls `close`. `content` is
    as it was sent: where the body is compressed (`unpack`), `more` and `read` give what it was.
    """

    __slots__ = ("_connection", "_unpacker", "content", "headers", "status")

    def __init__(self, connection: "Connection", message: "RawResponseMessage", content: "StreamReader") -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self._connection: Connection | None = connection
        self._unpacker: Unpacker | None = None
        content.on_eof(self.release)

    def __repr__(self) -> str:
        return f"<Response {self.status} {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether it holds no connection any more: the body is complete, or the rest was given up."""
        return self._connection is None

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty when there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The declared length in bytes; None for a body that is compressed, chunked or ends with the connection."""
        declared = self.headers.get("Content-Length") if self._unpacker is None else None
        return int(declared) if declared is not None else None

    def unpack(self, coding: str) -> None:
        """Undo one of `CODINGS`; before anything is read."""
        self._unpacker = Unpacker(coding)

    async def more(self) -> bytes:
        """What has come of the body since, waiting for some; empty at its end. Raises `ConnectionBroken`."""
        if self._unpacker is None:
            return await self.content.readany()
        while True:
            try:
                part = self._unpacker.part()
            except BadCoding as exc:
                self.close()
                raise ConnectionBroken(str(exc)) from exc
            if part:
                await asyncio.sleep(0)  # A small body may be a large one: others have their turn.
                return part
            packed = await self.content.readany()
            if not packed:
                return b""
            self._unpacker.feed(packed)

    async def read(self) -> bytes:
        """The whole body, of a size that the caller knows. Raises `ConnectionBroken`."""
        if self._unpacker is not None:
            return b"".join([part async for part in self._parts()])
        return self.content.read_nowait() if self.content.is_eof() else await self.content.read()

    async def _parts(self) -> AsyncIterator[bytes]:
        while part := await self.more():
            yield part

    def release(self) -> None:
        """Give the connection back when the body is complete, else close it."""
        if self.content.is_eof():
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.finish()
        else:
            self.close()

    def close(self) -> None:
        """Give up the rest; a reader still waiting gets `ConnectionBroken`. Harmless at any time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort(ConnectionBroken("had its answer closed by us"))


class Connection(asyncio.Protocol):
    """See the module. Written by the event loop and by the one exchange that is under way.

    `finished` is called when an exchange is over and another may follow, `lost` once, when none may follow any more.
    """

    __slots__ = (
        "_closing",
        "_content",
        "_finished",
        "_head",
        "_loop",
        "_lost",
        "_parser",
        "_paused",
        "_transport",
        "failure",
    )

    def __init__(self, finished: Callable[["Connection"], None], lost: Callable[["Connection"], None]) -> None:
        self.failure: ConnectionBroken | None = None
        self._loop = asyncio.get_running_loop()
        self._finished = finished
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._head: asyncio.Future[tuple[RawResponseMessage, StreamReader]] | None = None
        self._content: StreamReader | None = None
        self._closing = False
        self._paused = False

    def __repr__(self) -> str:
        if self.failure is not None:
            return f"<Connection over: {self.failure}>"
        if self._head is not None:
            return "<Connection waits for an answer>"
        return f"<Connection {'idle' if self._content is None else 'reads an answer'}>"

    # The exchange

    def is_dead(self, *, used_before: bool) -> bool:
        """Whether it is over, or the kernel already knows so though the event loop has not read it yet.

        On one that was used before, unexpected bytes mean the same; not with TLS, where they may be no application
        data.
        """
        transport = self._transport
        if self.failure is not None or transport is None or transport.is_closing():
            return True
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        plain = transport.get_extra_info("sslcontext") is None
        poll = select.poll()
        poll.register(sock.fileno(), _HUNG_UP | select.POLLIN if used_before and plain else _HUNG_UP)
        return bool(poll.poll(0))

    async def exchange(self, head: bytes, body: bytes) -> Response:
        """Write a request, from its first byte on before anything is awaited, and wait for the answer's head.

        Only for a connection that is idle and not dead. When cancelled, the connection is closed.

        Raises:
            ConnectionBroken: No answer will come.
            NotHttp: What came is no answer.
        """
        assert self._transport is not None, "exchange on a connection that is over"
        assert self._head is None, "exchange during another"
        assert self._content is None, "exchange during another"
        self._parser = self._new_parser()
        waiting = self._head = self._loop.create_future()
        if len(body) < _ONE_WRITE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        try:
            message, content = await waiting
        except asyncio.CancelledError:
            self.abort(ConnectionBroken("had its answer closed by us"))
            raise
        finally:
            self._head = None
        return Response(self, message, content)

    def finish(self) -> None:
        """The answer is complete: be idle, unless this connection has to end with it."""
        transport = self._transport
        self._content = self._parser = None
        if self.failure is None and transport is not None:
            # An answer that came before the whole request went out leaves the rest of it in the way of the next.
            if self._closing or transport.is_closing() or transport.get_write_buffer_size():
                self.abort(ConnectionBroken("closed the connection"))
            else:
                self._finished(self)

    def abort(self, failure: ConnectionBroken) -> None:
        """End it at once, whatever is under way; the first reason stays. What was received whole can still be read."""
        if self.failure is None:
            self.failure = failure
            self._lost(self)
        if self._head is not None and not self._head.done():
            self._head.set_exception(failure)
        content, self._content, self._parser = self._content, None, None
        if content is not None and not content.is_eof():
            content.set_exception(failure)
        if self._transport is not None:
            self._transport.abort()  # Not `close`: that first writes what is left of a request, however long it takes.

    def _new_parser(self) -> HttpResponseParser:
        """One for each answer: it keeps every header, which an idle connection need not hold.

        It counts and bounds the head: 128 fields, 8,190 bytes each. Only what ends with the connection may lack a
        length. A compressed body is unpacked by its reader, which counts.
        """
        return HttpResponseParser(
            self,  # type: ignore[arg-type]  # it asks for aiohttp's own protocol and uses the last three members below
            self._loop,
            _LOW_WATER_BYTES,
            read_until_eof=True,
            auto_decompress=False,
        )

    # Callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        if self.failure is not None:
            return
        if self._parser is None or (self._content is not None and self._content.is_eof()):
            self.abort(NotHttp("spoke without being asked"))
            return
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            self.abort(NotHttp(f"does not speak HTTP: {_first_line(exc)}"))
            return
        for message, content in messages:
            if self._head is None or self._head.done():
                self.abort(NotHttp("sent more than one answer to a request"))
                return
            if message.code >= _FIRST_FINAL_STATUS:
                self._content = content
                self._closing = message.should_close
                self._head.set_result((message, content))
            elif message.code == _SWITCHING_PROTOCOLS:
                upgraded = True
        if upgraded:
            self.abort(NotHttp("does not speak HTTP: it changes to another protocol"))

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        transport, self._transport = self._transport, None
        if transport is not None and hasattr(transport, "_read_ready_cb"):
            # Python 3.11 leaves a transport bound to itself when it is over, for the collector to find; 3.12 does this.
            transport._read_ready_cb = None  # noqa: SLF001 - as above
        content = self._content
        if self._parser is not None and exc is None and content is not None and not content.is_eof():
            self._closing = True
            with contextlib.suppress(HttpProcessingError):
                self._parser.feed_eof()  # The end of a body without a length, and of that alone.
        if self._head is not None and not self._head.done():
            reason = f"cannot be reached: {getattr(exc, 'strerror', None) or exc}" if exc is not None else ""
            self.abort(ConnectionBroken(reason or "closed the connection without an answer"))
        else:
            self.abort(ConnectionBroken("broke off in the middle of its answer"))

    # For the parser and the reader of a body

    @property
    def connected(self) -> bool:
        """Whether bytes may still come."""
        return self._transport is not None

    def pause_reading(self) -> None:
        """Take no more bytes from the socket: the reader is slower than the server."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002 - the parser is never paused
        """Take bytes again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()


def _first_line(exc: HttpProcessingError) -> str:
    return exc.message.partition("\n")[0][:200]
