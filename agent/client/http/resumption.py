"""Taking up a broken or ended event stream again where it ended, by GET with `Last-Event-ID` (MCP 2025-11-25).

Used by `agent.client.http.session` for the streams of requests and for a session's own; servers close streams on
purpose, too, so that no connection is held while they work (SEP-1699). The one rule: a stream is taken up only behind
an event with an ID, and never by sending its request again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agent import clock
from agent.client.http.pool import Response
from agent.errors import CallNotSent, DialRefused, LinkFailed, ProtocolBroken

# The pause before a reconnection where the server names none, and the shortest and the longest that it may name.
RETRY_S: Final = 1.0
RETRY_MIN_S: Final = 0.05
RETRY_MAX_S: Final = 300.0
# Attempts in a row that bring no event, each after twice the pause of the one before; then the stream is lost.
FRUITLESS_MAX: Final = 5
# A stream that lasted for so long was worth taking up, events or not.
LASTING_S: Final = 10.0

_STREAM_TYPE: Final = "text/event-stream"
# It has not noticed the end of the stream yet, or is busy, or a proxy is in its place.
_PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})

# Opens the stream behind the event of this ID. Raises as `HttpPool.get`, and `CallNotSent` where no token can be had.
OpenBehind = Callable[[bytes], Awaitable[Response]]


class Resumption:
    """The further connections of one stream. Its caller's deadline bounds all of them."""

    __slots__ = ("_fruitless", "_last_id", "_open", "_since_s")

    def __init__(self, open_behind: OpenBehind) -> None:
        self._open = open_behind
        self._fruitless = 0
        self._last_id = b""
        self._since_s = 0.0

    def __repr__(self) -> str:
        return f"<Resumption {self._fruitless} fruitless>"

    async def next(self, last_id: bytes, retry_ms: int | None) -> Response | None:
        """The stream behind `last_id`, after the pause that the server asks for; None when it is lost."""
        if not last_id:
            return None
        if last_id != self._last_id or clock.now_s() >= self._since_s + LASTING_S:
            self._fruitless = 0
        self._last_id = last_id
        pause_s = RETRY_S if retry_ms is None else min(max(retry_ms / 1000, RETRY_MIN_S), RETRY_MAX_S)
        while self._fruitless < FRUITLESS_MAX:
            await asyncio.sleep(pause_s * 2**self._fruitless)
            self._fruitless += 1
            self._since_s = clock.now_s()
            try:
                response = await self._open(last_id)
            except (ProtocolBroken, DialRefused):
                return None
            except (LinkFailed, CallNotSent):
                continue  # It restarts, perhaps, or who gives us its tokens does. The call itself was sent.
            if response.status == 200 and response.content_type == _STREAM_TYPE:  # noqa: PLR2004 - a stream
                return response
            response.close()
            if response.status not in _PASSING:
                return None
        return None
