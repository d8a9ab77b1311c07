"""Views of nodes that other nodes take for servers: they never list what came from that very node, however far."""

import pytest

from agent.model import NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes
from agent.routing.origins import THROUGH_MAX
from agent.routing.table import ConflictReason, Contribution, ContributionKind, RouteTable

KIT = Offer(tools=({"name": "go", "inputSchema": {"type": "object"}},))
NODES = [NodeIdentity(f"{n}{n}" * 16, f"n{n}") for n in range(THROUGH_MAX + 2)]
KINDS = pytest.mark.parametrize("kind", [ContributionKind.PLAIN_PEER, ContributionKind.SERVER])


def server(name: str, offer: Offer) -> Contribution:
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, NODES[0], ServerScope.SERVICE, offer)


def view_of(table: RouteTable, kind: ContributionKind) -> Contribution:
    """All that a node lists, as a server that another node calls `view`."""
    offer = Offer(tools=tuple(route.definition for route in table.listed_tools()))
    if kind is ContributionKind.SERVER:
        return server("view", offer)
    return Contribution("peer:view", kind, "view", None, None, offer)


def listed(table: RouteTable) -> list[str]:
    return [route.public_name for route in table.listed_tools()]


@KINDS
def test_what_came_from_us_is_not_listed_again(kind: ContributionKind) -> None:
    table = build_routes([server("kit", KIT)], NODES[0])
    for node in NODES[1:3]:
        table = build_routes([view_of(table, kind)], node)
    assert listed(table) == ["view__view__kit__go"]
    ours = build_routes([server("kit", KIT), view_of(table, kind)], NODES[0])
    assert listed(ours) == ["kit__go"]
    assert ours.conflicts == ()


@KINDS
def test_a_way_over_more_views_than_there_may_be_is_refused(kind: ContributionKind) -> None:
    table = build_routes([server("kit", KIT)], NODES[0])
    for node in NODES[1:]:
        assert len(listed(table)) == 1
        table = build_routes([view_of(table, kind)], node)
    assert listed(table) == []
    assert [conflict.reason for conflict in table.conflicts] == [ConflictReason.LIMIT]


@KINDS
def test_what_a_peer_of_ours_took_from_a_view_says_so_to_the_next(kind: ContributionKind) -> None:
    first = build_routes([server("kit", KIT)], NODES[0])
    second = build_routes([view_of(first, kind)], NODES[1])
    offer = Offer(tools=tuple(route.definition for route in second.listed_tools()))
    peer = Contribution("peer:n1", ContributionKind.MESH_PEER, "", NODES[1], None, offer)
    third = build_routes([peer], NODES[2])
    ours = build_routes([view_of(third, kind)], NODES[0])
    assert listed(ours) == []
