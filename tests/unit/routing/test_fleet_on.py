"""The tools of fleets after change upon change are those that are made of everything."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ServerScope
from agent.routing.away import Absence
from agent.routing.claims import read_contribution
from agent.routing.fleet import with_fleets
from agent.routing.fleet_on import ShownFleets
from agent.routing.rebuild import RouteBuilder
from agent.routing.table import RouteKind, RouteTable
from tests.unit.routing.test_fleet import CLEAN, OWN, USAGE, node, peer

OTHER = {**CLEAN, "description": "another release"}
# Most nodes list the same, as in a fleet that is rolled out.
TOOLS = st.sampled_from([(USAGE, CLEAN)] * 4 + [(USAGE,), (USAGE, OTHER), ()])
SCOPES = st.sampled_from([ServerScope.FLEET] * 5 + [ServerScope.NODE, ServerScope.SERVICE])
CHANGES = st.dictionaries(st.integers(1, 6), st.none() | st.tuples(TOOLS, SCOPES), max_size=2)


@given(st.lists(CHANGES, min_size=1, max_size=12), st.booleans())
def test_fleets_that_nodes_come_to_and_go_from_are_those_of_everything(changes: Any, expected: bool) -> None:
    builder, fleets, before = RouteBuilder(OWN), ShownFleets(("disk__cl*",)), RouteTable()
    shown = before
    absence = Absence(frozenset(f"peer:{node(number).name}" for number in range(7)) if expected else frozenset())
    begun: dict[int, Any] = dict.fromkeys(range(1, 7), ((USAGE, CLEAN), ServerScope.FLEET))
    for now_s, change in enumerate([begun, *changes]):
        parts = {
            f"peer:{node(number).name}": None
            if told is None
            else read_contribution(peer(told[0], node(number), told[1]), OWN)
            for number, told in change.items()
        }
        rebuilt = builder.rebuilt(before, parts, absence, float(now_s))
        whole = with_fleets(rebuilt.table, ("disk__cl*",), before=shown)
        moved = None if rebuilt.whole else fleets.on(shown, before, rebuilt.table, rebuilt.decided)
        if moved is None:
            fleets.learn(whole)
        else:
            made, names = moved
            assert made == whole
            assert _members(made) == _members(whole)
            for kind in RouteKind:
                was, now = shown.of_kind(kind), made.of_kind(kind)
                assert {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)} <= set(names[kind])
        before, shown = rebuilt.table, whole


def _members(table: RouteTable) -> dict[str, Any]:
    """What fleets are made of, which routes are not compared by."""
    return {name: route.fleet for name, route in {**table.tools, **table.resources}.items() if route.fleet is not None}


# The definition of the first one is shown.
@pytest.mark.parametrize("name", ["node-000", "node-002"])
def test_a_node_that_goes_and_comes_back_is_taken_as_one_member_less_and_more(name: str) -> None:
    builder, fleets = RouteBuilder(OWN), ShownFleets(())
    absence = Absence(frozenset(f"peer:{node(number).name}" for number in range(4)))
    parts = {f"peer:{node(number).name}": read_contribution(peer((USAGE,), node(number)), OWN) for number in range(4)}
    before = builder.rebuilt(RouteTable(), parts, absence, 0.0).table
    shown = with_fleets(before, ())
    fleets.learn(shown)
    for part in (None, parts[f"peer:{name}"]):
        rebuilt = builder.rebuilt(before, {f"peer:{name}": part}, absence, 1.0)
        whole = with_fleets(rebuilt.table, (), before=shown)
        moved = fleets.on(shown, before, rebuilt.table, rebuilt.decided)
        assert moved is not None, "not left to what looks at all members"
        assert moved[0] == whole
        before, (shown, _) = rebuilt.table, moved
        members = shown.tools["disk__usage"].fleet
        assert members is not None
        assert (name in members.members) == (part is not None)
        assert (name in members.away) == (part is None)
