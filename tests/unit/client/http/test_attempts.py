"""Attempts at one connection: what hangs is begun anew, the first outcome counts, and nothing else is left of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.client.http.attempts import AGAIN_AFTER_S, Attempts
from agent.client.http.dial import DialFailed, Dialler
from tests.scripted_client import now_s

pytestmark = pytest.mark.looptime


class Dialled:
    """Attempts by their numbers. `takes_s`: how long each takes; what is no number is its failure, at once."""

    def __init__(self, *takes_s: float | Exception) -> None:
        self.takes_s = takes_s
        self.begun_at_s: list[float] = []
        self.ended: list[int] = []
        self.dropped: list[int] = []

    async def attempt(self) -> int:
        number = len(self.begun_at_s)
        self.begun_at_s.append(now_s())
        takes_s = self.takes_s[min(number, len(self.takes_s) - 1)]
        try:
            if isinstance(takes_s, Exception):
                raise takes_s
            await asyncio.sleep(takes_s)
        finally:
            self.ended.append(number)
        return number

    async def first(self) -> int:
        return await Attempts(self.attempt, self.dropped.append).first()


async def test_one_that_is_quick_is_the_only_one() -> None:
    dialled = Dialled(0.5)
    assert await dialled.first() == 0
    assert dialled.begun_at_s == [0]


async def test_one_that_hangs_is_begun_anew_beside_itself_and_the_first_to_come_through_counts() -> None:
    dialled = Dialled(3600, 3600, 0.1)
    assert await dialled.first() == 2
    assert now_s() == pytest.approx(2 * AGAIN_AFTER_S + 0.1)
    assert (sorted(dialled.ended), dialled.dropped) == ([0, 1, 2], [])


async def test_a_slow_one_is_not_given_up_for_those_that_were_begun_later() -> None:
    dialled = Dialled(4.9)
    assert await dialled.first() == 0
    assert len(dialled.begun_at_s) == 4


@pytest.mark.parametrize("takes_s", [(3600, ConnectionRefusedError()), (2.0, 3600, 3600), (ConnectionRefusedError(),)])
async def test_the_first_outcome_is_that_of_all_failures_too(takes_s: tuple[float | Exception, ...]) -> None:
    dialled = Dialled(*takes_s)
    if isinstance(takes_s[-1], Exception):
        with pytest.raises(ConnectionRefusedError):
            await dialled.first()
    else:
        assert await dialled.first() == 0
    assert len(dialled.ended) == len(dialled.begun_at_s)


async def test_one_that_comes_through_too_late_is_dropped() -> None:
    begun, both, dropped = 0, asyncio.Event(), list[int]()

    async def attempt() -> int:
        nonlocal begun
        begun += 1
        number = begun
        if number == 1:
            await asyncio.sleep(AGAIN_AFTER_S + 0.1)  # So it waits behind the second one.
        await both.wait()
        return number

    asyncio.get_running_loop().call_later(AGAIN_AFTER_S + 0.2, both.set)
    assert await Attempts(attempt, dropped.append).first() == 2
    assert dropped == [1]


@pytest.mark.parametrize("end", ["time", "caller"])
async def test_when_the_caller_gives_up_all_of_them_end(end: str) -> None:
    dialled = Dialled(3600)

    async def until(give_up: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(5, give_up)
        await dialled.first()

    if end == "time":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await dialled.first()
    else:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(asyncio.CancelledError):
            await until(task.cancel)
        task.uncancel()
    assert sorted(dialled.ended) == [0, 1, 2, 3]
    assert len(asyncio.all_tasks()) == 1


async def test_what_was_made_is_dropped_where_the_caller_gives_up_while_the_others_end() -> None:
    begun, dropped = 0, list[int]()

    async def attempt() -> int:
        nonlocal begun
        begun += 1
        number = begun
        try:
            await asyncio.sleep(2.0 if number == 1 else 3600)
        finally:
            if number == 2:
                await asyncio.sleep(1.0)
        return number

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5):
            await Attempts(attempt, dropped.append).first()
    assert dropped == [1]
    assert len(asyncio.all_tasks()) == 1


class Hanging(Dialler):
    """Never connects. `begun`: how many attempts were made."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 9, tls=False, timeout_s=5.0)
        self.begun = 0

    async def _attempt(self, make: Callable[[], Any]) -> Any:  # noqa: ARG002 - as `Dialler`
        self.begun += 1
        await asyncio.sleep(3600)


async def test_of_many_dials_at_once_one_is_begun_anew() -> None:
    """A server that hangs gets three connections more than it has callers, however many wait."""
    dialler = Hanging()
    for before in (0, 13):  # It is free again after that.
        async with asyncio.TaskGroup() as tasks:
            dials = [tasks.create_task(failed(dialler.dial(asyncio.Protocol)), name="dial") for _ in range(10)]
        assert all(dial.result() for dial in dials)
        assert dialler.begun == before + 13


async def failed(dial: Awaitable[object]) -> bool:
    try:
        await dial
    except DialFailed:
        return True
    return False
