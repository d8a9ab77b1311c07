"""The log level of a session from before 2026-07-28, which is one for all its callers, each of whom asks for its own.

Owned by the doors to such servers; each request with a level passes through `show` before it is sent. The one rule: the
session has the most verbose level that any present caller asked for, and none that nobody asked for.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from agent.core.log_levels import LEVELS, asked_level
from agent.errors import MeshError
from agent.links.hello import Hello
from agent.model import Json

SET_LEVEL: Final = "logging/setLevel"
# A caller is present for so long after a request: callers that take turns must not cost a request each.
PRESENT_S: Final = 60.0
# Logs are no reason to keep a call waiting.
SET_TIMEOUT_S: Final = 2.0


class SessionLogs:
    """One session's level. Sole writers: the tasks of its requests."""

    def __init__(self, request: Callable[..., Awaitable[Json]]) -> None:
        """`request`: the door's own."""
        self._request = request
        self._asked_at_s: dict[str, float] = {}
        self._level: str | None = None
        self._hello: Hello | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SessionLogs {self._level}>"

    async def show(self, params: Json | None, hello: Hello) -> None:
        """See to it that a request with `params` gets the messages that it asks for, where the server has any."""
        level = asked_level(params)
        if level is None or "logging" not in hello.capabilities:
            return
        async with self._turn:
            now_s = asyncio.get_running_loop().time()
            self._asked_at_s[level] = now_s
            present = [asked for asked, at_s in self._asked_at_s.items() if now_s - at_s <= PRESENT_S]
            wanted = min(present, key=LEVELS.index)
            if wanted != self._level or hello is not self._hello:
                self._level, self._hello = wanted, hello  # A renewed session says hello anew, and has no level.
                # A refusal is no reason to ask again: the server's own choice stays, and is filtered.
                with contextlib.suppress(MeshError):
                    await self._request(SET_LEVEL, {"level": wanted}, timeout_s=SET_TIMEOUT_S)
