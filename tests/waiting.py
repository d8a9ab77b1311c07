"""Waiting for what other processes do: ask again until it is so, or fail with the last answer.

The one rule: every wait has a limit, and its failure says what was seen last.
"""

import asyncio
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp

T = TypeVar("T")

POLL_S = 0.02
# A wait of seconds asks less and less often: each question costs the machine that it waits for some of its time.
POLL_MAX_S = 0.3
POLL_GROWS_BY = 1.1
BEAT_S = 0.05
# A node that was away is dialled again after a back-off of 30 s at most; the rest is the test machine's.
PATIENCE_S = 45.0
# From a connection that is accepted to the first step of what serves it: a task, a transport, a protocol, a task.
PASSES_TO_SERVE = 4
# Four times what a burst of changes is gathered for, be it notices or registrations.
QUIET_S = 1.0
# For what is heard of: after 30 s nodes and registrars look at everything again, which would repair what they missed.
UNREPAIRED_S = 25.0


async def eventually(ask: Callable[[], Awaitable[T]], timeout_s: float = PATIENCE_S) -> T:
    """Repeat `ask` until its answer is true; an assertion, lookup or connection error counts as "not yet"."""
    last: object = None
    pause, pause_s = asyncio.Event(), POLL_S
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    last = await ask()
                    if last:
                        return last
                except (AssertionError, LookupError, aiohttp.ClientError, OSError) as exc:
                    last = exc
                try:
                    async with asyncio.timeout(pause_s):
                        await pause.wait()
                except TimeoutError:
                    pause_s = min(pause_s * POLL_GROWS_BY, POLL_MAX_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s; last: {last!r}") from None


async def settled(ask: Callable[[], Awaitable[T]], quiet_s: float = QUIET_S) -> T:
    """Its answer, once it has been the same for so long."""
    seen: list[tuple[T, float]] = []

    async def is_settled() -> bool:
        answer, now_s = await ask(), time.monotonic()
        if not seen or seen[-1][0] != answer:
            seen.append((answer, now_s))
        return now_s - seen[-1][1] >= quiet_s

    await eventually(is_settled)
    return seen[-1][0]


async def all_of(starts: Iterable[Awaitable[T]]) -> list[T]:
    """Await all at once; the results in their order."""

    async def one(start: Awaitable[T]) -> T:
        return await start

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(start), name=f"one of many {number}") for number, start in enumerate(starts)]
    return [task.result() for task in tasks]


@asynccontextmanager
async def running_time() -> AsyncIterator[Callable[[], float]]:
    """A clock of the seconds in which this process ran; hardly any go by while it stands still.

    For what the kernel does in its own time and this process only hears of: a machine whose disk is busy can hold up
    whatever writes to a file for ten seconds.
    """
    loop, ran_s, last_s = asyncio.get_running_loop(), 0.0, time.monotonic()
    timer: asyncio.TimerHandle

    def read() -> float:
        return ran_s + min(time.monotonic() - last_s, 2 * BEAT_S)

    def beat() -> None:
        nonlocal ran_s, last_s, timer
        ran_s, last_s = read(), time.monotonic()
        timer = loop.call_later(BEAT_S, beat)

    timer = loop.call_later(BEAT_S, beat)
    try:
        yield read
    finally:
        timer.cancel()


@asynccontextmanager
async def promised_within(seconds: float) -> AsyncIterator[None]:
    """Fail where the body takes longer than this of `running_time`, or for ever. For parts of this very process."""
    async with asyncio.timeout(max(PATIENCE_S, seconds)), running_time() as ran_s:
        yield
        took_s = ran_s()
    assert took_s <= seconds, f"{took_s:.2f} s, and {seconds:g} s were promised"


@types.coroutine
def one_pass() -> Generator[None, None, None]:
    """Exactly one pass of the event loop."""
    yield


async def accepted_are_served() -> None:
    """Let all that this loop has accepted come to what serves it: after a server closes, before its connections end."""
    for _ in range(PASSES_TO_SERVE):
        await one_pass()
