"""Short names: what this node's clients see of its own servers, and that no other node changes it."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from agent.model import NodeIdentity, Offer, PeerScope, ServerScope, ServerSpec, StdioTarget, ViewSpec
from agent.routing.away import Absence, with_away
from agent.routing.build import build_routes, local_contributions
from agent.routing.client_names import ClientNames
from agent.routing.table import Contribution, ContributionKind, RouteKind, RouteTable
from agent.routing.view import find_server, show

OWN, OTHER = NodeIdentity("0a" * 16, "laptop"), NodeIdentity("0b" * 16, "desk")
SHORT = ClientNames(short=True)
FILES = ServerSpec("files", StdioTarget("x"), ServerScope.NODE)
NOTES = ServerSpec("notes", StdioTarget("x"), ServerScope.PRIVATE)
CONFIGURED = (FILES, NOTES)


def server(name: str, *tools: str, scope: ServerScope, node: NodeIdentity = OWN) -> Contribution:
    offer = Offer(
        tools=tuple({"name": tool, "description": node.name, "inputSchema": {"type": "object"}} for tool in tools),
        prompts=({"name": "ask"},),
        resources=({"uri": f"{name}://home", "name": "home"},),
    )
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, node, scope, offer)


def peer(*servers: Contribution, node: NodeIdentity = OTHER) -> Contribution:
    """Another node with these servers."""
    table = build_routes(local_contributions(servers), node)
    offer = Offer(
        tools=tuple(route.definition for route in table.listed_tools()),
        prompts=tuple(route.definition for route in table.listed_prompts()),
        resources=tuple(
            route.definition for kind in (RouteKind.RESOURCE, RouteKind.SERVER) for route in table.listed(kind)
        ),
    )
    return Contribution(f"peer:{node.name}", ContributionKind.MESH_PEER, node.name, node, None, offer)


OURS = (
    server("files", "read", scope=ServerScope.NODE),
    server("notes", "add", scope=ServerScope.PRIVATE),
    server("weather", "forecast", scope=ServerScope.SERVICE),
)


def shown(*parts: Contribution, before: RouteTable | None = None, names: ClientNames = SHORT) -> RouteTable:
    return names.of(build_routes(parts, OWN, for_clients=True), OWN, CONFIGURED, before)


def names_in(table: RouteTable) -> list[str]:
    return [route.public_name for route in table.listed_tools()]


def test_own_servers_go_without_the_name_of_the_node_only_where_that_is_wanted() -> None:
    assert names_in(shown(*OURS)) == ["files__read", "notes__add", "weather__forecast"]
    long = ["laptop__files__read", "laptop__notes__add", "weather__forecast"]
    assert names_in(shown(*OURS, names=ClientNames())) == long


def test_both_forms_lead_to_the_same_tool_and_say_what_is_listed() -> None:
    table = shown(*OURS)
    short, long = table.tools["files__read"], table.tools["laptop__files__read"]
    assert short.replicas == long.replicas
    assert short.definition is long.definition
    assert short.definition["name"] == "files__read"
    assert not long.listed
    assert [route.public_name for route in table.listed_prompts()] == ["files__ask", "notes__ask", "weather__ask"]
    assert table.find_uri("files://laptop__files/home") is not None


@pytest.mark.parametrize(
    "theirs",
    [
        (server("files", "read", "write", scope=ServerScope.NODE, node=OTHER),),
        (server("files", "read", "write", scope=ServerScope.SERVICE, node=OTHER),),
        (server("files", "read", "write", scope=ServerScope.FLEET, node=OTHER),),
        (server("notes", "add", scope=ServerScope.SERVICE, node=OTHER),),
    ],
)
def test_no_server_of_another_node_changes_what_a_short_name_means(theirs: tuple[Contribution, ...]) -> None:
    alone = shown(*OURS)
    joined = shown(*OURS, peer(*theirs), before=alone)
    left = shown(*OURS, before=joined)
    for name in ("files__read", "notes__add"):
        assert joined.tools[name].definition is alone.tools[name].definition
        assert [replica.ours for replica in joined.tools[name].replicas] == [True]
        assert left.tools[name].definition is alone.tools[name].definition
    # What is theirs alone is not half of ours, and has the name of its node.
    assert "files__write" not in joined.tools
    assert f"desk__{theirs[0].label}__{'add' if theirs[0].label == 'notes' else 'write'}" in joined.tools
    assert names_in(left) == names_in(alone)


def test_a_server_that_is_away_keeps_its_short_name_from_others() -> None:
    theirs = peer(server("files", "read", scope=ServerScope.SERVICE, node=OTHER))
    by_nodes = build_routes(OURS, OWN, for_clients=True)
    without = build_routes([*OURS[1:], theirs], OWN, by_nodes, for_clients=True)
    absence = Absence(expected=frozenset({FILES.key}))
    away = SHORT.of(with_away(by_nodes, without, absence, OWN, 5.0), OWN, CONFIGURED)
    found = away.find(RouteKind.TOOL, "files__read")
    assert found is not None
    assert (found.away_since_s, found.replicas[0].ours) == (5.0, True)
    assert "files__read" not in away.tools


def test_every_short_name_of_a_server_that_was_never_listed_is_away() -> None:
    absence = Absence(unlisted=((FILES, 3.0),))
    empty = RouteTable()
    table = SHORT.of(with_away(empty, build_routes([], OWN, for_clients=True), absence, OWN, 5.0), OWN, CONFIGURED)
    for name in ("files__anything", "laptop__files__anything"):
        found = table.find(RouteKind.TOOL, name)
        assert found is not None
        assert found.away_since_s == 3.0
    assert table.find(RouteKind.TOOL, "others__anything") is None
    assert len(table.places()) == 1


def test_the_server_of_a_name_is_our_own_whatever_another_node_has() -> None:
    table = shown(*OURS, peer(server("files", "read", scope=ServerScope.NODE, node=OTHER)))
    found = find_server(table, "files")
    assert found is not None
    assert found.public_name == "files"
    assert find_server(table, "laptop__files") == found
    theirs = find_server(table, "desk__files")
    assert theirs is not None
    assert theirs.public_name == "desk__files"
    alone = show(table, ViewSpec(servers=("files",), alone=True)).table
    assert [route.definition["name"] for route in alone.listed_tools()] == ["read"]


@pytest.mark.parametrize("tools", [("laptop__files__*",), ("files__*",), ("*", "!laptop__notes__*", "!weather__*")])
def test_patterns_of_tokens_and_views_hold_for_both_forms(tools: Collection[str]) -> None:
    part = show(shown(*OURS), ViewSpec(tools=tuple(tools))).table
    assert names_in(part) == ["files__read"]
    assert part.find(RouteKind.TOOL, "laptop__files__read") is not None
    assert part.find(RouteKind.TOOL, "laptop__notes__add") is None


def test_a_view_renames_and_describes_a_tool_by_either_form() -> None:
    view = ViewSpec(aliases={"laptop__files__read": "open"}, descriptions={"files__read": "Reads a file."})
    tools = show(shown(*OURS), view).table.tools
    assert tools["open"].definition["description"] == "Reads a file."


def test_gateways_and_other_nodes_see_long_names() -> None:
    listing = build_routes(local_contributions(OURS), OWN)
    assert names_in(listing) == ["laptop__files__read", "weather__forecast"]
    imported = replace(peer(), node=OWN, label=OWN.name, peer_scope=PeerScope.MESH)
    offer = Offer(tools=tuple(route.definition for route in build_routes(OURS, OWN, for_clients=True).listed_tools()))
    there = build_routes([replace(imported, offer=offer)], OTHER)
    assert not there.conflicts
    assert names_in(there) == ["laptop__files__read", "weather__forecast"]


def namesake(*tools: str) -> Contribution:
    """A node that is called as our server of files."""
    node = NodeIdentity("0c" * 16, "files")
    return peer(server("disk", *tools, scope=ServerScope.NODE, node=node), node=node)


def test_a_node_that_is_called_as_an_own_server_goes_by_its_name_and_id_and_takes_no_short_name() -> None:
    alone = shown(server("files", "read", "disk__wipe", scope=ServerScope.NODE))
    joined = shown(server("files", "read", "disk__wipe", scope=ServerScope.NODE), namesake("wipe", "x" * 60))
    assert joined.tools["files__disk__wipe"].definition == alone.tools["files__disk__wipe"].definition
    theirs = joined.tools["files-0c0c0c0c__disk__wipe"]
    assert theirs.listed
    assert theirs.definition["name"] == theirs.public_name == "files-0c0c0c0c__disk__wipe"
    assert len(names_in(joined)) == len(names_in(alone)) + 2
    assert max(map(len, names_in(joined))) == 64
    assert [name for name in names_in(joined) if name.startswith("files__")] == names_in(alone)
    found = find_server(joined, "files-0c0c0c0c__disk")
    assert found is not None
    assert found.listed


def test_while_an_own_server_is_away_no_node_of_its_name_is_sent_its_calls() -> None:
    absence = Absence(unlisted=((FILES, 3.0),))
    by_nodes = build_routes([namesake("wipe")], OWN, for_clients=True)
    table = SHORT.of(with_away(RouteTable(), by_nodes, absence, OWN, 5.0), OWN, CONFIGURED)
    found = table.find(RouteKind.TOOL, "files__disk__wipe")
    assert found is not None
    assert (found.away_since_s, found.owner) == (3.0, f"node:{OWN.node_id}/files")
    assert "files-0c0c0c0c__disk__wipe" in table.tools


@pytest.mark.parametrize("holder", [OWN, OTHER])
def test_a_name_that_is_pinned_to_other_nodes_is_no_short_name(holder: NodeIdentity) -> None:
    pinned = {"notes": frozenset({holder.node_id})}
    theirs = peer(server("notes", "add", scope=ServerScope.SERVICE, node=OTHER))
    parts = [replace(part, pinned=pinned) for part in (*OURS, theirs)]
    table = ClientNames(short=True, pinned=pinned).of(build_routes(parts, OWN, for_clients=True), OWN, CONFIGURED)
    assert [replica.node_id for replica in table.tools["notes__add"].replicas] == [holder.node_id]
    assert table.tools["laptop__notes__add"].replicas[0].ours
