"""The deadlines of requests: hardly any is ever due, so a timer is set only for one that is near.

One for all pools of `agent.client.http.pool`. A timer for each call costs more than the rest of its time limit, and
lies in the event loop's heap until long after the answer. The one rule: a deadline that passes ends its request at that
moment, not at the next look.
"""

import asyncio
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

from agent.client.streaming import LargeResult

NEAR_S: Final = 2.0
_CHECK_EVERY_S: Final = 1.0


_OF_LOOPS: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, "Deadlines"]()


def shared_deadlines() -> "Deadlines":
    """Those of the running event loop: with one for each pool, every probe of an idle link would set a timer."""
    loop = asyncio.get_running_loop()
    return _OF_LOOPS.get(loop) or _OF_LOOPS.setdefault(loop, Deadlines())


class Deadlines:
    """See the module. For one event loop."""

    __slots__ = ("_far", "_timer")

    def __init__(self) -> None:
        self._far: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Deadlines {len(self._far)} far>"

    def add(self, timeout: asyncio.Timeout, deadline_s: float, sink: LargeResult | None = None) -> None:
        """End the block of `timeout`, which has been entered without a time limit, at `deadline_s` in loop time.

        Unless its result begins to go to `sink` before: a server is not to blame for a slow reader.
        """
        if sink is not None:
            sink.when_begun(partial(self._lift, timeout))
        loop = asyncio.get_running_loop()
        if deadline_s < loop.time() + NEAR_S:
            timeout.reschedule(deadline_s)
            return
        self._far[timeout] = deadline_s
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_EVERY_S, self._set_near_ones)

    def discard(self, timeout: asyncio.Timeout) -> None:
        """It has no deadline any more."""
        self._far.pop(timeout, None)

    def _lift(self, timeout: asyncio.Timeout) -> None:
        self.discard(timeout)
        timeout.reschedule(None)

    def _set_near_ones(self) -> None:
        loop = asyncio.get_running_loop()
        near_s = loop.time() + NEAR_S
        for timeout, deadline_s in list(self._far.items()):
            if deadline_s < near_s:
                del self._far[timeout]
                timeout.reschedule(deadline_s)
        self._timer = loop.call_later(_CHECK_EVERY_S, self._set_near_ones) if self._far else None
