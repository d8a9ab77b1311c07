"""The table of link states, read as a table: every cell, then the stories that cross several."""

import ast
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.links.state import (
    DIALS_PER_S_MAX,
    FIRST_DIALS_PER_S_MAX,
    NAMED_DIALS,
    NAMED_DIALS_PER_S_MAX,
    Blame,
    Closed,
    DialStarted,
    LinkEvent,
    LinkStanding,
    Lost,
    Opened,
    OpenFailed,
    ProbeAnswered,
    ProbeMissed,
    Reloaded,
    Sighted,
    WaitOver,
    advance,
    wait_s,
)
from agent.model import LinkState

LINKS = Path(__file__).parents[3] / "agent/links"
EVENTS: dict[str, LinkEvent] = {
    "dial": DialStarted(),
    "opened": Opened(),
    "failed": OpenFailed(),
    "answered": ProbeAnswered(),
    "missed": ProbeMissed(),
    "lost": Lost(),
    "sighted": Sighted(),
    "waited": WaitOver(),
    "reload": Reloaded(),
    "closed": Closed(),
}
# A dot: nothing changes. READY has missed no probe, SUSPECT has missed two.
CELLS = """
state    dial     opened  failed   answered  missed   lost     sighted  waited  reload  closed
idle     dialing  .       .        .         .        .        .        .       idle    closed
dialing  .        ready   backoff  .         .        backoff  .        .       idle    closed
ready    .        .       .        ready     ready    backoff  .        .       idle    closed
suspect  .        .       .        ready     backoff  backoff  .        .       idle    closed
backoff  dialing  .       .        .         .        .        idle     idle    idle    closed
parked   dialing  .       .        .         .        .        idle     idle    idle    closed
closed   .        .       .        .         .        .        .        .       .       .
"""


def _standing(state: LinkState) -> LinkStanding:
    match state:
        case LinkState.READY:
            return LinkStanding(state, attempts=3, ready_at_s=90.0)
        case LinkState.SUSPECT:
            return LinkStanding(state, attempts=3, ready_at_s=90.0, misses=2)
        case LinkState.PARKED:
            return LinkStanding(state, is_child=True, attempts=5)
        case _:
            return LinkStanding(state, attempts=3)


def _cells() -> list[tuple[str, str, str]]:
    head, *rows = (line.split() for line in CELLS.strip().splitlines())
    return [(row[0], event, cell) for row in rows for event, cell in zip(head[1:], row[1:], strict=True)]


def test_the_table_of_this_test_has_every_cell() -> None:
    assert {(state, event) for state, event, _ in _cells()} == {(s.value, e) for s in LinkState for e in EVENTS}


@pytest.mark.parametrize(("state", "event", "cell"), _cells())
def test_each_state_and_event_leads_where_the_table_says(state: str, event: str, cell: str) -> None:
    before = _standing(LinkState(state))
    after = advance(before, EVENTS[event], 100.0)
    if cell == ".":
        assert after == before
    else:
        assert after.state is LinkState(cell)


def test_every_event_is_in_the_table_of_this_test() -> None:
    assert {type(event) for event in EVENTS.values()} == set(get_args(LinkEvent))


def test_nothing_in_the_links_but_the_table_says_which_state_comes_next() -> None:
    found = {f"{path.name}: {text}" for path in LINKS.glob("*.py") for text in _states_written(path.read_text())}
    # The view repeats what the table has said.
    assert found - {text for text in found if text.startswith("state.py: ")} == {"record.py: state=self.standing.state"}


@pytest.mark.parametrize(
    "source",
    [
        "self.show(state=LinkState.CLOSED)",
        "replace(standing, state=there)",
        "LinkStanding(LinkState.IDLE)",
        "LinkView(spec, LinkState.IDLE)",
        "standing.state = LinkState.IDLE",
        "changes = {'state': LinkState.IDLE}",
    ],
)
def test_a_state_that_is_written_elsewhere_would_be_found(source: str) -> None:
    assert list(_states_written(source))


def _states_written(source: str) -> Iterator[str]:
    """What gives `state` a value, or passes a state on; comparing with one is reading."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg="state"):
                yield ast.unparse(node)
            case ast.Attribute(attr="state", ctx=ast.Store()):
                yield ast.unparse(node)
            case ast.Call(args=values) | ast.Dict(values=values) if any(map(_is_state, values)):
                yield ast.unparse(node)


def _is_state(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) == "LinkState"


def _after(standing: LinkStanding, *events: tuple[float, LinkEvent]) -> LinkStanding:
    for now_s, event in events:
        standing = advance(standing, event, now_s)
    return standing


def _failed_dial(now_s: float) -> list[tuple[float, LinkEvent]]:
    return [(now_s, DialStarted()), (now_s, OpenFailed()), (now_s, WaitOver())]


CHILD = LinkStanding(is_child=True)
READY = _after(LinkStanding(), (0.0, DialStarted()), (0.0, Opened()))


def test_one_missed_probe_changes_nothing_two_make_it_suspect_three_take_it_down() -> None:
    missed = [advance(READY, ProbeMissed(), 5.0)]
    missed += [advance(missed[0], ProbeMissed(), 10.0)]
    missed += [advance(missed[1], ProbeMissed(), 15.0)]
    assert [m.state for m in missed] == [LinkState.READY, LinkState.SUSPECT, LinkState.BACKOFF]


def test_an_answer_between_two_misses_starts_the_count_anew() -> None:
    after = _after(READY, (5, ProbeMissed()), (10, ProbeAnswered()), (15, ProbeMissed()))
    assert (after.state, after.misses) == (LinkState.READY, 1)


def test_failures_in_a_row_are_counted_across_short_sessions() -> None:
    after = _after(LinkStanding(), *_failed_dial(1), *_failed_dial(2), (3, DialStarted()), (3, Opened()), (62, Lost()))
    assert after.attempts == 3


def test_a_failure_after_a_minute_of_ready_is_the_first_again() -> None:
    after = _after(LinkStanding(), *_failed_dial(1), *_failed_dial(2), (3, DialStarted()), (3, Opened()), (63, Lost()))
    assert after.attempts == 1


def test_a_probe_answered_after_a_minute_of_ready_clears_the_count_for_all_to_see() -> None:
    ready = _after(LinkStanding(), *_failed_dial(1), (3, DialStarted()), (3, Opened()))
    assert advance(ready, ProbeAnswered(), 62.9).attempts == 1
    assert advance(ready, ProbeAnswered(), 63.0).attempts == 0


def test_a_sighting_keeps_the_count_so_that_a_flapping_catalog_does_not_speed_up_dialling() -> None:
    waiting = _after(LinkStanding(), *_failed_dial(1), (2, DialStarted()), (2, OpenFailed()))
    due = advance(waiting, Sighted(), 2.1)
    assert (due.state, due.attempts) == (LinkState.IDLE, 2)


def test_a_reload_begins_a_new_row_of_failures_and_of_a_childs_crashes() -> None:
    four = _after(CHILD, *[step for n in range(4) for step in _failed_dial(float(n))])
    open_again = _after(four, (5, DialStarted()), (5, Opened()), (6, ProbeMissed()))
    assert (open_again.attempts, open_again.misses) == (4, 1)
    assert advance(open_again, Reloaded(), 7.0) == CHILD


def test_a_child_that_fails_five_times_in_a_row_is_parked_however_long_that_took() -> None:
    four = _after(CHILD, *[step for n in range(4) for step in _failed_dial(n * 29.0)])
    assert four.state is LinkState.IDLE
    assert _after(four, (600, DialStarted()), (600, OpenFailed())).state is LinkState.PARKED


def test_a_child_that_starts_and_exits_five_times_in_a_row_is_parked() -> None:
    standing = CHILD
    for n in range(5):
        standing = _after(standing, (n, DialStarted()), (n, Opened()), (n + 0.5, Lost()))
        assert (standing.state is LinkState.PARKED) == (n == 4)
        standing = _after(standing, (n + 0.6, WaitOver()))


def test_a_parked_child_is_tried_again_after_pauses_that_grow_to_five_minutes() -> None:
    standing, waits_s = CHILD, []
    for n in range(9):
        standing = _after(standing, (n, DialStarted()), (n, OpenFailed()))
        if standing.state is LinkState.PARKED:
            waits_s.append(wait_s(standing, random.Random(0), retry_soon=True))
        standing = advance(standing, WaitOver(), n)
        assert standing.state is LinkState.IDLE
    assert waits_s == [60.0, 120.0, 240.0, 300.0, 300.0]


def test_a_server_that_is_busy_with_a_call_is_suspect_at_most_until_the_call_is_over() -> None:
    busy = _after(READY, *[(5.0 * n, ProbeMissed(busy=True)) for n in range(1, 120)])
    assert (busy.state, busy.misses) == (LinkState.SUSPECT, 2)
    assert advance(busy, ProbeAnswered(), 601.0).state is LinkState.READY
    over = _after(busy, (601, ProbeMissed()), (603, ProbeMissed()))
    assert over.state is LinkState.SUSPECT, "what it missed while it was busy does not count"
    assert advance(over, ProbeMissed(busy=True), 605.0) == busy
    assert advance(over, ProbeMissed(), 605.0).state is LinkState.BACKOFF


def test_a_silence_that_is_ours_begins_anew_and_one_that_is_not_judged_yet_is_judged_by_the_next_miss() -> None:
    twice = _after(READY, (5, ProbeMissed()), (7, ProbeMissed()))
    ours = advance(twice, ProbeMissed(blame=Blame.OURS), 9.0)
    assert (ours.state, ours.misses) == (LinkState.SUSPECT, 2)
    assert _after(ours, (11, ProbeMissed()), (13, ProbeMissed())).state is LinkState.SUSPECT
    assert _after(ours, (11, ProbeMissed()), (13, ProbeMissed()), (15, ProbeMissed())).state is LinkState.BACKOFF
    still_open = advance(twice, ProbeMissed(blame=Blame.OPEN), 9.0)
    assert still_open == twice
    assert advance(still_open, ProbeMissed(), 11.0).state is LinkState.BACKOFF


def test_a_child_that_hangs_again_and_again_waits_longer_and_is_never_parked() -> None:
    standing = CHILD
    for n in range(20):
        misses = [(n + 0.1 * m, ProbeMissed()) for m in range(1, 4)]
        standing = _after(standing, (n, DialStarted()), (n, Opened()), *misses)
        assert (standing.state, standing.attempts) == (LinkState.BACKOFF, n + 1)
        standing = _after(standing, (n + 0.5, WaitOver()))
    crashed = _after(standing, *[step for n in range(4) for step in _failed_dial(20.0 + n)])
    assert _after(crashed, (30, DialStarted()), (30, OpenFailed())).state is LinkState.PARKED, "five of its own"


@pytest.mark.parametrize("standing", [CHILD, LinkStanding()], ids=["child", "peer"])
def test_a_lack_of_this_nodes_own_counts_as_no_failure_and_parks_no_child(standing: LinkStanding) -> None:
    for n in range(20):
        standing = _after(standing, (n, DialStarted()), (n, OpenFailed(short=True)))
        assert (standing.state, standing.attempts) == (LinkState.BACKOFF, 0)
        standing = _after(standing, (n + 0.5, WaitOver()))
    assert _after(standing, *_failed_dial(30.0)).attempts == 1


def test_a_parked_child_that_is_sighted_gets_five_new_tries() -> None:
    parked = _after(CHILD, *[step for n in range(5) for step in _failed_dial(float(n))][:-1])
    assert parked.state is LinkState.PARKED
    due = advance(parked, Sighted(), 5.0)
    assert due == CHILD
    assert _after(due, *[step for n in range(4) for step in _failed_dial(6.0 + n)]).state is LinkState.IDLE


@given(st.lists(st.sampled_from([DialStarted(), OpenFailed(), WaitOver(), Sighted()]), max_size=60))
def test_a_peer_is_never_parked(events: list[LinkEvent]) -> None:
    assert _after(LinkStanding(), *((0.0, event) for event in events)).state is not LinkState.PARKED


@given(st.booleans(), st.lists(st.tuples(st.floats(0, 30), st.sampled_from(list(EVENTS.values()))), max_size=40))
def test_what_a_standing_remembers_stays_bounded_and_fits_its_state(
    is_child: bool, steps: list[tuple[float, LinkEvent]]
) -> None:
    standing, now_s = LinkStanding(is_child=is_child), 0.0
    for step_s, event in steps:
        now_s += step_s
        standing = advance(standing, event, now_s)
        up = standing.state in (LinkState.READY, LinkState.SUSPECT)
        assert (standing.ready_at_s is not None) == up
        assert (standing.misses >= 2) == (standing.state is LinkState.SUSPECT)


@pytest.mark.parametrize("down", [0, 1, 100, 1000, 5000])
def test_links_that_are_down_together_dial_only_so_often(down: int) -> None:
    rng = random.Random(3)
    failed = LinkStanding(LinkState.BACKOFF, attempts=50)
    waits_s = [wait_s(failed, rng, retry_soon=True, down=down) for _ in range(2000)]
    mean_s = sum(waits_s) / len(waits_s)
    assert down / mean_s <= DIALS_PER_S_MAX * 1.1
    assert max(waits_s) <= max(15.0, 2 * down / DIALS_PER_S_MAX)
    lost = replace(failed, attempts=1)
    first_s = [wait_s(lost, rng, retry_soon=True, down=down) for _ in range(2000)]
    assert down / (sum(first_s) / len(first_s)) <= FIRST_DIALS_PER_S_MAX * 1.1
    assert max(first_s) <= max(0.5, 2 * down / FIRST_DIALS_PER_S_MAX)


@pytest.mark.parametrize(("down", "longest_s"), [(0, 8.0), (60, 8.0), (600, 80.0)])
def test_what_no_catalog_announces_is_tried_every_eight_seconds_unless_many_of_its_kind_are_down(
    down: int, longest_s: float
) -> None:
    failed = LinkStanding(LinkState.BACKOFF, attempts=50)
    waits_s = [wait_s(failed, random.Random(n), retry_soon=True, dials=NAMED_DIALS, down=down) for n in range(500)]
    assert 0.9 * longest_s < max(waits_s) <= longest_s
    assert down / (sum(waits_s) / len(waits_s)) <= NAMED_DIALS_PER_S_MAX * 1.1
