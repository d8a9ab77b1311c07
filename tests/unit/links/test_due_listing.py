"""When an offer is read again: list changes always, the catalog's word only where it tells of another offer."""

from typing import TYPE_CHECKING

import pytest

from agent.links.due_listing import Relisting
from agent.model import ORIGIN_META_KEY, Json, Offer
from agent.routing.digest import exported_digest

if TYPE_CHECKING:
    from collections.abc import Callable

ORIGIN: Json = {"_meta": {ORIGIN_META_KEY: {"node": "a"}}}
OLD = Offer(tools=({"name": "one", **ORIGIN},))
NEW = Offer(tools=({"name": "two", **ORIGIN},))
# What the catalog says: where, which start, which offer; of two instances in one breath.
SAID = "http://192.0.2.7:8000/mcp 3 {} | http://192.0.2.8:8000/mcp 1"


def said(offer: Offer) -> str:
    return SAID.format(exported_digest(offer))


def known(offer: Offer) -> Relisting:
    relisting = Relisting(lambda: None)
    relisting.taken(offer)
    return relisting


def test_without_a_change_nothing_is_due() -> None:
    assert not known(OLD).is_due()


def test_a_list_change_is_due_once_whatever_is_known() -> None:
    relisting = known(OLD)
    relisting.set()
    assert relisting.is_due()
    assert not relisting.is_due()


def test_a_sighting_of_the_offer_that_is_known_is_not_due_and_one_of_another_is() -> None:
    relisting = known(OLD)
    relisting.sighted(said(OLD))
    assert not relisting.is_due()
    relisting.sighted(said(NEW))
    assert relisting.is_due()
    relisting.sighted("http://192.0.2.9:8000/mcp")
    assert relisting.is_due(), "who says nothing of its offer may have any"


def test_a_sighting_before_the_listing_that_it_announces_is_not_due_after_it() -> None:
    relisting = known(OLD)
    relisting.set()
    assert relisting.is_due()
    relisting.sighted(said(NEW))
    relisting.taken(NEW)
    assert not relisting.is_due()


@pytest.mark.parametrize("order", [1, -1])
def test_a_list_change_counts_beside_a_sighting(order: int) -> None:
    relisting = known(OLD)
    asks: list[Callable[[], None]] = [relisting.set, lambda: relisting.sighted(said(OLD))]
    for ask in asks[::order]:
        ask()
    assert relisting.is_due()
    assert not relisting.is_due(), "one listing answers both"


def test_what_was_wanted_before_a_listing_began_is_answered_by_it() -> None:
    relisting = known(OLD)
    relisting.set()
    relisting.clear()
    relisting.sighted(said(OLD))
    assert not relisting.is_due()


def test_what_is_wanted_is_reported_at_once() -> None:
    told: list[bool] = []
    relisting = Relisting(lambda: told.append(relisting.is_due()))
    relisting.taken(OLD)
    relisting.sighted(said(OLD))
    relisting.set()
    assert told == [False, True]


def test_management_tools_do_not_count_in_the_digest_of_an_offer() -> None:
    with_ours = Offer(tools=(*OLD.tools, {"name": "list_mcp_servers"}, {"name": "x", "_meta": 7}))
    assert exported_digest(with_ours) == exported_digest(OLD) != exported_digest(NEW)
