"""Turns to dial in loop time: quick dials share the places, silent ones hold none back."""

import asyncio

import pytest

from agent.links.dial import TURN_S, turn

pytestmark = pytest.mark.looptime


async def dial(places: asyncio.Semaphore, takes_s: float) -> float:
    """When its turn came."""
    async with turn(places):
        began_at_s = asyncio.get_running_loop().time()
        await asyncio.sleep(takes_s)
        return began_at_s


async def refused(places: asyncio.Semaphore, takes_s: float) -> None:
    async with turn(places):
        await asyncio.sleep(takes_s)
        raise ValueError("refused")


async def turns(places: asyncio.Semaphore, *take_s: float) -> list[float]:
    """When each one's turn came, in the order in which they asked."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(dial(places, takes_s), name=f"dial {n}") for n, takes_s in enumerate(take_s)]
    return [task.result() for task in tasks]


async def test_quick_dials_wait_for_one_that_is_over() -> None:
    short_s, long_s = TURN_S / 4, TURN_S / 2
    began = await turns(asyncio.Semaphore(2), short_s, long_s, short_s, short_s)
    assert began == pytest.approx([0.0, 0.0, short_s, long_s])


async def test_a_dial_of_a_silent_peer_gives_its_place_to_the_next() -> None:
    began = await turns(asyncio.Semaphore(2), *[5.0] * 6, 0.1)
    assert began == pytest.approx([0.0, 0.0, TURN_S, TURN_S, 2 * TURN_S, 2 * TURN_S, 3 * TURN_S])


async def test_a_place_is_given_back_once_however_a_dial_ends() -> None:
    places = asyncio.Semaphore(1)
    for takes_s in (0.0, TURN_S, 2 * TURN_S):
        with pytest.raises(ValueError, match="refused"):
            await refused(places, takes_s)
    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(dial(places, 60.0), name="cancelled")
        await asyncio.sleep(TURN_S / 2)
        cancelled.cancel()
    short_s = TURN_S / 4
    assert (await turns(places, short_s, short_s))[1] - asyncio.get_running_loop().time() == pytest.approx(-short_s)
    await places.acquire()
    assert places.locked(), "there was one place, and there is one"
