"""HTTP responses of the MCP endpoints: the answer to one request, and the standing stream of a session.

`Answer` is made by the servers of both eras, one for each request: JSON, or an event stream as soon as a notification
precedes the result. `SlowAnswers` sends pings on those that take long. `EventStream` is a session's GET stream. The one
rule: a client that does not read is dropped after a while, so that it costs one connection and delays no other client.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Final, NoReturn, TypeAlias

import orjson
from aiohttp import web

from agent.client.streaming import ResultStream
from agent.errors import MCPError, TooManyCalls
from agent.lossless_json.raw import Bytes
from agent.model import Json
from agent.rpc_codes import ERROR_CODE_HTTP_STATUS
from agent.server.fast_path.connection import SENT, FastRequest
from agent.server.write_deadline import WRITE_TIMEOUT_S, drop_client

# An answer that takes longer becomes a stream with pings, so that no proxy on the way times out.
PING_EVERY_S: Final = 15.0
# About what a socket's buffer takes at once; the rest of a large result waits where it is.
_SLICE_BYTES: Final = 256 << 10
_OK: Final = 200
_PING: Final = b": ping\r\n\r\n"
STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

StartTask: TypeAlias = Callable[[Coroutine[None, None, None], str], asyncio.Task[None]]


class Answer:
    """One response: JSON, or an event stream as soon as a notification precedes the result.

    `beginning` gives the first event of such a stream. `at_once`: nothing is added to the response that is returned,
    so it may have gone out.
    """

    def __init__(
        self,
        request: web.Request,
        request_id: object,
        *,
        beginning: Callable[[], bytes] | None = None,
        at_once: bool = True,
    ) -> None:
        self._request = request
        self._request_id = orjson.dumps(request_id)
        self._beginning = beginning
        self._at_once = at_once
        self._stream: web.StreamResponse | None = None
        self._gone = False
        self._result_begun = False
        self._tail = b""

    def client_gone(self) -> None:
        """The client has dropped the connection: later messages raise `ConnectionError`."""
        self._gone = True

    async def notify(self, method: str, params: Json) -> None:
        """Send a notification ahead of the result."""
        await self.tell(orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    async def result(self, *result: Bytes) -> web.StreamResponse:
        """End with a result, given as JSON without line breaks, in consecutive parts."""
        size_bytes = sum(map(len, result))
        if size_bytes <= _SLICE_BYTES:
            return await self._finish(b"".join((self._head(), *result, b"}")), 200)
        # Sent in memory views: as one body it would be copied at each layer.
        await self._begin(size_bytes)
        for part in result:
            await self._part(part)
        await self._end()
        assert self._stream is not None
        return self._stream

    def sink(self, added: Json) -> ResultStream:
        """The sink of a result that is sent while it comes; `begun` is the response then, `cut` breaks it off.

        `added`: members that the result needs, unless it has them.
        """
        return ResultStream(self._begin, self._part, self._end, added)

    @property
    def begun(self) -> web.StreamResponse | None:
        """The response whose result has begun; None before."""
        return self._stream if self._result_begun else None

    @property
    def is_stream(self) -> bool:
        """Whether a message or a ping has been sent, so that all that follows are events."""
        return self._stream is not None

    async def cut(self) -> NoReturn:
        """Break the connection, so that a part of a result is not taken for the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()
        await asyncio.sleep(0)  # Now aiohttp cancels the request's task.
        raise ConnectionResetError("the answer broke off")

    async def nothing(self) -> web.StreamResponse:
        """End without an answer, as a call that its client has cancelled does: a stream without that event."""
        async with self._write_deadline():
            stream = await self._opened()
            await stream.write_eof()
        return stream

    async def error(self, exc: MCPError, status: int | None = None) -> web.StreamResponse:
        """End with a JSON-RPC error. The HTTP status, if not sent yet, is `status`, by default that of the code."""
        body = error_message(self._request_id, exc)
        if isinstance(exc, TooManyCalls):
            return await self._finish(body, 429, {"Retry-After": str(math.ceil(exc.retry_after_s))})
        return await self._finish(body, ERROR_CODE_HTTP_STATUS.get(exc.code, 200) if status is None else status)

    async def whole(self, body: bytes, status: int) -> web.StreamResponse:
        """End with what is a message already, or an array of messages, before anything else was sent."""
        return await self._finish(body, status)

    async def _finish(self, body: bytes, status: int, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        if self._stream is None:
            request = self._request
            may_be_sent = status == _OK and self._at_once
            if may_be_sent and isinstance(request, FastRequest) and request.connection.sent(request, body):
                return SENT
            return web.Response(body=body, status=status, content_type="application/json", headers=headers)
        await self.tell(body)
        async with self._write_deadline():
            await self._stream.write_eof()
        return self._stream

    def _head(self) -> bytes:
        return b'{"jsonrpc":"2.0","id":' + self._request_id + b',"result":'

    async def _begin(self, size_bytes: int | None = None) -> bool:
        if self._gone:
            raise ConnectionResetError("the client has gone")
        self._result_begun, head = True, self._head()
        async with self._write_deadline():
            if self._stream is None:
                self._stream = web.StreamResponse(headers={"Content-Type": "application/json"})
                if size_bytes is not None:
                    self._stream.content_length = len(head) + size_bytes + 1
                self._tail = b"}"
                await self._stream.prepare(self._request)
            else:
                head, self._tail = b"event: message\r\ndata: " + head, b"}\r\n\r\n"
            await self._stream.write(head)
        return True

    async def _part(self, part: Bytes) -> None:
        assert self._stream is not None
        view = memoryview(part)
        for start in range(0, len(part), _SLICE_BYTES):
            async with self._write_deadline():
                await self._stream.write(view[start : start + _SLICE_BYTES])

    async def _end(self) -> None:
        assert self._stream is not None
        async with self._write_deadline():
            await self._stream.write(self._tail)
            await self._stream.write_eof()

    async def tell(self, data: bytes) -> None:
        """Send one JSON-RPC message as an event of its own."""
        async with self._write_deadline():
            stream = await self._opened()
            await stream.write(b"event: message\r\ndata: " + data + b"\r\n\r\n")

    async def ping(self) -> None:
        """Keep a slow answer's connection alive, unless its result is on the way."""
        if self._result_begun:
            return
        async with self._write_deadline():
            stream = await self._opened()
            await stream.write(b": ping\r\n\r\n")

    @asynccontextmanager
    async def _write_deadline(self) -> AsyncIterator[None]:
        """Drop a client that reads nothing for `WRITE_TIMEOUT_S`; its call ends with its connection."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                yield
        except TimeoutError:
            drop_client(self._request)
            # Now aiohttp cancels the request's task; another exception would be taken for the backend's.
            await asyncio.sleep(0)
            raise ConnectionResetError("the client stopped reading") from None

    async def _opened(self) -> web.StreamResponse:
        if self._gone:
            raise ConnectionResetError("the client has gone")
        if self._stream is None:
            self._stream = web.StreamResponse(headers=STREAM_HEADERS)
            await self._stream.prepare(self._request)
            if self._beginning is not None and (first := self._beginning()):
                await self._stream.write(first)
        return self._stream


def error_message(request_id: bytes, exc: MCPError) -> bytes:
    """The response with an error; `request_id` as JSON."""
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"error":' + orjson.dumps(exc.to_json()) + b"}"


class SlowAnswers:
    """Pings the slow answers of one endpoint. One timer for all: few answers are slow, but every call would set one."""

    def __init__(self, start_task: StartTask) -> None:
        self._start_task = start_task
        self.waiting: dict[KeptAlive, float] = {}  # Since when; the longest waiting comes first.
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<SlowAnswers waiting={len(self.waiting)}>"

    def kept_alive(self, ping: Callable[[], Awaitable[None]]) -> "KeptAlive":
        """For the time in which an answer may become slow: `ping` is called every `PING_EVERY_S` then."""
        return KeptAlive(self, ping)

    def add(self, answer: "KeptAlive") -> None:
        """A request's answer is under way from now on."""
        loop = asyncio.get_running_loop()
        self.waiting[answer] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(PING_EVERY_S, self._check)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for answer, since_s in tuple(self.waiting.items()):
            if since_s + PING_EVERY_S > loop.time():
                self._timer = loop.call_at(since_s + PING_EVERY_S, self._check)
                break
            del self.waiting[answer]
            with contextlib.suppress(RuntimeError):  # The server is ending: its drain bounds the answer.
                answer.pinger = self._start_task(answer.ping_on(), "ping a slow answer")


class KeptAlive:
    """One answer of `SlowAnswers`, as long as the block runs."""

    __slots__ = ("_ping", "_slow", "pinger")

    def __init__(self, slow: SlowAnswers, ping: Callable[[], Awaitable[None]]) -> None:
        self._slow = slow
        self._ping = ping
        self.pinger: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._slow.add(self)

    def __exit__(self, *_: object) -> None:
        self._slow.waiting.pop(self, None)
        if self.pinger is not None:
            self.pinger.cancel()

    async def ping_on(self) -> None:
        """Ping for ever, or until the client has gone."""
        try:
            while True:
                await self._ping()
                await asyncio.sleep(PING_EVERY_S)
        except (ConnectionError, RuntimeError):
            return  # aiohttp cancels the request's own task.


class EventStream:
    """One stream. `nudge` and `end` may be called at any time; `serve` runs once, in the request's own task.

    `due` gives the waiting messages, and is called when the client can take some; `dropped` is called when it does not
    read.
    """

    def __init__(self, request: web.Request, due: Callable[[], list[bytes]], dropped: Callable[[], None]) -> None:
        self._request = request
        self._due = due
        self._dropped = dropped
        self._wake = asyncio.Event()
        self._ended = False

    def __repr__(self) -> str:
        return f"<EventStream {'ended' if self._ended else 'open'}>"

    def nudge(self) -> None:
        """Wake the stream: messages are due."""
        self._wake.set()

    def end(self) -> None:
        """End the stream now; what is due waits for the next one."""
        self._ended = True
        self._wake.set()

    async def serve(self) -> web.StreamResponse:
        """Write what is due until the end; a client that has gone cancels this, as aiohttp does with handlers."""
        response = web.StreamResponse(headers=STREAM_HEADERS)
        try:
            # The client waits for the status even while there are no messages.
            await self._write(response, _PING)
            while not self._ended:
                await self._write(response, await self._next())
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await response.write_eof()
        except TimeoutError:
            drop_client(self._request)
            self._dropped()
        except ConnectionError:
            pass  # The client has gone.
        finally:
            self._ended = True
        return response

    async def _next(self) -> bytes:
        """All that is due as one piece, or a ping when nothing is for a while."""
        try:
            async with asyncio.timeout(PING_EVERY_S):
                await self._wake.wait()
        except TimeoutError:
            return _PING
        self._wake.clear()
        if self._ended:
            return b""
        return b"".join(b"event: message\r\ndata: " + message + b"\r\n\r\n" for message in self._due())

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            if not response.prepared:
                await response.prepare(self._request)
            if data:
                await response.write(data)
