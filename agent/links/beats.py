"""One timer for what all links of a node do every few seconds.

A timer for each probe, and another for the end of its wait, cost more than the probe. Here time has beats, a quarter of
a second apart, and what is due in the same one is done in one go. The one rule: a call `by` a moment is made at that
beat or before, a call `after` one at that beat or later, so both bounds can be promised.
"""

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

# A probe's second is four of them, and a link that comes together with many others still has a moment of its own.
BEAT_S: Final = 0.25

_OF_LOOPS: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, "Beats"]()


def shared_beats() -> "Beats":
    """Those of the running event loop."""
    loop = asyncio.get_running_loop()
    return _OF_LOOPS.get(loop) or _OF_LOOPS.setdefault(loop, Beats())


class Beats:
    """See the module. For one event loop; nothing is taken back: who has no use for a call any more ignores it."""

    __slots__ = ("_due", "_order", "_timer")

    def __init__(self) -> None:
        self._due: dict[int, list[Callable[[], None]]] = {}  # By the number of the beat.
        self._order: list[int] = []  # The same numbers, as a heap.
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Beats {sum(map(len, self._due.values()))} calls in {len(self._due)}>"

    def by(self, at_s: float, call: Callable[[], None]) -> None:
        """Call it at the last beat that is not later than this loop time, but not at once."""
        self._at(math.floor(at_s / BEAT_S), call)

    def after(self, at_s: float, call: Callable[[], None]) -> None:
        """Call it at the first beat that is not sooner than this loop time."""
        self._at(math.ceil(at_s / BEAT_S), call)

    def _at(self, beat: int, call: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        beat = max(beat, math.floor(loop.time() / BEAT_S) + 1)
        calls = self._due.get(beat)
        if calls is not None:
            calls.append(call)
            return
        self._due[beat] = [call]
        heapq.heappush(self._order, beat)
        if self._timer is None or self._order[0] == beat:
            self._set(loop)

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._order[0] * BEAT_S, self._beat)

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for call in self._due.pop(heapq.heappop(self._order)):
            try:
                call()
            except Exception as exc:  # noqa: BLE001 - a fault of one link is not one of the others
                loop.call_exception_handler({"message": "a beat of a link failed", "exception": exc})
        if self._order and self._timer is None:
            self._set(loop)
