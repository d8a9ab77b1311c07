"""Which names stay away when they vanish from the route table, for how long, and what makes them unknown at once."""

from dataclasses import replace

import pytest

from agent.model import HttpTarget, Json, NodeIdentity, Offer, PeerSource, PeerSpec, ServerScope, ServerSpec
from agent.routing.away import (
    AWAY_FOR_S,
    AWAY_MAX,
    Absence,
    awaited_owners,
    away_words,
    is_over,
    with_away,
    without_private,
)
from agent.routing.build import Contribution, ContributionKind, RouteKind, RouteTable, build_routes, is_outdated
from agent.routing.table import Route

OWN = NodeIdentity("11111111-0000-4000-8000-000000000000", "one")
TWO = NodeIdentity("22222222-0000-4000-8000-000000000000", "two")
KIT = ServerSpec("kit", HttpTarget("http://192.0.2.1/mcp"), ServerScope.SERVICE)
SECRET = replace(KIT, name="secret", scope=ServerScope.PRIVATE)


def tool(name: str, **more: object) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def server(*names: str) -> Contribution:
    offer = Offer(
        tools=tuple(map(tool, names)),
        prompts=({"name": "ask"},) if names else (),
        resources=({"name": "now", "uri": "time://now"},) if names else (),
        templates=({"name": "at", "uriTemplate": "time://{at}"},) if names else (),
        digest=str(names),
    )
    return Contribution("server:kit", ContributionKind.SERVER, "kit", OWN, ServerScope.SERVICE, offer)


def peer(*names: str) -> Contribution:
    origin = {"node": "two", "node_id": TWO.node_id, "server": "far", "scope": "service", "via": []}
    tools = (tool(f"far__{name}", _meta={"mesh-agent/origin": {**origin, "tool": name}}) for name in names)
    return Contribution(
        "peer:two", ContributionKind.MESH_PEER, "two", TWO, None, Offer(tuple(tools), digest=str(names))
    )


def expected(*keys: str) -> Absence:
    return Absence(frozenset(keys))


def after(table: RouteTable, now_s: float, absence: Absence, *contributions: Contribution) -> RouteTable:
    awaited = awaited_owners(table, {part.backend_key: part.kind for part in contributions}, absence, now_s)
    built = build_routes(contributions, OWN, table, now_s, awaited=awaited)
    return with_away(table, built, absence, OWN, now_s)


BOTH = expected("server:kit", "peer:two")
FULL = after(RouteTable(), 0.0, BOTH, server("do"), peer("go"))


def test_all_that_a_lost_server_offered_is_away_and_not_listed() -> None:
    table = after(FULL, 5.0, BOTH, peer("go"))
    for kind, name in [(RouteKind.TOOL, "kit__do"), (RouteKind.PROMPT, "kit__ask"), (RouteKind.TOOL, "one__kit__do")]:
        route = table.find(kind, name)
        assert route is not None
        assert (route.away_since_s, name in table.of_kind(kind)) == (5.0, False)
    for uri in ("time://kit/now", "time://kit/then"):
        found = table.find_uri(uri)
        assert found is not None
        assert (found.away_since_s, found.replicas[0].remote_name) == (5.0, "time://" + uri.rpartition("/")[2])
    assert table.find(RouteKind.TEMPLATE, "time://kit/{at}") is not None
    assert table.find(RouteKind.TOOL, "kit__other") is None
    assert [route.public_name for route in table.listed_tools()] == ["far__go"]


def test_a_name_that_comes_back_is_away_no_more() -> None:
    table = after(after(FULL, 5.0, BOTH), 6.0, BOTH, server("do"), peer("go"))
    assert not table.away
    found = table.find(RouteKind.TOOL, "kit__do")
    assert found is not None
    assert found.away_since_s is None


def test_what_a_connected_server_no_longer_lists_is_unknown_at_once() -> None:
    assert after(FULL, 5.0, BOTH, server("other"), peer("go")).find(RouteKind.TOOL, "kit__do") is None
    restarted = after(after(FULL, 5.0, BOTH), 6.0, BOTH, server("other"))
    assert restarted.find(RouteKind.TOOL, "kit__do") is None
    assert restarted.find(RouteKind.TOOL, "far__go") is not None


def test_what_a_connected_node_no_longer_lists_may_be_away_there() -> None:
    found = after(FULL, 5.0, BOTH, server("do"), peer()).find(RouteKind.TOOL, "far__go")
    assert found is not None
    assert found.replicas[0].backend_key == "peer:two"


def test_what_an_operator_took_away_is_unknown_at_once() -> None:
    assert after(FULL, 5.0, expected("peer:two"), peer("go")).find(RouteKind.TOOL, "kit__do") is None
    down = after(FULL, 5.0, BOTH)
    removed = with_away(down, down, expected("server:kit"), OWN, 6.0)
    assert removed.find(RouteKind.TOOL, "far__go") is None
    assert removed.find(RouteKind.TOOL, "kit__do") is not None


def test_only_that_less_is_expected_changes_a_table() -> None:
    assert BOTH.leaves_as_is(expected("server:kit"))
    assert not expected("server:kit").leaves_as_is(BOTH)
    assert not replace(BOTH, starting=True).leaves_as_is(BOTH)
    assert not replace(BOTH, unlisted=((KIT, 1.0),)).leaves_as_is(BOTH)


def test_after_ten_minutes_a_name_is_unknown() -> None:
    down = after(FULL, 5.0, BOTH)
    assert not is_over(down, 4.0 + AWAY_FOR_S)
    assert is_outdated(down, 5.0 + AWAY_FOR_S)
    assert not after(down, 5.0 + AWAY_FOR_S, BOTH).away


def test_no_more_names_are_kept_than_the_limit_and_the_latest_stay() -> None:
    table = after(RouteTable(), 0.0, BOTH, server("first"))
    table = after(table, 1.0, BOTH)
    many = after(table, 2.0, BOTH, peer(*(f"n{number}" for number in range(AWAY_MAX // 3))))
    gone = after(many, 3.0, BOTH)
    assert len(gone.away) == AWAY_MAX
    assert gone.find(RouteKind.TOOL, "kit__first") is None


def test_a_server_that_was_never_listed_has_all_names_below_its_own() -> None:
    absence = Absence(frozenset({"server:kit"}), ((KIT, 7.0), (SECRET, 7.0)))
    table = with_away(RouteTable(), RouteTable(), absence, OWN, 7.0)
    for kind, name in [(RouteKind.TOOL, "kit__any"), (RouteKind.PROMPT, "one__kit__any")]:
        route = table.find(kind, name)
        assert route is not None
        assert (route.public_name, route.away_since_s, away_words(route, 9.5)) == (
            name,
            7.0,
            "server kit on one is away since 2 s",
        )
    assert table.find_uri("time://kit/now") is not None
    assert table.find(RouteKind.TOOL, "kite__any") is None
    assert table.find(RouteKind.TOOL, "one__secret__any") is not None
    told_others = without_private(replace(absence, down=((KIT, 7.0), (SECRET, 7.0))))
    public = with_away(RouteTable(), RouteTable(), told_others, OWN, 7.0)
    assert public.find(RouteKind.TOOL, "one__kit__any") is not None
    assert public.find(RouteKind.TOOL, "one__secret__any") is None


def test_a_peer_that_was_never_listed_has_all_names_below_its_own_and_tells_other_nodes_of_none() -> None:
    far = PeerSpec("far", HttpTarget("http://192.0.2.1/mcp"), PeerSource.STATIC)
    absence = Absence(frozenset({"peer:far"}), ((far, 7.0),))
    table = with_away(RouteTable(), RouteTable(), absence, OWN, 7.0)
    route = table.find(RouteKind.TOOL, "far__any")
    assert route is not None
    assert away_words(route, 9.5) == "peer far is away since 2 s"
    assert table.find(RouteKind.TOOL, "farther__any") is None
    assert table.places() == with_away(RouteTable(), RouteTable(), without_private(absence), OWN, 7.0).unlisted == ()


def told(places: tuple[Route, ...]) -> Contribution:
    """What another node lists of its servers that are away."""
    offer = Offer(resources=tuple(place.definition for place in places), digest=str(len(places)))
    return Contribution("peer:two", ContributionKind.MESH_PEER, "two", TWO, None, offer)


@pytest.mark.parametrize("scope", [ServerScope.SERVICE, ServerScope.NODE])
def test_what_a_node_says_is_away_there_is_asked_of_it_and_stays_away_while_it_may_come_back(
    scope: ServerScope,
) -> None:
    absence = without_private(Absence(down=((replace(KIT, scope=scope), 1.0), (SECRET, 1.0))))
    theirs = with_away(RouteTable(), RouteTable(), absence, TWO, 1.0)
    again = with_away(theirs, RouteTable(), absence, TWO, 2.0)
    assert [one.definition is other.definition for one, other in zip(theirs.places(), again.places(), strict=True)] == [
        True
    ]
    table = after(RouteTable(), 5.0, BOTH, told(theirs.places()))
    name = "kit__any" if scope is ServerScope.SERVICE else "two__kit__any"
    for now_s, now in ((5.0, table), (6.0, after(table, 6.0, BOTH))):
        route = now.find(RouteKind.TOOL, name)
        assert route is not None
        assert away_words(route, now_s) == f"server kit on two is away since {now_s - 5.0:.0f} s"
        assert (route.replicas[0].backend_key, route.replicas[0].remote_name) == ("peer:two", name)
        assert (now.servers, now.places(), now.conflicts) == ({}, (), ())
    assert after(table, 6.0, expected("server:kit")).find(RouteKind.TOOL, name) is None, (
        "an operator took the node away"
    )
    assert after(table, 5.0 + AWAY_FOR_S, BOTH).find(RouteKind.TOOL, name) is None
    assert after(table, 6.0, BOTH, told(())).find(RouteKind.TOOL, name) is None, "it is there again, or never to come"


def test_while_a_node_starts_any_name_may_still_turn_up() -> None:
    route = RouteTable(starting=True).find(RouteKind.TOOL, "any")
    assert route is not None
    assert (route.owner, route.replicas) == ("", ())
    assert away_words(route, 1.0).startswith("this node is starting")
    assert RouteTable().find(RouteKind.TOOL, "any") is None


@pytest.mark.parametrize(
    ("name", "words"),
    [("far__go", "server far on two is away since 12 s"), ("kit__do", "server kit on one is away since 12 s")],
)
def test_the_words_name_the_server_and_its_node_and_the_time(name: str, words: str) -> None:
    route = after(FULL, 5.0, BOTH).find(RouteKind.TOOL, name)
    assert route is not None
    assert away_words(route, 17.9) == words


def test_a_server_that_several_nodes_had_is_on_none_of_them() -> None:
    route = after(FULL, 5.0, BOTH).find(RouteKind.TOOL, "kit__do")
    assert route is not None
    two = replace(route, replicas=route.replicas * 2)
    assert away_words(two, 5.0) == "server kit is away since 0 s"


def plain(name: str, *tools: str) -> Contribution:
    offer = Offer(tuple(map(tool, tools)), digest=str(tools))
    return Contribution(f"peer:{name}", ContributionKind.PLAIN_PEER, name, None, None, offer)


def holder(table: RouteTable, name: str) -> str | None:
    route = table.find(RouteKind.TOOL, name)
    return None if route is None else route.owner


@pytest.mark.parametrize("present", [(), (peer(),)], ids=["its node is away", "its node is here without it"])
def test_a_plain_peer_does_not_take_the_name_of_a_service_while_that_may_come_back(
    present: tuple[Contribution, ...],
) -> None:
    wanted = expected("server:kit", "peer:two", "peer:far")
    table = after(FULL, 5.0, wanted, server("do"), plain("far", "go"), *present)
    assert (holder(table, "far__go"), table.tools.get("far__go")) == ("service:far", None)
    assert [conflict.name for conflict in table.conflicts if conflict.holder == "service:far"] == ["far"]
    back = after(table, 6.0, wanted, server("do"), plain("far", "go"), peer("go"))
    assert (holder(back, "far__go"), "far__go" in back.tools) == ("service:far", True)
    late = 5.0 + AWAY_FOR_S
    assert is_outdated(table, late)
    over = after(table, late, wanted, server("do"), plain("far", "go"), *present)
    assert (holder(over, "far__go"), "far__go" in over.tools) == ("plain:far", True)


def test_a_name_is_free_at_once_when_an_operator_took_its_holder_away_and_for_our_own_servers() -> None:
    table = after(FULL, 5.0, expected("server:kit", "peer:far"), server("do"), plain("far", "go"))
    assert holder(table, "far__go") == "plain:far"
    ours = replace(server("go"), backend_key="server:far", label="far")
    own = after(FULL, 5.0, expected("server:kit", "server:far", "peer:two"), ours)
    assert (holder(own, "far__go"), "far__go" in own.tools) == ("service:far", True)


def test_a_service_does_not_take_the_name_of_a_plain_peer_while_that_may_come_back() -> None:
    wanted = expected("peer:two", "peer:far")
    table = after(after(RouteTable(), 0.0, wanted, plain("far", "go")), 5.0, wanted, peer("go"))
    assert (holder(table, "far__go"), "far__go" in table.tools) == ("plain:far", False)
