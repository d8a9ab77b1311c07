"""Single stories that seeds once told: each broke a rule, and is kept fault by fault, for seeds draw others later."""

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.simulation.decisions import Observer
from tests.simulation.lying_catalog import Lie
from tests.simulation.runs import silent
from tests.simulation.towns import Town

# All links that are down dial three times a second together (docs/reliability.md), with full jitter.
DIALS_PER_S_MAX, JITTER = 3, 1.6
TURNS_S = (0.2, 15.0, 30.0)

Told: TypeAlias = Callable[[int], tuple[Town, Observer]]


@pytest.fixture(name="told")
def close_at_the_end() -> Iterator[Told]:
    """A town of so many nodes after its first turn, and its one observer; what it holds is closed at the end."""
    of_the_machine, towns = time.time, list[Town]()

    def told(size: int) -> tuple[Town, Observer]:
        towns.append(town := Town(0, size=size, deciders=1))
        observer = town.citizens[0].observer
        assert observer is not None
        town.turn(0.0)
        return town, observer

    with silent():
        yield told
    time.time = of_the_machine
    for town in towns:
        town.close()


def test_server_that_is_behind_after_a_restore_takes_away_no_node_that_is_cut_off_meanwhile(
    told: Told,
) -> None:
    """`decisions 72453` of November 2026: an older answer was taken for the restored state itself."""
    town, observer = told(4)
    own, dead, restored, _ = town.facts.nodes
    observer.servers.lie = Lie.BEHIND
    town.turn(2.0)
    town.stop(dead, "SIGKILL")
    town.turn(30.0)
    town.facts.restore([restored])
    town.turn(0.2)
    town.facts.register(restored)
    town.facts.cut |= {(own.number, restored.number), (restored.number, own.number)}
    for seconds in TURNS_S:
        town.turn(seconds)  # Raises where a link is closed without a cause.
    assert restored.url in {spec.target.url for spec in observer.selector.selection.peers}


def test_hundred_dead_peers_are_dialled_three_times_a_second_together(told: Told) -> None:
    town, observer = told(110)
    for one in town.facts.nodes[10:]:
        one.alive = False  # Without a word, and the catalog keeps them: only dials tell.
    for _ in range(3):
        town.turn(30.0)
    before = sum(held.record.view.attempts for held in observer.links.values())
    town.turn(30.0)
    town.turn(30.0)
    dialled = sum(held.record.view.attempts for held in observer.links.values()) - before
    assert 0 < dialled <= JITTER * DIALS_PER_S_MAX * 60.0


def test_node_with_two_entries_gets_one_link_at_the_place_where_it_is(told: Told) -> None:
    town, observer = told(4)
    one = town.facts.nodes[1]
    one.ghost = one.ghost_row()
    town.facts.change()
    town.stop(one, "moves")
    for seconds in TURNS_S:
        town.turn(seconds)
    assert [spec.target.url for spec in observer.desired.values() if spec.expected_node_id == one.node_id] == [one.url]
    assert observer.unconverged() == ""
