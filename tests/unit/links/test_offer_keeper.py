"""When an offer is read again: list changes always, the catalog's word only where it tells of another offer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.links.offer_keeper import Relisting
from agent.model import ORIGIN_META_KEY, Json, Offer
from agent.routing.digest import exported_digest

pytestmark = pytest.mark.looptime

ORIGIN: Json = {"_meta": {ORIGIN_META_KEY: {"node": "a"}}}
OLD = Offer(tools=({"name": "one", **ORIGIN},))
NEW = Offer(tools=({"name": "two", **ORIGIN},))
# What the catalog says: where, which start, which offer; of two instances in one breath.
SAID = "http://192.0.2.7:8000/mcp 3 {} | http://192.0.2.8:8000/mcp 1"


def said(offer: Offer) -> str:
    return SAID.format(exported_digest(offer))


async def is_due(relisting: Relisting) -> bool:
    try:
        async with asyncio.timeout(60):
            await relisting.due()
    except TimeoutError:
        return False
    return True


def known(offer: Offer) -> Relisting:
    relisting = Relisting()
    relisting.taken(offer)
    return relisting


async def test_without_a_change_nothing_is_due() -> None:
    assert not await is_due(known(OLD))


async def test_a_list_change_is_due_once_whatever_is_known() -> None:
    relisting = known(OLD)
    relisting.set()
    assert await is_due(relisting)
    assert not await is_due(relisting)


async def test_a_sighting_of_the_offer_that_is_known_is_not_due_and_one_of_another_is() -> None:
    relisting = known(OLD)
    relisting.sighted(said(OLD))
    assert not await is_due(relisting)
    relisting.sighted(said(NEW))
    assert await is_due(relisting)
    relisting.sighted("http://192.0.2.9:8000/mcp")
    assert await is_due(relisting), "who says nothing of its offer may have any"


async def test_a_sighting_before_the_listing_that_it_announces_is_not_due_after_it() -> None:
    relisting = known(OLD)
    relisting.set()
    assert await is_due(relisting)
    relisting.sighted(said(NEW))
    relisting.taken(NEW)
    assert not await is_due(relisting)


@pytest.mark.parametrize("order", [1, -1])
async def test_a_list_change_counts_beside_a_sighting(order: int) -> None:
    relisting = known(OLD)
    asks: list[Callable[[], None]] = [relisting.set, lambda: relisting.sighted(said(OLD))]
    for ask in asks[::order]:
        ask()
    assert await is_due(relisting)
    assert not await is_due(relisting), "one listing answers both"


async def test_what_was_wanted_before_a_listing_began_is_answered_by_it() -> None:
    relisting = known(OLD)
    relisting.set()
    relisting.clear()
    relisting.sighted(said(OLD))
    assert not await is_due(relisting)


async def test_a_waiter_through_a_needless_sighting_still_gets_the_next_change() -> None:
    relisting = known(OLD)

    async def waits(due: Awaitable[None]) -> float:
        await due
        return asyncio.get_running_loop().time()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waits(relisting.due()), name="waits")
        await asyncio.sleep(1)
        relisting.sighted(said(OLD))
        await asyncio.sleep(1)
        relisting.set()
    assert waiting.result() == 2.0


def test_management_tools_do_not_count_in_the_digest_of_an_offer() -> None:
    with_ours = Offer(tools=(*OLD.tools, {"name": "list_mcp_servers"}, {"name": "x", "_meta": 7}))
    assert exported_digest(with_ours) == exported_digest(OLD) != exported_digest(NEW)
