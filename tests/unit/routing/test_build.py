"""The route table: who gets which name, who loses it, and that it is said."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from agent.model import ORIGIN_META_KEY, Json, NodeIdentity, Offer, PeerScope, ServerScope
from agent.routing.build import KEPT_FOR_S, KEPT_MAX, build_routes, changed_kinds, is_outdated, local_contributions
from agent.routing.table import Conflict, ConflictReason, Contribution, ContributionKind, RouteKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")
NODE_B = NodeIdentity("bb" * 16, "node-b")
NODE_C = NodeIdentity("cc" * 16, "node-c")
NODE_D = NodeIdentity("dd" * 16, "node-d")


def _tools(*names: str, text: str = "") -> Offer:
    return Offer(tools=tuple({"name": name, "description": text, "inputSchema": {"type": "object"}} for name in names))


def _server(name: str, offer: Offer, scope: ServerScope = ServerScope.NODE, node: NodeIdentity = OWN) -> Contribution:
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, node, scope, offer)


def _plain(name: str, offer: Offer) -> Contribution:
    return Contribution(f"peer:{name}", ContributionKind.PLAIN_PEER, name, None, None, offer)


def _listing(table: RouteTable) -> Offer:
    """What a node answers when it is asked for its lists."""
    return Offer(
        *(
            tuple(route.definition for route in table.listed(kind))
            for kind in (RouteKind.TOOL, RouteKind.PROMPT, RouteKind.RESOURCE, RouteKind.TEMPLATE)
        )
    )


def _peer(node: NodeIdentity, *servers: Contribution, link: str = "") -> Contribution:
    """A mesh peer that serves `servers`, as its own node lists them."""
    listing = _listing(build_routes(local_contributions(servers), node))
    return Contribution(f"peer:{link or node.name}", ContributionKind.MESH_PEER, "", node, None, listing)


def _gateway(node: NodeIdentity, *sees: Contribution) -> Contribution:
    """A gateway that sees all of `sees`, as its own node lists them."""
    listing = _listing(build_routes(sees, node))
    return Contribution(
        f"peer:{node.name}", ContributionKind.MESH_PEER, "", node, None, listing, peer_scope=PeerScope.MESH
    )


def _listed(table: RouteTable) -> list[str]:
    return [route.public_name for route in table.listed_tools()]


def _asked(table: RouteTable, name: str) -> list[tuple[str, str]]:
    return [(replica.backend_key, replica.remote_name) for replica in table.tools[name].replicas]


def _said(table: RouteTable) -> list[tuple[str, ConflictReason]]:
    return [(conflict.name, conflict.reason) for conflict in table.conflicts]


def _lie(peer: Contribution, **told: object) -> Contribution:
    """The same peer, with something else in the origins that it tells."""
    tools: list[Json] = []
    for tool in peer.offer.tools:
        origin = {**tool["_meta"][ORIGIN_META_KEY], **told}
        tools.append({**tool, "_meta": {ORIGIN_META_KEY: origin}})
    return _offering(peer, Offer(tools=tuple(tools)))


def _offering(peer: Contribution, offer: Offer) -> Contribution:
    return Contribution(peer.backend_key, peer.kind, peer.label, peer.node, peer.scope, offer, peer.peer_scope)


# Names of one's own


def test_a_node_scoped_server_is_listed_under_its_node_and_resolves_by_the_node_id_too() -> None:
    table = build_routes([_server("files", _tools("read"))], OWN)
    assert _listed(table) == ["home__files__read"]
    assert _asked(table, "home__files__read") == [("server:files", "read")]
    assert _asked(table, "home-0a0a0a0a__files__read") == [("server:files", "read")]
    assert table.conflicts == ()


def test_a_service_is_listed_under_its_own_name_and_resolves_under_its_node() -> None:
    table = build_routes([_server("weather", _tools("today"), ServerScope.SERVICE)], OWN)
    assert _listed(table) == ["weather__today"]
    for name in ("weather__today", "home__weather__today", "home-0a0a0a0a__weather__today"):
        assert _asked(table, name) == [("server:weather", "today")]


def test_a_private_server_is_listed_at_home_and_not_offered_to_peers() -> None:
    contributions = [_server("diary", _tools("read"), ServerScope.PRIVATE), _server("files", _tools("read"))]
    assert _listed(build_routes(contributions, OWN)) == ["home__diary__read", "home__files__read"]
    assert local_contributions([*contributions, _plain("p", _tools("x"))]) == (contributions[1],)


def test_a_listed_definition_is_the_backends_own_with_name_and_origin_replaced() -> None:
    tool: Json = {
        "name": "read",
        "title": "Read",
        "inputSchema": {"type": "object"},
        "_meta": {"a": 1, ORIGIN_META_KEY: "forged"},
        "x-unknown": [1.0],
    }
    table = build_routes([_server("files", Offer(tools=(tool,)))], OWN)
    assert table.tools["home__files__read"].definition == {
        "name": "home__files__read",
        "title": "Read",
        "inputSchema": {"type": "object"},
        "x-unknown": [1.0],
        "_meta": {
            "a": 1,
            ORIGIN_META_KEY: {
                "node": "home",
                "node_id": OWN.node_id,
                "server": "files",
                "tool": "read",
                "scope": "node",
                "via": [],
            },
        },
    }
    assert tool["name"] == "read"


# Peers


def test_a_peers_names_pass_through_unchanged_whatever_its_link_is_called() -> None:
    theirs = _server("files", _tools("read"), node=NODE_B)
    table = build_routes([_peer(NODE_B, theirs, link="anything")], OWN)
    assert _listed(table) == ["node-b__files__read"]
    assert _asked(table, "node-b__files__read") == [("peer:anything", "node-b__files__read")]
    assert _asked(table, "node-b-bbbbbbbb__files__read") == [("peer:anything", "node-b__files__read")]
    origin = table.tools["node-b__files__read"].definition["_meta"][ORIGIN_META_KEY]
    assert (origin["node_id"], origin["tool"], origin["via"]) == (NODE_B.node_id, "read", [NODE_B.node_id])


def test_a_peers_management_tools_are_not_imported() -> None:
    peer = _offering(_peer(NODE_B), _tools("list_mcp_servers"))
    table = build_routes([peer], OWN)
    assert (dict(table.tools), table.conflicts) == ({}, ())


def test_a_plain_peer_is_listed_under_its_own_name() -> None:
    table = build_routes([_plain("search", _tools("find"))], OWN)
    assert _listed(table) == ["search__find"]
    assert table.tools["search__find"].replicas[0].node_id is None


def test_replicas_of_one_service_are_one_route_with_ours_first() -> None:
    ours = _server("weather", _tools("today"), ServerScope.SERVICE)
    theirs = _server("weather", _tools("today"), ServerScope.SERVICE, NODE_B)
    table = build_routes([_peer(NODE_B, theirs), ours], OWN)
    assert _listed(table) == ["weather__today"]
    assert _asked(table, "weather__today") == [("server:weather", "today"), ("peer:node-b", "weather__today")]
    assert _asked(table, "node-b__weather__today") == [("peer:node-b", "weather__today")]
    assert table.conflicts == ()


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"server": "other"}, ConflictReason.MISNAMED),
        ({"node": "home"}, ConflictReason.MISNAMED),
        ({"tool": "write"}, ConflictReason.MISNAMED),
        ({"scope": "service"}, ConflictReason.MISNAMED),
        ({"node_id": NODE_C.node_id}, ConflictReason.FOREIGN),
        ({"node_id": OWN.node_id}, ConflictReason.FOREIGN),
        ({"node_id": NODE_C.node_id, "node": "node-c", "via": [NODE_C.node_id]}, ConflictReason.FOREIGN),
        ({"scope": "plain"}, ConflictReason.FOREIGN),
        ({"scope": "galaxy"}, ConflictReason.MALFORMED),
        ({"server": "a__b"}, ConflictReason.MALFORMED),
        ({"server": 7}, ConflictReason.MALFORMED),
        ({"tool": ""}, ConflictReason.MALFORMED),
        ({"tool": "\ud800"}, ConflictReason.MALFORMED),
        ({"via": "x"}, ConflictReason.MALFORMED),
    ],
)
def test_a_peer_that_tells_a_false_origin_is_not_believed(told: Json, reason: ConflictReason) -> None:
    liar = _lie(_peer(NODE_B, _server("files", _tools("read"), node=NODE_B)), **told)
    table = build_routes([liar], OWN)
    assert dict(table.tools) == {}
    assert table.conflicts == (Conflict("node-b__files__read", "", ("peer:node-b",), reason),)


def test_a_peer_cannot_take_another_nodes_name_by_listing_it() -> None:
    honest = _peer(NODE_C, _server("files", _tools("read"), node=NODE_C))
    thief = _lie(honest, node_id=NODE_B.node_id)
    stolen = Contribution("peer:thief", ContributionKind.MESH_PEER, "", NODE_B, None, thief.offer)
    table = build_routes([stolen, honest], OWN)
    assert _asked(table, "node-c__files__read") == [("peer:node-c", "node-c__files__read")]
    assert _said(table) == [("node-c__files__read", ConflictReason.MISNAMED)]


def test_entries_without_a_name_and_names_listed_twice_are_refused() -> None:
    offer = Offer(
        tools=({"title": "x"}, {"name": ""}, {"name": 1}, *_tools("a", "a").tools, {**_tools("b").tools[0], "n": 2**70})
    )
    table = build_routes([_server("s", offer)], OWN)
    assert _listed(table) == ["home__s__a"]
    assert _said(table) == [("a", "duplicate")]
    nameless = [f"number {place}" for place in (1, 2, 3)]
    assert [(left.backend, left.name) for left in table.left_out] == [("server:s", name) for name in (*nameless, "b")]


# Two of one name


def _namesakes() -> tuple[Contribution, Contribution]:
    one, two = NodeIdentity("11" * 16, "twin"), NodeIdentity("22" * 16, "twin")
    return (
        _peer(one, _server("files", _tools("read"), node=one), link="one"),
        _peer(two, _server("files", _tools("read"), node=two), _server("gpu", _tools("run"), node=two), link="two"),
    )


def test_of_two_nodes_of_one_name_one_has_all_names_and_the_other_is_reachable_by_id() -> None:
    one, two = _namesakes()
    table = build_routes([two, one], OWN)
    assert _listed(table) == ["twin__files__read"]
    assert _asked(table, "twin__files__read") == [("peer:one", "twin__files__read")]
    assert _asked(table, "twin-22222222__files__read") == [("peer:two", "twin__files__read")]
    assert "twin__gpu__run" not in table.tools
    assert "twin-22222222__gpu__run" in table.tools
    assert table.conflicts == (Conflict("twin", f"node:{'11' * 16}", (f"node:{'22' * 16}",), ConflictReason.NODE_NAME),)


def test_a_node_keeps_its_name_when_a_namesake_with_a_lower_id_joins() -> None:
    one, two = _namesakes()
    before = build_routes([two], OWN)
    after = build_routes([one, two], OWN, before)
    assert _asked(after, "twin__files__read") == [("peer:two", "twin__files__read")]
    assert _said(after) == [("twin", ConflictReason.NODE_NAME)]


def test_a_node_that_restarts_finds_its_names_kept_from_its_namesake_even_when_that_was_away_too() -> None:
    one, two = _namesakes()
    both = build_routes([one, two], OWN)
    alone = build_routes([two], OWN, both, now_s=5.0)
    assert "twin__files__read" not in alone.tools
    assert _asked(alone, "twin-22222222__files__read") == [("peer:two", "twin__files__read")]
    assert _said(alone) == [("twin", ConflictReason.NODE_NAME)]
    nobody = build_routes([], OWN, alone, now_s=6.0)
    again = build_routes([two], OWN, nobody, now_s=KEPT_FOR_S)
    assert "twin__files__read" not in again.tools
    back = build_routes([one, two], OWN, again, now_s=KEPT_FOR_S + 1)
    assert _asked(back, "twin__files__read") == [("peer:one", "twin__files__read")]
    assert not is_outdated(back, 9 * KEPT_FOR_S)


def test_a_name_that_no_other_backend_wanted_is_free_at_once() -> None:
    one, two = _namesakes()
    after = build_routes([two], OWN, build_routes([one], OWN))
    assert _asked(after, "twin__files__read") == [("peer:two", "twin__files__read")]


def test_a_peer_that_claims_ever_new_names_makes_no_endless_list_of_kept_ones() -> None:
    def named(node_id: str) -> list[Contribution]:
        nodes = [NodeIdentity(node_id * 32, f"n{number}") for number in range(KEPT_MAX + 5)]
        return [_peer(node, _server("s", _tools("t"), node=node), link=f"{node.name}-{node_id}") for node in nodes]

    table = build_routes([], OWN, build_routes([*named("1"), *named("2")], OWN))
    assert len(table.kept) == KEPT_MAX


def test_a_name_that_goes_to_a_namesake_is_said_to_be_handed_over_once() -> None:
    one, two = _namesakes()
    both = build_routes([one, two], OWN)
    kept = build_routes([two], OWN, both, now_s=1.0)
    assert not is_outdated(kept, KEPT_FOR_S)
    assert is_outdated(kept, KEPT_FOR_S + 1)
    after = build_routes([two], OWN, kept, now_s=KEPT_FOR_S + 1)
    assert _asked(after, "twin__files__read") == [("peer:two", "twin__files__read")]
    assert after.conflicts == (
        Conflict("twin", f"node:{'22' * 16}", (f"node:{'11' * 16}",), ConflictReason.HANDED_OVER),
    )
    assert build_routes([two], OWN, after).conflicts == ()


def test_a_namesake_of_ours_never_gets_our_names_even_while_our_servers_are_down() -> None:
    namesake = NodeIdentity("99" * 16, "home")
    theirs = _peer(namesake, _server("files", _tools("read"), node=namesake), link="namesake")
    table = build_routes([theirs], OWN)
    assert _listed(table) == []
    assert _asked(table, "home-99999999__files__read") == [("peer:namesake", "home__files__read")]
    again = build_routes([theirs, _server("files", _tools("read"))], OWN, table)
    assert _asked(again, "home__files__read") == [("server:files", "read")]
    assert _said(again) == [("home", ConflictReason.NODE_NAME)]


def test_a_plain_peer_named_like_a_service_adds_nothing_to_it() -> None:
    service = _server("search", _tools("find"), ServerScope.SERVICE)
    table = build_routes([_plain("search", _tools("find", "extra")), service], OWN)
    assert _listed(table) == ["search__find"]
    assert _asked(table, "search__find") == [("server:search", "find")]
    assert table.conflicts == (Conflict("search", "service:search", ("plain:search",), ConflictReason.OWNER),)


def test_a_backend_that_holds_a_name_keeps_it_while_it_is_there() -> None:
    theirs = _peer(NODE_B, _server("search", _tools("find"), ServerScope.SERVICE, NODE_B))
    plain = _plain("search", _tools("find"))
    before = build_routes([theirs], OWN)
    assert _asked(build_routes([plain, theirs], OWN, before), "search__find") == [("peer:node-b", "search__find")]
    assert _asked(build_routes([plain, theirs], OWN), "search__find") == [("peer:search", "find")]


def test_a_node_named_like_a_service_shares_the_first_part_but_no_name() -> None:
    node = NodeIdentity("ee" * 16, "weather")
    contributions = [
        _peer(node, _server("weather", _tools("today"), node=node)),
        _server("weather", _tools("today", "weather__today"), ServerScope.SERVICE),
    ]
    table = build_routes(contributions, OWN)
    assert _listed(table) == ["weather__today", "weather__weather__today"]
    assert _asked(table, "weather__weather__today") == [("server:weather", "weather__today")]
    assert table.conflicts == (
        Conflict(
            "weather__weather__today",
            "service:weather",
            (f"node:{'ee' * 16}/weather",),
            ConflictReason.OWNER,
        ),
    )


def test_servers_whose_names_join_alike_are_not_mixed_up() -> None:
    table = build_routes(
        [_server("a_", _tools("b"), ServerScope.SERVICE), _server("a", _tools("_b"), ServerScope.SERVICE)], OWN
    )
    assert _asked(table, "a___b") == [("server:a", "_b")]
    assert ("a___b", ConflictReason.OWNER) in _said(table)
    at_home = build_routes([_server("a_", _tools("b")), _server("a", _tools("_b"))], OWN)
    assert _asked(at_home, "home__a___b") == [("server:a", "_b")]
    assert ("home__a___b", ConflictReason.OWNER) in _said(at_home)


# Replicas that disagree


def _weather(node: NodeIdentity, text: str) -> Contribution:
    return _peer(node, _server("weather", _tools("today", text=text), ServerScope.SERVICE, node))


@pytest.mark.parametrize(("one", "two"), [("new", "old"), ("old", "new")])
def test_the_definition_with_the_most_replicas_is_taken_and_the_others_stay_reachable(one: str, two: str) -> None:
    table = build_routes([_weather(NODE_B, one), _weather(NODE_C, two), _weather(NODE_D, two)], OWN)
    assert table.tools["weather__today"].definition["description"] == two
    assert [key for key, _ in _asked(table, "weather__today")] == ["peer:node-c", "peer:node-d"]
    assert _asked(table, "node-b__weather__today") == [("peer:node-b", "weather__today")]
    assert table.conflicts == (Conflict("weather__today", "peer:node-c", ("peer:node-b",), ConflictReason.DEFINITION),)


def test_in_a_rolling_upgrade_the_definition_that_holds_the_name_keeps_it_to_its_last_replica() -> None:
    def description(table: RouteTable) -> object:
        return table.tools["weather__today"].definition["description"]

    table = build_routes([_weather(node, "old") for node in (NODE_B, NODE_C, NODE_D)], OWN)
    table = build_routes([_weather(NODE_B, "old"), _weather(NODE_C, "new"), _weather(NODE_D, "new")], OWN, table)
    assert description(table) == "old"
    table = build_routes([_weather(node, "new") for node in (NODE_B, NODE_C, NODE_D)], OWN, table)
    assert description(table) == "new"
    assert table.conflicts == ()


def test_a_tie_goes_to_the_lowest_digest_on_every_node() -> None:
    one, two = _weather(NODE_B, "one"), _weather(NODE_C, "two")
    table = build_routes([one, two], OWN)
    digests = [build_routes([peer], OWN).tools["weather__today"].digest for peer in (one, two)]
    assert table.tools["weather__today"].digest == min(digests)


# Gateways


def test_a_gateways_peers_are_imported_with_the_way_to_them() -> None:
    gateway = _gateway(NODE_C, _peer(NODE_D, _server("files", _tools("read"), node=NODE_D)))
    table = build_routes([gateway], OWN)
    assert _listed(table) == ["node-d__files__read"]
    assert _asked(table, "node-d__files__read") == [("peer:node-c", "node-d__files__read")]
    assert table.tools["node-d__files__read"].replicas[0].hops == 2
    origin = table.tools["node-d__files__read"].definition["_meta"][ORIGIN_META_KEY]
    assert origin["via"] == [NODE_D.node_id, NODE_C.node_id]


def test_behind_a_gateway_a_node_of_a_service_is_asked_for_by_its_id() -> None:
    service = _server("weather", _tools("today"), ServerScope.SERVICE, NODE_D)
    table = build_routes([_gateway(NODE_C, _peer(NODE_D, service))], OWN)
    assert _asked(table, "weather__today") == [("peer:node-c", "weather__today")]
    assert _asked(table, "node-d__weather__today") == [("peer:node-c", "node-d-dddddddd__weather__today")]


def test_a_peer_that_is_no_gateway_cannot_list_others() -> None:
    gateway = _gateway(NODE_C, _peer(NODE_D, _server("files", _tools("read"), node=NODE_D)))
    local = Contribution(gateway.backend_key, gateway.kind, "", gateway.node, None, gateway.offer)
    assert _said(build_routes([local], OWN)) == [("node-d__files__read", ConflictReason.FOREIGN)]


def test_a_gateways_private_and_our_own_things_do_not_come_back_and_that_is_no_fault() -> None:
    ours = _peer(OWN, _server("files", _tools("read")))
    private = _server("diary", _tools("read"), ServerScope.PRIVATE, NODE_C)
    table = build_routes([_gateway(NODE_C, ours, private)], OWN)
    assert (dict(table.tools), table.conflicts) == ({}, ())


def test_what_has_passed_us_does_not_come_back_so_that_no_ghost_outlives_its_node() -> None:
    behind = _peer(NODE_D, _server("files", _tools("read"), node=NODE_D))
    here = build_routes([behind], OWN)
    us = Contribution("peer:home", ContributionKind.MESH_PEER, "", OWN, None, _listing(here), peer_scope=PeerScope.MESH)
    there = _gateway(NODE_C, us)
    assert there.offer.tools != ()
    assert dict(build_routes([there], OWN, here).tools) == {}


def test_a_way_over_more_than_three_nodes_is_refused() -> None:
    far = _peer(NODE_D, _server("files", _tools("read"), node=NODE_D))
    nodes = [NodeIdentity(f"{n}{n}" * 16, f"gate-{n}") for n in (1, 2, 3)]
    for node in nodes[:2]:
        far = _gateway(node, far)
    assert _listed(build_routes([far], OWN)) == ["node-d__files__read"]
    too_far = _gateway(nodes[2], far)
    assert _said(build_routes([too_far], OWN)) == [("node-d__files__read", ConflictReason.LIMIT)]


def test_a_node_that_is_also_linked_directly_is_believed_about_itself() -> None:
    stale = _gateway(NODE_C, _peer(NODE_D, _server("files", _tools("read", text="old"), node=NODE_D)))
    direct = _peer(NODE_D, _server("files", _tools("read", text="new"), node=NODE_D))
    table = build_routes([direct, stale], OWN, build_routes([stale], OWN))
    assert table.tools["node-d__files__read"].definition["description"] == "new"
    assert [key for key, _ in _asked(table, "node-d__files__read")] == ["peer:node-d"]
    assert ("node-d__files__read", ConflictReason.DEFINITION) in _said(table)


def test_two_gateways_plain_peers_of_one_name_are_two_things() -> None:
    contributions = [_gateway(NODE_C, _plain("search", _tools("find"))), _plain("search", _tools("find"))]
    table = build_routes(contributions, OWN)
    assert _asked(table, "search__find") == [("peer:search", "find")]
    assert _said(table) == [("search", ConflictReason.OWNER)]


# Work saved, changes seen


NOTES = Offer(
    prompts=({"name": "sum up"},),
    resources=({"uri": "notes://today", "name": "Today"},),
    templates=({"uriTemplate": "notes://day/{d}", "name": "Day"},),
)


def test_an_unchanged_offer_is_not_read_again() -> None:
    offer = Offer(_tools("read").tools, digest="d1")
    before = build_routes([_server("files", offer)], OWN)
    same = build_routes([_server("files", Offer(_tools("read").tools, digest="d1"))], OWN, before)
    assert same.parts["server:files"] is before.parts["server:files"]
    other = build_routes([_server("files", Offer(_tools("write").tools, digest="d2"))], OWN, before)
    assert _listed(other) == ["home__files__write"]
    rescoped = build_routes([_server("files", offer, ServerScope.SERVICE)], OWN, before)
    assert _listed(rescoped) == ["files__read"]
    renamed = build_routes([_server("files", offer)], NODE_B, before)
    assert _listed(renamed) == ["node-b__files__read"]


def _kinds(before: Iterable[Contribution], after: Iterable[Contribution]) -> set[RouteKind]:
    table = build_routes(list(before), OWN)
    return set(changed_kinds(table, build_routes(list(after), OWN, table)))


def test_clients_hear_of_the_lists_that_look_different_and_of_no_others() -> None:
    files = _server("files", _tools("read"))
    assert _kinds([files], [_server("files", _tools("read"))]) == set()
    assert _kinds([files], [_server("files", _tools("read", text="x"))]) == {RouteKind.TOOL}
    assert _kinds([files], []) == {RouteKind.TOOL, RouteKind.SERVER}
    assert _kinds([], [_server("notes", NOTES)]) == set(RouteKind) - {RouteKind.TOOL, RouteKind.NAMESPACE}


def test_sessions_hear_when_other_tools_may_be_tasks() -> None:
    one, other = _server("a", _tools("x")), _server("b", Offer())
    tables = [
        build_routes([replace(one, has_tasks=of_one), replace(other, has_tasks=of_other)], OWN)
        for of_one, of_other in ((False, False), (False, True), (True, True), (False, True))
    ]
    changes = [changed_kinds(before, after) for before, after in pairwise(tables)]
    assert changes == [set(), {RouteKind.TOOL}, {RouteKind.TOOL}]


def test_a_replica_that_joins_or_leaves_behind_another_changes_no_list() -> None:
    one, two = _weather(NODE_B, ""), _weather(NODE_C, "")
    assert _kinds([two], [one, two]) == set()
    assert _kinds([one, two], [one]) == set()
