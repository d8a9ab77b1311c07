"""What the kernel says of a process and the processor: how long it ran, and how long it was ready to and had none.

For claims that are made in seconds of a machine with a core to spare: tests share theirs with others. Linux only. The
one rule: of the main thread, which is the event loop's.
"""

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import PATIENCE_S, eventually

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class ProcessorTime:
    """In seconds. `waited_s`: it was ready to run, and others ran."""

    ran_s: float
    waited_s: float

    def __sub__(self, before: "ProcessorTime") -> "ProcessorTime":
        return ProcessorTime(self.ran_s - before.ran_s, self.waited_s - before.waited_s)


def processor_time(process_id: int) -> ProcessorTime:
    """Of a process since its start (proc(5), schedstat)."""
    ran_ns, waited_ns, _ = map(int, Path(f"/proc/{process_id}/schedstat").read_text().split())
    return ProcessorTime(ran_ns / _NS_PER_S, waited_ns / _NS_PER_S)


class Stopwatch:
    """Seconds since it was made, without the longest for which one of these processes or this one had no core.

    That is: it was ready to run, and others ran. On a busy machine what is waited for comes later by about as much.
    """

    def __init__(self, *process_ids: int) -> None:
        self._before = dict[int, ProcessorTime]()
        for one in (os.getpid(), *process_ids):
            with suppress(OSError):  # It has ended.
                self._before[one] = processor_time(one)
        self._began_s = time.monotonic()

    def __call__(self) -> float:
        """The seconds up to now."""
        waited_s = 0.0
        for process_id, before in self._before.items():
            with suppress(OSError):
                waited_s = max(waited_s, (processor_time(process_id) - before).waited_s)
        return max(0.0, time.monotonic() - self._began_s - waited_s)

    async def until(self, ask: Callable[[], Awaitable[object]], within_s: float) -> float:
        """Wait until it is so; the seconds up to then. Raises `AssertionError` where they are more than `within_s`."""
        await eventually(ask, within_s + PATIENCE_S)
        took_s = self()
        assert took_s <= within_s, f"after {took_s:.1f} s in which there was a core, of {within_s:g} s at most: {ask}"
        return took_s
