"""A standing stream of events to one client, which takes what is due as fast as the client reads.

Opened by a session's GET. The one rule: nothing waits here, so a client that reads too slowly costs no memory and no
one else's time, and loses its stream.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from agent.api.answer import PING_EVERY_S, STREAM_HEADERS
from agent.api.asgi_exchange import WRITE_TIMEOUT_S, drop_client

_PING: Final = b": ping\r\n\r\n"


class EventStream:
    """One stream. `nudge` and `end` may be called at any time; `serve` runs once, in the request's own task.

    `due` gives the messages to tell, asked for when the client takes some; `dropped` is called when it does not read.
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
        """There is something due."""
        self._wake.set()

    def end(self) -> None:
        """End the stream now; what is due waits for the next one."""
        self._ended = True
        self._wake.set()

    async def serve(self) -> web.StreamResponse:
        """Write what is due until the end; a client that has gone cancels this, as aiohttp does with handlers."""
        response = web.StreamResponse(headers=STREAM_HEADERS)
        try:
            # The client waits for the status before there is anything to tell.
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
