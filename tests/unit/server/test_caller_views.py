"""The tables of single callers: nearly always there are none, and then a call pays nothing for them."""

from typing import Any

from agent.links.session_offers import SessionOffers
from agent.model import NodeIdentity, Offer
from agent.routing.table import RouteTable
from agent.server.caller_views import CallerViews, Tables

TABLE = RouteTable()


def views_over(offers: SessionOffers, made: list[str]) -> CallerViews:
    def index(*_: object, **__: object) -> Any:
        return object()

    class Counted(Tables):
        def shown(self, whole: RouteTable) -> RouteTable:
            made.append("a table")
            return whole

    return CallerViews(
        Counted(lambda: TABLE),
        index,
        offers=offers,
        own=NodeIdentity("id", "node"),
        link=lambda _: None,
        for_clients=True,
    )


def test_a_call_whose_caller_has_no_offer_of_its_own_makes_no_table() -> None:
    made: list[str] = []
    offers = SessionOffers()
    views = views_over(offers, made)
    assert views.offers_of("a session") is views.offers_of("a session"), "no caller has a session with a server"
    offers.opened("server:kit", "another caller")
    assert views.offers_of("a session") is views.offers_of("a session"), "another caller has one"
    assert views.index_of({}, "a session") is views.index
    assert made == []


def test_an_offer_that_changes_is_another_object() -> None:
    offers = SessionOffers()
    before = offers.of("caller")
    offers.opened("server:kit", "caller")
    assert offers.of("caller") is before
    offers.put("server:kit", "caller", Offer(digest="1"))
    assert offers.of("caller") is not before
