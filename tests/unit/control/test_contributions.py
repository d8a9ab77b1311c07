"""Large offers are read aside, and only those that are not known as they are."""

import threading

import pytest

from agent.control import contributions as large_offers
from agent.control.contributions import LARGE, read_large
from agent.model import NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes
from agent.routing.claims import read_contribution
from agent.routing.table import Contribution, ContributionKind, Imported

OWN = NodeIdentity("0a" * 16, "home")


def server(name: str, count: int, digest: str = "d") -> Contribution:
    tools = tuple({"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(count))
    return Contribution(
        f"server:{name}", ContributionKind.SERVER, name, None, ServerScope.SERVICE, Offer(tools=tools, digest=digest)
    )


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Whose offer was read aside, and whether that was out of the loop's thread."""
    found: list[tuple[str, bool]] = []

    def noted(contribution: Contribution, own: NodeIdentity) -> Imported:
        found.append((contribution.label, threading.current_thread() is not threading.main_thread()))
        return read_contribution(contribution, own)

    monkeypatch.setattr(large_offers, "read_contribution", noted)
    return found


async def test_only_large_offers_are_read_aside_and_out_of_the_loop(readers: list[tuple[str, bool]]) -> None:
    small, large = server("small", LARGE), server("large", LARGE + 1)
    known = await read_large([small, large], OWN, {})
    assert readers == [("large", True)]
    assert known == {large.backend_key: read_contribution(large, OWN)}
    assert build_routes([small, large], OWN, known=known) == build_routes([small, large], OWN)


async def test_an_offer_that_is_known_is_not_read_again_and_a_changed_one_is(readers: list[tuple[str, bool]]) -> None:
    known = await read_large([server("large", LARGE + 1)], OWN, {})
    assert await read_large([server("large", LARGE + 1)], OWN, known) is known
    assert len(readers) == 1
    more = await read_large([server("large", LARGE + 2, "other")], OWN, known)
    assert len(more["server:large"].claims[0].routes) > len(known["server:large"].claims[0].routes)


async def test_a_table_takes_nothing_that_was_read_of_an_offer_that_has_changed_meanwhile() -> None:
    known = await read_large([server("large", LARGE + 1)], OWN, {})
    table = build_routes([server("large", 1, "other")], OWN, known=known)
    assert len(table.listed_tools()) == 1
