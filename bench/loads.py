"""The two loads that every comparison uses, and the turns that they take.

A way is one thing that can be called. The one rule: ways are measured in turn, never one after the other, so that the
machine's mood falls on all of them alike.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

Upstream = Callable[[], Awaitable[object]]
Measured = Callable[[Upstream], Awaitable[float]]

CALLERS = 32


async def in_turn(ways: Sequence[Upstream], measured: Measured, batches: int) -> list[list[float]]:
    """Measure each way once a batch; returns the samples of each way, in the order of the ways."""
    samples: list[list[float]] = [[] for _ in ways]
    for _ in range(batches):
        for way, taken in zip(ways, samples, strict=True):
            taken.append(await measured(way))
    return samples


async def latency_s(way: Upstream, calls: int) -> float:
    """The median time of one call, with one caller."""
    samples = []
    for _ in range(calls):
        started_s = time.perf_counter()
        await way()
        samples.append(time.perf_counter() - started_s)
    return statistics.median(samples)


async def rate(way: Upstream, calls: int, callers: int = CALLERS) -> float:
    """Calls per second with so many callers at once."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await way()

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(), name=f"caller {number}")
    return calls / (time.perf_counter() - started_s)
