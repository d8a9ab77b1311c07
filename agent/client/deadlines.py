"""The deadlines of requests: hardly any is ever due, so a timer is set only for one that is near.

One for all pools of `agent.client.http.pool`. A timer for each call costs more than the rest of its time limit, and
lies in the event loop's heap until long after the answer. The one rule: a deadline that passes ends its request at that
moment, not at the next look.
"""

import asyncio
from types import TracebackType
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from agent.client.streaming import LargeResult

NEAR_S: Final = 2.0
_CHECK_EVERY_S: Final = 1.0


_OF_LOOPS: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, "Deadlines"]()


def shared_deadlines() -> "Deadlines":
    """Those of the running event loop: with one for each pool, every probe of an idle link would set a timer."""
    loop = asyncio.get_running_loop()
    return _OF_LOOPS.get(loop) or _OF_LOOPS.setdefault(loop, Deadlines())


class Timer(Protocol):
    """What ends a request: as `asyncio.Timeout`."""

    def reschedule(self, when_s: float | None) -> None:
        """End it at this loop time; None: never."""
        ...


class Deadline:
    """Ends the block of one request, as `asyncio.timeout_at`, from `begin` on; `sink`: see `Deadlines.add`."""

    __slots__ = ("_cancelling", "_deadlines", "_due_s", "_is_over", "_sink", "_task", "_timer", "lasts_s")

    def __init__(self, deadlines: "Deadlines", due_s: float, sink: LargeResult | None) -> None:
        self._deadlines, self._due_s, self._sink = deadlines, due_s, sink
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._cancelling = 0
        self.lasts_s = 0.0  # From its beginning to its end.

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None, "requests are made in tasks"
        self._cancelling = self._task.cancelling()
        self.lasts_s = self._due_s - self._deadlines.add(self, self._due_s, self._sink)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        self._deadlines.discard(self)
        # They know of this deadline: with that circle, everything of a call would wait for the garbage collector.
        self._sink, task, self._task = None, self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_over:
            return
        assert task is not None, "it was entered"
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from exc

    def reschedule(self, when_s: float | None) -> None:
        """As `Timer.reschedule`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when_s is not None:
            self._timer = asyncio.get_running_loop().call_at(when_s, self._end)

    def _end(self) -> None:
        assert self._task is not None, "it was entered"
        self._is_over = True
        self._task.cancel()


class Deadlines:
    """See the module. For one event loop."""

    __slots__ = ("_far", "_timer")

    def __init__(self) -> None:
        self._far: dict[Timer, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Deadlines {len(self._far)} far>"

    def add(self, timeout: Timer, deadline_s: float, sink: LargeResult | None = None) -> float:
        """End the block of `timeout`, which has been entered without a time limit, at `deadline_s`; returns loop time.

        Unless its result begins to go to `sink` before: a server is not to blame for a slow reader.
        """
        if sink is not None:
            sink.when_begun(lambda: self._lift(timeout))
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if deadline_s < now_s + NEAR_S:
            timeout.reschedule(deadline_s)
            return now_s
        self._far[timeout] = deadline_s
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_EVERY_S, self._set_near_ones)
        return now_s

    def discard(self, timeout: Timer) -> None:
        """It has no deadline any more."""
        self._far.pop(timeout, None)

    def _lift(self, timeout: Timer) -> None:
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
