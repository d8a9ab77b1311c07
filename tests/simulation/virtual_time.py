"""An event loop whose clock moves only while nothing is left to do: an hour of a mesh takes as long as its work.

Used by the simulation. looptime, which the unit tests use, still polls the kernel in each turn; this loop has neither
sockets nor threads, which makes it several times faster, and the same seed gives the same run to the last callback.
The one rule: nothing here waits, so what would wait for the world outside fails at once.
"""

import asyncio
import math
import time
from asyncio import base_events
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# A faulty rule may wait for no time at all, again and again; an honest run of the largest mesh needs a tenth of it.
TURNS_AT_ONCE_MAX = 20_000
# Loop time where a run begins: not zero, so that a time that is left at zero by mistake shows.
BEGINS_AT_S = 1_000.0
# And the time of day there.
BEGAN_ON_S = 1_780_000_000.0
# Timers this near are due now, as in asyncio's own loop.
RESOLUTION_S = 1e-9


class TimeStoodStill(AssertionError):
    """So many turns of the loop, and the clock has not moved: something waits for no time at all."""


class _Clock:
    """In the place of the selector: `select` lets the time pass that it may wait for."""

    def __init__(self) -> None:
        self.now_s = BEGINS_AT_S
        self._turns = 0

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None:
            raise TimeStoodStill("everything waits, and nothing will ever happen")
        if timeout_s > 0:  # Less than a float can tell is still a step: what waits for a time has to reach it.
            self.now_s = max(self.now_s + timeout_s, math.nextafter(self.now_s, math.inf))
        if timeout_s > RESOLUTION_S:
            self._turns = 0
            return []
        self._turns += 1
        if self._turns > TURNS_AT_ONCE_MAX:
            raise TimeStoodStill(f"{TURNS_AT_ONCE_MAX} turns of the loop at {self.now_s:.3f} s")
        return []

    def close(self) -> None:
        """Nothing is held."""


class VirtualTimeLoop(base_events.BaseEventLoop):
    """See the module. Threads' work is done at once, in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Clock()
        self._clock_resolution = RESOLUTION_S
        self._ahead_s = 0.0

    def time(self) -> float:
        """Seconds of the virtual clock."""
        return self._selector.now_s

    def jump(self, seconds: float) -> None:
        """Let the clock jump ahead, as that of a machine that was asleep: all timers until then are due."""
        self._selector.now_s += seconds

    def time_of_day(self) -> float:
        """Seconds since 1970, in the place of `time.time` while it runs."""
        return BEGAN_ON_S + self.time() + self._ahead_s

    def set_time_of_day(self, ahead_s: float) -> None:
        """As an operator or a time server does: nothing that waits may notice."""
        self._ahead_s = ahead_s

    def run_in_executor(self, _executor: Any, func: Callable[..., T], *args: Any) -> Any:
        """Do it now; the future returned is done."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - what waits for it raises it
            done.set_exception(exc)
        return done

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own
        """There is none."""

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """No other thread wakes this loop."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own, and end what is left over, as `asyncio.run` does."""
    loop = VirtualTimeLoop()
    of_the_machine, time.time = time.time, loop.time_of_day
    try:
        return loop.run_until_complete(main)
    finally:
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        time.time = of_the_machine
