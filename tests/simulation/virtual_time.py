"""An event loop whose clock moves only while nothing is left to do: an hour of a mesh takes as long as its work.

Used by the simulation. looptime, which the unit tests use, still polls the kernel in each turn; this loop has neither
sockets nor threads, which makes it several times faster, and the same seed gives the same run to the last callback.
The one rule: nothing here waits, so what would wait for the world outside fails at once.
"""

import asyncio
import contextvars
import heapq
import time
from asyncio import base_events, events
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


class _Handle(events.Handle):
    """A callback that is due. Without asyncio's debugging, whose questions took a tenth of a run."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Any) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled, self._repr, self._source_traceback = False, None, None

    def cancel(self) -> None:
        """Do not call it."""
        self._cancelled, self._callback, self._args = True, None, None


class _Timer(_Handle, events.TimerHandle):
    """One of a later time."""

    __slots__ = ()

    def __init__(self, when_s: float, callback: Any, args: Any, loop: Any, context: Any) -> None:
        super().__init__(callback, args, loop, context)
        self._when, self._scheduled = when_s, True


class VirtualTimeLoop(base_events.BaseEventLoop):
    """See the module. Threads' work is done at once, in the loop.

    Callbacks that are due at the same time are called in the order in which they were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = BEGINS_AT_S
        self._ahead_s = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._asked = self._turns = 0

    def time(self) -> float:
        """Seconds of the virtual clock."""
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Let the clock jump ahead, as that of a machine that was asleep: all timers until then are due."""
        self._now_s += seconds

    def time_of_day(self) -> float:
        """Seconds since 1970, in the place of `time.time` while it runs."""
        return BEGAN_ON_S + self._now_s + self._ahead_s

    def set_time_of_day(self, ahead_s: float) -> None:
        """As an operator or a time server does: nothing that waits may notice."""
        self._ahead_s = ahead_s

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """As asyncio's."""
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """As asyncio's."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """As asyncio's."""
        timer = _Timer(when, callback, args, self, context)
        self._asked += 1
        heapq.heappush(self._timers, (when, self._asked, timer))
        return timer

    def _run_once(self) -> None:
        """Let the time pass until something is due, and call what is."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise TimeStoodStill("everything waits, and nothing will ever happen")
            if (when_s := timers[0][0]) > self._now_s:
                self._turns = self._turns if when_s - self._now_s <= RESOLUTION_S else 0
                self._now_s = when_s
        self._turns += 1
        if self._turns > TURNS_AT_ONCE_MAX:
            raise TimeStoodStill(f"{TURNS_AT_ONCE_MAX} turns of the loop at {self._now_s:.3f} s")
        until_s = self._now_s + RESOLUTION_S
        while timers and timers[0][0] <= until_s:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def close(self) -> None:
        """As asyncio's."""
        super().close()
        self._timers.clear()

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run what waits for nothing but the clock, and needs no task for it."""
        events._set_running_loop(self)
        try:
            while True:
                waited_for = work.send(None)
                while waited_for is not None and not waited_for.done():
                    self._run_once()
                if waited_for is not None:
                    waited_for._asyncio_future_blocking = False
        except StopIteration as exc:
            value: T = exc.value
            return value
        finally:
            events._set_running_loop(None)

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
