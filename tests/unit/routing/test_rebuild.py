"""A table that is built on from change to change is the one that is built of everything."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.model import HttpTarget, Offer, PeerSource, PeerSpec, ServerScope
from agent.routing.away import AWAY_FOR_S, Absence, awaited_owners, with_away
from agent.routing.build import build_routes, is_outdated
from agent.routing.claims import read_contribution
from agent.routing.rebuild import MANY, RouteBuilder
from agent.routing.table import Contribution, ContributionKind, RouteKind, RouteTable
from tests.unit.routing.test_build_properties import MESHES, OWN

UNLISTED = tuple((PeerSpec(name, HttpTarget("http://x/mcp"), PeerSource.STATIC), 0.0) for name in ("p", "twin"))
# What a step brings: the backends, which of them change by it, which are expected, and the seconds since the last one.
STEPS = st.lists(
    st.tuples(
        MESHES,
        st.sets(st.integers(0, 5)),
        st.sets(st.sampled_from(["peer:0", "peer:1", "peer:2", "server:s", "server:twin"])),
        st.sampled_from([0.0, 1.0, AWAY_FOR_S / 2, AWAY_FOR_S]),
        st.sets(st.sampled_from(UNLISTED)),
    ),
    min_size=1,
    max_size=6,
)


def _in_order(table: RouteTable) -> RouteTable:
    return replace(table, unlisted=tuple(sorted(table.unlisted, key=lambda one: (one.public_name, repr(one)))))


@given(STEPS, st.booleans(), st.sampled_from([1, MANY]))
def test_a_table_that_is_built_on_is_that_of_everything(steps: Any, for_clients: bool, many: int) -> None:
    builder, table, now_s = RouteBuilder(OWN, for_clients=for_clients, many=many), RouteTable(), 0.0
    present: dict[str, Any] = {}
    for mesh, chosen, expected, passed_s, unlisted in steps:
        now_s += passed_s
        drawn = {part.backend_key: part for part in mesh}
        keys = sorted({*drawn, *present})
        changed = {key: drawn.get(key) for number, key in enumerate(keys) if number in chosen}
        present = {key: part for key, part in (present | changed).items() if part is not None}
        absence = Absence(frozenset(expected), tuple(sorted(unlisted, key=str)))
        kinds = {key: part.kind for key, part in present.items()}
        awaited = awaited_owners(table, kinds, absence, now_s)
        parts = [present[key] for key in sorted(present)]
        whole = build_routes(parts, OWN, table, now_s, awaited=awaited, for_clients=for_clients)
        whole = with_away(table, whole, absence, OWN, now_s)
        read = {key: None if part is None else read_contribution(part, OWN) for key, part in changed.items()}
        rebuilt = builder.rebuilt(table, read, absence, now_s, everything=is_outdated(table, now_s))
        assert _in_order(rebuilt.table) == _in_order(whole)
        for kind in RouteKind:
            was, now = table.of_kind(kind), rebuilt.table.of_kind(kind)
            other = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
            assert other <= rebuilt.decided[kind]
        table = rebuilt.table


def _of(key: str, kind: ContributionKind, *names: str) -> Contribution:
    node, scope = (OWN, ServerScope.SERVICE) if kind is ContributionKind.SERVER else (None, None)
    tools = tuple({"name": name, "inputSchema": {"type": "object"}} for name in names)
    return Contribution(key, kind, "s", node, scope, Offer(tools=tools))


def test_what_another_owner_claims_below_a_name_is_there_when_its_holder_has_gone() -> None:
    builder, nothing = RouteBuilder(OWN), Absence()
    held = _of("server:s", ContributionKind.SERVER, "a")
    waiting = _of("peer:s", ContributionKind.PLAIN_PEER, "a", "b")
    table = RouteTable()
    for key, part in (("server:s", held), ("peer:s", waiting), ("server:s", None)):
        read = None if part is None else read_contribution(part, OWN)
        table = builder.rebuilt(table, {key: read}, nothing, 0.0).table
        assert ("s__b" in table.tools) == (part is None)
    assert table.tools["s__a"].owner == table.tools["s__b"].owner == "plain:s"
