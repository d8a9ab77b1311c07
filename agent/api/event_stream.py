"""A standing stream of events to one client: what is told waits in a queue that is bounded in number and bytes.

Opened by a session's GET, filled by whoever has something to tell. The one rule: telling never waits, so a client that
reads too slowly loses its stream, and nobody else notices.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from aiohttp import web

from agent.api.answer import PING_EVERY_S, STREAM_HEADERS
from agent.api.asgi_exchange import WRITE_TIMEOUT_S

log = logging.getLogger(__name__)

# A client that is this far behind has stopped reading: notices of changed lists alone come four times a second.
EVENTS_MAX: Final = 256
EVENT_BYTES_MAX: Final = 1 << 20

_PING: Final = b": ping\r\n\r\n"


class EventStream:
    """One stream. `tell` and `end` may be called at any time; `serve` runs once, in the request's own task.

    `due` gives more messages, asked for when the client takes some; `nudge` says that there are any. `dropped` is
    called when its client does not read it.
    """

    def __init__(self, request: web.Request, due: Callable[[], list[bytes]], dropped: Callable[[], None]) -> None:
        self._request = request
        self._due = due
        self._dropped = dropped
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._ended = False

    def __repr__(self) -> str:
        return f"<EventStream waiting={len(self._events)} bytes={self._bytes}{' ended' if self._ended else ''}>"

    def tell(self, message: bytes) -> None:
        """Queue a JSON-RPC message; the stream is cut when its client is too far behind."""
        if self._ended:
            return
        if len(self._events) >= EVENTS_MAX or self._bytes + len(message) > EVENT_BYTES_MAX:
            log.warning(
                "MCP client reads its stream too slowly, dropped",
                extra={"waiting": len(self._events), "waiting_bytes": self._bytes},
            )
            self._cut()
            return
        self._events.append(message)
        self._bytes += len(message)
        self._wake.set()

    def nudge(self) -> None:
        """There is something due."""
        self._wake.set()

    def end(self) -> None:
        """End the stream after what is queued."""
        self._ended = True
        self._wake.set()

    async def serve(self) -> web.StreamResponse:
        """Write what is told until the end; a client that has gone cancels this, as aiohttp does with handlers."""
        response = web.StreamResponse(headers=STREAM_HEADERS)
        try:
            # The client waits for the status before there is anything to tell.
            await self._write(response, _PING)
            while not (self._ended and not self._events):
                await self._write(response, await self._next())
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await response.write_eof()
        except TimeoutError:
            log.warning("MCP client stopped reading, dropped", extra={"limit_s": WRITE_TIMEOUT_S})
            self._cut()
        except ConnectionError:
            pass  # The client has gone.
        finally:
            self._ended = True
        return response

    async def _next(self) -> bytes:
        """All that waits as one piece, or a ping when nothing comes for a while."""
        try:
            async with asyncio.timeout(PING_EVERY_S):
                await self._wake.wait()
        except TimeoutError:
            return _PING
        self._wake.clear()
        messages = [*self._events, *self._due()]
        waiting = b"".join(b"event: message\r\ndata: " + message + b"\r\n\r\n" for message in messages)
        self._events.clear()
        self._bytes = 0
        return waiting

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            if not response.prepared:
                await response.prepare(self._request)
            if data:
                await response.write(data)

    def _cut(self) -> None:
        self._dropped()
        self._events.clear()
        self.end()
        if self._request.transport is not None:
            self._request.transport.abort()
