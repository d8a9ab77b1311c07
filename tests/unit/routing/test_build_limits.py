"""How much of one backend the route table takes, and that it says so where it takes no more."""

from agent.model import ORIGIN_META_KEY, Json, NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes
from agent.routing.claims import ENTRIES_MAX, REFUSALS_MAX
from agent.routing.table import ConflictReason, Contribution, ContributionKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")
NODE_B = NodeIdentity("bb" * 16, "node-b")


def server(count: int) -> Contribution:
    tools = tuple(tool(f"t{number}") for number in range(count))
    return Contribution("server:s", ContributionKind.SERVER, "s", OWN, ServerScope.NODE, Offer(tools=tools))


def peer(*tools: Json) -> Contribution:
    return Contribution("peer:b", ContributionKind.MESH_PEER, "", NODE_B, None, Offer(tools=tools))


def of_peer(name: str, server: str = "s") -> Json:
    """A tool of the peer's server `s`, which may tell of another one."""
    origin = {"node": NODE_B.name, "node_id": NODE_B.node_id, "server": server, "tool": name, "scope": "node"}
    return {**tool(f"{NODE_B.name}__s__{name}"), "_meta": {ORIGIN_META_KEY: origin}}


def tool(name: str) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}}


def said(table: RouteTable) -> list[tuple[str, ConflictReason]]:
    return [(conflict.name, conflict.reason) for conflict in table.conflicts]


def test_what_one_backend_lists_beyond_the_limit_is_dropped_and_named() -> None:
    table = build_routes([server(ENTRIES_MAX + 1)], OWN)
    assert len(table.listed_tools()) == ENTRIES_MAX
    assert said(table) == [(f"tools beyond {ENTRIES_MAX}", ConflictReason.LIMIT)]


def test_the_management_tools_of_a_peer_take_no_place_of_what_its_servers_have() -> None:
    management = tool("list_mcp_servers"), tool("reload_mcp_server")
    full = [of_peer(f"t{number}") for number in range(ENTRIES_MAX)]
    table = build_routes([peer(*management, *full)], OWN)
    assert len(table.listed_tools()) == ENTRIES_MAX
    assert table.conflicts == ()


def test_a_peer_that_gets_everything_wrong_does_not_flood_the_status() -> None:
    table = build_routes([peer(*(of_peer(f"t{number}", server="other") for number in range(500)))], OWN)
    assert len(table.conflicts) == REFUSALS_MAX + 1
    assert (f"{500 - REFUSALS_MAX} more entries", ConflictReason.LIMIT) in said(table)
