"""What is read of one backend's offer, and what is left out of it."""

from dataclasses import replace

from agent.model import Json, NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes, local_contributions
from agent.routing.table import Contribution, ContributionKind, RouteKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")


def tool(name: str) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}}


def listed(table: RouteTable) -> list[str]:
    return [route.public_name for route in table.listed_tools()]


def test_what_is_blocked_is_left_out_for_clients_and_for_other_nodes_and_said_with_its_reason() -> None:
    offer = Offer(tools=(tool("a"), tool("b")))
    free = Contribution("server:s", ContributionKind.SERVER, "s", OWN, ServerScope.SERVICE, offer)
    blocked = replace(free, blocked={(RouteKind.TOOL, "b"): "it has changed", (RouteKind.PROMPT, "a"): "another kind"})
    table = build_routes([blocked], OWN)
    assert listed(table) == ["s__a"]
    assert [(left.name, left.why) for left in table.left_out] == [("b", "it has changed")]
    assert "s__b" not in table.tools
    assert listed(build_routes(local_contributions([blocked]), OWN)) == ["s__a"]
    assert listed(build_routes([free], OWN, table)) == ["s__a", "s__b"]
