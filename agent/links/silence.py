"""Notices that a node answers nothing while calls wait, long before its next probe is due.

Used by a link's session for nodes of the mesh alone: their loops never block, while a child may do one thing at a time
and answer no probe meanwhile. The one rule: silence is reason to ask, never a verdict.
"""

import asyncio
from collections.abc import Callable
from typing import Final

# What a hung node has of reads is then moved in 6 s at most: this, and three probes that are waited for in vain.
SILENCE_S: Final = 2.0
# Less than this is nothing: a timer of no length would fire without end before the clock moves.
TICK_S: Final = 0.01


class SilenceWatch:
    """One timer at most, while calls are under way: `waiting` says whether. `doubt` is called at each silence."""

    __slots__ = ("_answered_at_s", "_doubt", "_timer", "_waiting")

    def __init__(self, waiting: Callable[[], bool], doubt: Callable[[], None]) -> None:
        self._waiting = waiting
        self._doubt = doubt
        self._answered_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<SilenceWatch {'idle' if self._timer is None else 'listening'}>"

    def begun(self) -> None:
        """A call is under way."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._answered_at_s = loop.time()
            self._timer = loop.call_later(SILENCE_S, self._look)

    def answered(self) -> None:
        """A call was answered."""
        self._answered_at_s = asyncio.get_running_loop().time()

    def _look(self) -> None:
        self._timer = None
        if self._waiting():
            loop = asyncio.get_running_loop()
            left_s = self._answered_at_s + SILENCE_S - loop.time()
            if left_s < TICK_S:
                self._doubt()
                left_s = SILENCE_S
            self._timer = loop.call_later(left_s, self._look)
