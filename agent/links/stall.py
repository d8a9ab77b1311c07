"""Notices that calls to a node are under way and none is answered, long before its next probe would tell.

Made by `agent.links.lifecycle` for links to nodes. The one rule: it has one timer at most, and none while nothing is
called.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from agent import clock
from agent.links.probe import TICK_S

# What a hung node has of reads is then moved in 6 s at most: this, and three probes that are waited for in vain.
STALL_S: Final = 2.0


def _nothing_waits() -> bool:
    return False


class StallDetector:
    """One timer at most, while calls are under way: `waiting` says whether. `doubt` is called at each stall."""

    __slots__ = ("_answered_at_s", "_doubt", "_timer", "_waiting")

    def __init__(self, waiting: Callable[[], bool], doubt: Callable[[], None]) -> None:
        self._waiting = waiting
        self._doubt = doubt
        self._answered_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<StallDetector {'idle' if self._timer is None else 'listening'}>"

    def begun(self) -> None:
        """A call is under way."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._answered_at_s = loop.time()
            self._timer = loop.call_later(STALL_S, self._look)

    def answered(self) -> None:
        """A call was answered."""
        self._answered_at_s = clock.now_s()

    def end(self) -> None:
        """No call is under way that anybody could doubt."""
        self._waiting = _nothing_waits
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._waiting():
            loop = asyncio.get_running_loop()
            left_s = self._answered_at_s + STALL_S - loop.time()
            if left_s < TICK_S:
                self._doubt()
                left_s = STALL_S
            self._timer = loop.call_later(left_s, self._look)
