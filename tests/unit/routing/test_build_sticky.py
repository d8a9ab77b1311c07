"""Stickiness from the servers file through the route table to other nodes' tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.servers_file import check_servers
from agent.control.contributions import contribution_of
from agent.links.actions import RelabelLink, reconcile
from agent.model import (
    ORIGIN_META_KEY,
    Json,
    LinkState,
    LinkView,
    NodeIdentity,
    Offer,
    PeerScope,
    ServerScope,
    ServerSpec,
)
from agent.routing.build import build_routes, changed_kinds, local_contributions
from agent.routing.table import Contribution, ContributionKind, RouteTable

HOME = NodeIdentity("0a" * 16, "home")
AWAY = NodeIdentity("1b" * 16, "away")
OFFER = Offer(
    tools=({"name": "do", "inputSchema": {"type": "object"}},),
    resources=({"uri": "n://a", "name": "a"},),
)


def spec_of(mesh: Json) -> ServerSpec:
    text = json.dumps({"mcpServers": {"kit": {"url": "http://192.0.2.1/mcp", "mesh": mesh}}})
    (spec,) = check_servers(text, Path("/etc/mesh/servers.json"), {}).servers
    return spec


def server(*, sticky: bool, node: NodeIdentity = HOME) -> Contribution:
    view = LinkView(spec_of({"sticky": sticky}), LinkState.READY, OFFER)
    return contribution_of(view, node)


def peer(node: NodeIdentity, *servers: Contribution, scope: PeerScope = PeerScope.LOCAL) -> Contribution:
    table = build_routes(local_contributions(servers) if scope is PeerScope.LOCAL else servers, node)
    offer = Offer(
        tools=tuple(route.definition for route in table.listed_tools()),
        resources=tuple(route.definition for route in table.listed_resources()),
    )
    return Contribution(f"peer:{node.name}", ContributionKind.MESH_PEER, "", node, None, offer, scope)


def stickiness(table: RouteTable) -> set[bool]:
    found = table.resolve_uri("n://kit/anything")
    assert found is not None
    return {table.tools["kit__do"].sticky, table.resources["n://kit/a"].sticky, found.sticky}


@pytest.mark.parametrize(("mesh", "sticky"), [({}, False), ({"sticky": False}, False), ({"sticky": True}, True)])
def test_a_server_is_sticky_when_its_entry_says_so(mesh: Json, *, sticky: bool) -> None:
    assert spec_of(mesh).sticky is sticky
    assert spec_of({**mesh, "call_timeout_s": 3}).sticky is sticky


@pytest.mark.parametrize("value", ["true", 1, None, []])
def test_a_stickiness_that_is_no_boolean_is_refused(value: object) -> None:
    text = json.dumps({"mcpServers": {"kit": {"url": "http://192.0.2.1/mcp", "mesh": {"sticky": value}}}})
    (left_out,) = check_servers(text, Path("/etc/mesh/servers.json"), {}).left_out
    assert left_out.reasons[0].endswith("mesh.sticky: must be true or false")


@pytest.mark.parametrize("sticky", [True, False])
def test_stickiness_reaches_every_kind_of_route_at_home_and_elsewhere(*, sticky: bool) -> None:
    assert stickiness(build_routes([server(sticky=sticky)], HOME)) == {sticky}
    assert stickiness(build_routes([peer(AWAY, server(sticky=sticky, node=AWAY))], HOME)) == {sticky}


def test_stickiness_reaches_nodes_behind_a_gateway() -> None:
    gate = NodeIdentity("2c" * 16, "gate")
    behind = peer(AWAY, server(sticky=True, node=AWAY))
    assert stickiness(build_routes([peer(gate, behind, scope=PeerScope.MESH)], HOME)) == {True}


def test_one_replica_that_needs_it_is_enough() -> None:
    parts = [server(sticky=False), peer(AWAY, server(sticky=True, node=AWAY))]
    assert len(build_routes(parts, HOME).tools["kit__do"].replicas) == 2
    assert stickiness(build_routes(parts, HOME)) == {True}


def test_a_definition_says_nothing_of_it_unless_it_is_sticky() -> None:
    plain, sticky = (build_routes([server(sticky=flag)], HOME).tools["kit__do"] for flag in (False, True))
    assert "sticky" not in plain.definition["_meta"][ORIGIN_META_KEY]
    assert sticky.definition["_meta"][ORIGIN_META_KEY]["sticky"] is True
    assert plain.digest == sticky.digest, "replicas stay replicas while nodes are changed one by one"


# Larger integers are kept as they were written (agent.lossless_json.exact), never as Python's.
@given(st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1), st.text(), st.lists(st.booleans()), st.just({})))
def test_a_peers_word_of_any_other_type_counts_as_no(told: object) -> None:
    exporter = peer(AWAY, server(sticky=False, node=AWAY))
    (tool,) = exporter.offer.tools
    lied: Json = {**tool, "_meta": {ORIGIN_META_KEY: {**tool["_meta"][ORIGIN_META_KEY], "sticky": told}}}
    table = build_routes([replace(exporter, offer=replace(exporter.offer, tools=(lied,)))], HOME)
    assert table.tools["kit__do"].sticky is False


def test_a_change_of_stickiness_needs_no_new_link_and_reaches_peers() -> None:
    before, after = spec_of({}), spec_of({"sticky": True})
    assert reconcile({before.key: after}, {before.key: before}) == (RelabelLink(after, sighted=False),)
    old = build_routes([server(sticky=False)], HOME)
    new = build_routes([server(sticky=True)], HOME, old)
    assert stickiness(new) == {True}
    assert changed_kinds(old, new)
    assert spec_of({}).scope is ServerScope.SERVICE
