"""The tools of a fleet: what clients see of many nodes, which nodes a call is for, and many answers as one."""

from dataclasses import replace
from typing import Any

import pytest

from agent.errors import MCPError
from agent.model import Json, NodeIdentity, Offer, ServerScope
from agent.routing.away import Absence, with_away
from agent.routing.build import build_routes, local_contributions
from agent.routing.fleet import NAMES_LISTED_MAX, changed_only_in_fleets, nodes_uri, with_fleets
from agent.routing.fleet_results import Row, merged
from agent.routing.fleet_targets import OneNode, SeveralNodes, targets_of
from agent.routing.origins import listed_origin
from agent.routing.table import ConflictReason, Contribution, ContributionKind, Route, RouteKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")
READ_ONLY: Json = {"annotations": {"readOnlyHint": True}}
USAGE: Json = {
    "name": "usage",
    "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    "outputSchema": {"type": "object", "properties": {"free": {"type": "integer"}}, "required": ["free"]},
    **READ_ONLY,
}
CLEAN: Json = {"name": "clean", "inputSchema": {"type": "object", "properties": {"node": {"type": "string"}}}}


def node(number: int) -> NodeIdentity:
    return NodeIdentity(f"{number:032x}", f"node-{number:03}")


def server(tools: tuple[Json, ...], at: NodeIdentity, scope: ServerScope = ServerScope.FLEET) -> Contribution:
    return Contribution("server:disk", ContributionKind.SERVER, "disk", at, scope, Offer(tools=tools))


def peer(tools: tuple[Json, ...], at: NodeIdentity, scope: ServerScope = ServerScope.FLEET) -> Contribution:
    """A node with the server, as it lists it to other nodes."""
    table = build_routes(local_contributions([server(tools, at, scope)]), at)
    offer = Offer(tools=tuple(route.definition for route in table.listed_tools()))
    return Contribution(f"peer:{at.name}", ContributionKind.MESH_PEER, "", at, None, offer)


def fleet_of(*parts: Contribution, writes: tuple[str, ...] = ()) -> RouteTable:
    return with_fleets(build_routes(parts, OWN, for_clients=True), writes)


def three(writes: tuple[str, ...] = ()) -> RouteTable:
    return fleet_of(*(peer((USAGE, CLEAN), node(number)) for number in range(3)), writes=writes)


def listed(table: RouteTable) -> list[str]:
    return [route.public_name for route in table.listed_tools()]


def targets(route: Route, **arguments: Any) -> OneNode | SeveralNodes:
    return targets_of(route, {"name": route.public_name, "arguments": arguments})


def test_each_tool_is_listed_once_with_the_nodes_that_serve_it() -> None:
    table = three()
    assert listed(table) == ["disk__clean", "disk__usage"]
    schema = table.tools["disk__usage"].definition["inputSchema"]
    assert schema["required"] == ["node", "path"]
    one, many = schema["properties"]["node"]["anyOf"]
    assert one["enum"] == ["node-000", "node-001", "node-002", "any", "all"]
    assert many["items"]["enum"] == ["node-000", "node-001", "node-002"]
    assert "node-001__disk__usage" in table.tools, "the tool of one node still resolves"


def test_a_tool_that_writes_and_has_a_node_of_its_own_takes_mesh_node_and_one_name() -> None:
    schema = three().tools["disk__clean"].definition["inputSchema"]
    assert list(schema["properties"]) == ["mesh_node", "node"]
    assert schema["properties"]["mesh_node"]["enum"] == ["node-000", "node-001", "node-002", "any"]
    several = three(("disk__cl*",)).tools["disk__clean"].definition["inputSchema"]["properties"]["mesh_node"]
    assert "all" in several["anyOf"][0]["enum"]


def test_the_output_schema_allows_one_answer_and_the_rows_of_several() -> None:
    shown = three().tools["disk__usage"].definition["outputSchema"]
    assert shown["type"] == "object"
    assert shown["properties"]["free"] == {"type": "integer"}
    assert shown["properties"]["results"]["items"]["required"] == ["node", "outcome", "content"]
    assert shown["anyOf"] == [{"required": ["free"]}, {"required": ["results"]}]
    assert "outputSchema" not in three().tools["disk__clean"].definition


def test_a_hundred_nodes_of_ten_tools_are_ten_entries_and_more_are_not_named_in_them() -> None:
    tools = tuple({**USAGE, "name": f"tool_{number}"} for number in range(10))
    hundred = [peer(tools, node(number)) for number in range(NAMES_LISTED_MAX)]
    table = fleet_of(*hundred)
    assert len(listed(table)) == 10
    assert not table.listed_resources()
    more = fleet_of(*hundred, peer(tools, node(NAMES_LISTED_MAX)))
    one = more.tools["disk__tool_1"].definition["inputSchema"]["properties"]["node"]["anyOf"][0]
    assert "enum" not in one
    assert "pattern" in one
    assert [route.public_name for route in more.listed_resources()] == [nodes_uri("disk")]
    assert len(more.listed_templates()) == 1


def test_the_most_frequent_definition_is_shown_and_the_others_are_findings() -> None:
    other = {**USAGE, "description": "another release"}
    table = fleet_of(peer((USAGE,), node(0)), peer((other,), node(1)), peer((other,), node(2)))
    route = table.tools["disk__usage"]
    assert route.definition["description"] == "another release"
    assert route.fleet is not None
    assert (sorted(route.fleet.members), list(route.fleet.others)) == (["node-001", "node-002"], ["node-000"])
    (found,) = [conflict for conflict in table.conflicts if conflict.reason is ConflictReason.DEFINITION]
    assert (found.name, found.others) == ("disk__usage", ("peer:node-000",))
    several = targets(route, node="all", path="/")
    assert isinstance(several, SeveralNodes)
    assert several.refusals["node-000"][0] == "not_executed"
    with pytest.raises(MCPError, match="another definition"):
        targets(route, node="node-000")


def test_a_name_that_another_owner_has_is_not_taken() -> None:
    service = peer((USAGE,), node(7), ServerScope.SERVICE)
    table = fleet_of(service, peer((USAGE,), node(0)))
    assert listed(table) == ["disk__usage", "node-000__disk__usage"]
    assert table.tools["disk__usage"].fleet is None
    assert [(one.name, one.others) for one in table.conflicts] == [("disk__usage", ("fleet:disk",))]


def test_lists_differ_in_fleets_alone_where_only_nodes_come_and_go() -> None:
    kinds = frozenset({RouteKind.TOOL, RouteKind.PROMPT, RouteKind.RESOURCE})
    before, after = three(), fleet_of(peer((USAGE, CLEAN), node(0)))
    assert changed_only_in_fleets(before, after, kinds) == kinds
    alone = fleet_of(peer((USAGE,), node(0), ServerScope.NODE))
    assert changed_only_in_fleets(before, alone, kinds) == kinds - {RouteKind.TOOL}


@pytest.mark.parametrize("scope", [ServerScope.FLEET, ServerScope.NODE])
def test_prompts_and_resources_of_single_nodes_of_a_fleet_are_the_fleets(scope: ServerScope) -> None:
    def table(count: int) -> RouteTable:
        offer = Offer(tools=(USAGE,), prompts=({"name": "p"},), resources=({"uri": "disk://table", "name": "t"},))
        return fleet_of(
            *(
                Contribution(f"server:disk{number}", ContributionKind.SERVER, f"disk{number}", OWN, scope, offer)
                for number in range(count)
            )
        )

    kinds = frozenset({RouteKind.TOOL, RouteKind.PROMPT, RouteKind.RESOURCE})
    only = changed_only_in_fleets(table(1), table(2), kinds)
    assert only == (kinds if scope is ServerScope.FLEET else frozenset())


def test_nodes_of_one_name_and_nodes_called_as_a_word_are_named_with_their_ids() -> None:
    twins = [NodeIdentity(f"{number:08x}" + "0" * 24, "twin") for number in (1, 2)]
    words = [NodeIdentity(f"{number:08x}" + "0" * 24, name) for number, name in ((3, "any"), (4, "all"))]
    parts = [replace(peer((USAGE, CLEAN), one), backend_key=f"peer:{one.node_id}") for one in (*twins, *words)]
    table = fleet_of(*parts)
    names = ["all-00000004", "any-00000003", "twin", "twin-00000002"]
    schema = table.tools["disk__clean"].definition["inputSchema"]
    assert schema["properties"]["mesh_node"]["enum"] == [*names, "any"]
    several = targets(table.tools["disk__usage"], node="all", path="/")
    assert isinstance(several, SeveralNodes)
    assert sorted(one.replicas[0].backend_key for one in several.calls.values() if one is not None) == sorted(
        part.backend_key for part in parts
    )
    one = targets(table.tools["disk__usage"], node="twin-00000002", path="/")
    assert isinstance(one, OneNode)
    assert one.params["name"] == "twin-00000002__disk__usage"


def test_a_node_of_a_taken_name_that_is_away_is_still_known_by_its_id() -> None:
    twins = [NodeIdentity(f"{number:08x}" + "0" * 24, "twin") for number in (1, 2)]
    parts = [replace(peer((USAGE,), one), backend_key=f"peer:{one.node_id}") for one in twins]
    before = build_routes(parts, OWN, for_clients=True)
    after = build_routes(parts[:1], OWN, before, 1.0, for_clients=True)
    table = with_fleets(with_away(before, after, Absence(frozenset({parts[1].backend_key})), OWN, 1.0), ())
    several = targets(table.tools["disk__usage"], node="all", path="/")
    assert isinstance(several, SeveralNodes)
    assert list(several.calls) == ["twin", "twin-00000002"]
    assert several.refusals["twin-00000002"][0] == "away"


def test_a_definition_that_has_not_changed_is_the_same_object_in_the_next_table() -> None:
    parts = [peer((USAGE,), node(number)) for number in range(3)]
    built = build_routes(parts, OWN, for_clients=True)
    first = with_fleets(built, ())
    assert with_fleets(built, (), before=first).tools["disk__usage"].definition is first.tools["disk__usage"].definition


def test_a_call_goes_to_the_node_that_it_names_without_that_argument() -> None:
    route = three().tools["disk__usage"]
    one = targets(route, node="node-001", path="/")
    assert isinstance(one, OneNode)
    assert one.params == {"name": "node-001__disk__usage", "arguments": {"path": "/"}}
    assert [replica.backend_key for replica in one.route.replicas] == ["peer:node-001"]
    anywhere = targets(route, node="any", path="/")
    assert isinstance(anywhere, OneNode)
    assert len(anywhere.route.replicas) == 3
    assert listed_origin(anywhere.route.definition)["scope"] == "fleet"


@pytest.mark.parametrize(
    ("tool", "named", "words"),
    [
        ("disk__usage", {"node": "nope"}, "there is no node 'nope'; it runs on node-000, node-001, node-002 now"),
        ("disk__usage", {"node": ["node-000", "nope"]}, "there is no node 'nope'"),
        ("disk__usage", {}, "the name of a node is required, or 'any', a list of names, or 'all'"),
        ("disk__usage", {"node": []}, "the name of a node is required"),
        ("disk__clean", {"mesh_node": "all"}, "not read-only, and runs on one node at a time"),
        ("disk__clean", {"mesh_node": ["node-000", "node-001"]}, "MESH_FLEET_WRITES"),
        ("disk__clean", {"node": "node-000"}, "arguments.mesh_node"),
    ],
)
def test_a_call_that_names_no_right_node_is_refused(tool: str, named: Json, words: str) -> None:
    with pytest.raises(MCPError) as refused:
        targets(three().tools[tool], **named)
    assert words in refused.value.message


def test_answers_are_one_result_with_a_heading_for_each_node_and_the_same_said_once() -> None:
    text = [{"type": "text", "text": "80 %"}]
    rows = [
        Row.answered("a", {"content": text, "structuredContent": {"free": 1}}),
        Row.failed("b", "away", "node b is away"),
        Row.answered("c", {"content": text, "structuredContent": {"free": 1}}),
        Row.answered("d", {"content": [{"type": "text", "text": "no"}], "isError": True}),
    ]
    result = merged(rows)
    assert [block["text"] for block in result["content"]] == [
        *("## a, c", "80 %"),
        *("## b: away", "node b is away"),
        *("## d: tool error", "no"),
    ]
    assert result["isError"] is False
    found = result["structuredContent"]["results"]
    assert [(row["node"], row["outcome"]) for row in found] == [
        *(("a", "ok"), ("b", "away"), ("c", "ok"), ("d", "tool_error"))
    ]
    assert found[0]["structuredContent"] == {"free": 1}
    assert merged(rows[1:2])["isError"] is True
