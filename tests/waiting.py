"""Waiting for what other processes do: ask again until it is so, or fail with the last answer.

The one rule: every wait has a limit, and its failure says what was seen last.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import TypeVar

import aiohttp

T = TypeVar("T")

POLL_S = 0.02
# A wait of seconds asks less and less often: each question costs the machine that it waits for some of its time.
POLL_MAX_S = 0.1
POLL_GROWS_BY = 1.1
# A node that was away is dialled again after a back-off of 30 s at most; the rest is the test machine's.
PATIENCE_S = 45.0


async def eventually(ask: Callable[[], Awaitable[T]], timeout_s: float = PATIENCE_S) -> T:
    """Repeat `ask` until its answer is true; an assertion or connection error in it counts as "not yet"."""
    last: object = None
    pause, pause_s = asyncio.Event(), POLL_S
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    last = await ask()
                    if last:
                        return last
                except (AssertionError, aiohttp.ClientError, OSError) as exc:
                    last = exc
                try:
                    async with asyncio.timeout(pause_s):
                        await pause.wait()
                except TimeoutError:
                    pause_s = min(pause_s * POLL_GROWS_BY, POLL_MAX_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s; last: {last!r}") from None


async def all_of(starts: Iterable[Awaitable[T]]) -> list[T]:
    """Await all at once; the results in their order."""

    async def one(start: Awaitable[T]) -> T:
        return await start

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(start), name=f"one of many {number}") for number, start in enumerate(starts)]
    return [task.result() for task in tasks]


@types.coroutine
def one_pass() -> Generator[None, None, None]:
    """Exactly one pass of the event loop."""
    yield
