"""A task group that is small while it is empty: it ends as the standard one, whatever its tasks do."""

import asyncio
import sys
from functools import partial

import pytest

from agent.client.small_task_group import SmallTaskGroup
from tests.waiting import eventually


def held(group: asyncio.TaskGroup) -> int:
    return sys.getsizeof(vars(group)["_tasks"])


async def has_none(group: asyncio.TaskGroup) -> bool:
    return not vars(group)["_tasks"]


def test_empty_group_takes_less_than_a_standard_one() -> None:
    assert held(SmallTaskGroup()) < held(asyncio.TaskGroup()) / 2


async def test_group_waits_for_its_tasks_and_forgets_those_that_have_ended() -> None:
    done: list[int] = []
    gate = asyncio.Event()

    async def work(number: int) -> None:
        await gate.wait()
        done.append(number)

    async with SmallTaskGroup() as group:
        tasks = [group.create_task(work(number), name=f"work {number}") for number in range(3)]
        assert set(vars(group)["_tasks"]) == set(tasks)
        gate.set()
        await eventually(partial(has_none, group))
        assert held(group) == held(SmallTaskGroup())
    assert done == [0, 1, 2]
    assert not vars(group)["_tasks"]


async def test_failure_of_one_task_cancels_the_others_and_is_raised_in_a_group() -> None:
    cancelled: list[bool] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def fails() -> None:
        raise LookupError

    async def all_of_it() -> None:
        async with SmallTaskGroup() as group:
            group.create_task(waits(), name="waits")
            group.create_task(waits(), name="waits, too")
            group.create_task(fails(), name="fails")

    with pytest.raises(ExceptionGroup) as raised:
        await all_of_it()
    assert [type(one) for one in raised.value.exceptions] == [LookupError]
    assert cancelled == [True, True]
