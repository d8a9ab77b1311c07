"""The flag of links behaves as an `asyncio.Event` does: both pass the same tests."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.client.event import Event, first_of

pytestmark = pytest.mark.looptime


@pytest.fixture(params=[Event, asyncio.Event])
def make(request: pytest.FixtureRequest) -> Callable[[], Event]:
    made: Callable[[], Event] = request.param
    return made


async def turn() -> None:
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_soon(passed.set_result, None)
    await passed


async def noted(waited: Awaitable[object], notes: list[str], name: str) -> None:
    await waited
    notes.append(name)


async def test_a_waiter_continues_when_it_is_set_and_at_once_while_it_is(make: Callable[[], Event]) -> None:
    flag, notes = make(), list[str]()
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            group.create_task(noted(flag.wait(), notes, name), name=name)
        await turn()
        assert (notes, flag.is_set()) == ([], False)
        flag.set()
        assert flag.is_set()
        flag.set()
    assert notes == ["a", "b"]
    await flag.wait()


async def test_an_event_that_is_cleared_at_once_still_wakes_its_waiters_and_no_later_one(
    make: Callable[[], Event],
) -> None:
    flag, notes = make(), list[str]()
    async with asyncio.TaskGroup() as group:
        group.create_task(noted(flag.wait(), notes, "before"), name="before")
        await turn()
        flag.set()
        flag.clear()
        after = group.create_task(noted(flag.wait(), notes, "after"), name="after")
        for _ in range(3):
            await turn()
        assert notes == ["before"]
        assert not after.done()
        flag.set()
    assert notes == ["before", "after"]


async def test_a_waiter_that_gives_up_leaves_the_others_waiting(make: Callable[[], Event]) -> None:
    flag, notes = make(), list[str]()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(noted(flag.wait(), notes, "first"), name="first")
        group.create_task(noted(flag.wait(), notes, "second"), name="second")
        await turn()
        first.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await flag.wait()
        flag.set()
    assert notes == ["second"]


async def test_a_waiter_that_is_cancelled_as_it_is_set_gives_up(make: Callable[[], Event]) -> None:
    flag, notes = make(), list[str]()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(noted(flag.wait(), notes, "x"), name="x")
        await turn()
        flag.set()
        task.cancel()
    assert notes == []


async def test_an_event_shows_its_state_and_keeps_no_waiter_that_left() -> None:
    flag = Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await flag.wait()
    assert repr(flag) == "<Event unset, 0 waiting>"
    flag.set()
    assert repr(flag) == "<Event set, 0 waiting>"


async def test_the_first_of_several_events_is_enough_and_none_keeps_its_waiters() -> None:
    flags, notes = [Event(), Event(), Event()], list[str]()
    async with asyncio.TaskGroup() as group:
        group.create_task(noted(first_of(*flags), notes, "any"), name="any")
        await turn()
        assert notes == []
        flags[1].set()
    assert notes == ["any"]
    assert [repr(flag) for flag in flags] == [
        "<Event unset, 0 waiting>",
        "<Event set, 0 waiting>",
        "<Event unset, 0 waiting>",
    ]
    await first_of(*flags)
