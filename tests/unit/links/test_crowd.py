"""Whether a node that hears no other doubts itself or them."""

import math
from dataclasses import replace

import pytest

from agent.links.crowd import ALL_ASKED_S, ASKED_MAX, NO_SILENCE, SELF_DOUBT_MAX_S, Crowd, Kind, judged
from agent.links.state import Blame, LinkStanding
from agent.model import LinkState

IDLE = LinkStanding()
UP = LinkStanding(LinkState.READY, ready_at_s=0.0)
SILENT = replace(UP, misses=1)
DOWN = LinkStanding(LinkState.BACKOFF)
ALL = 10_000


def crowd_of(count: int, silent: int) -> Crowd:
    crowd = Crowd()
    for _ in range(count):
        crowd.note(IDLE, UP, Kind.ANNOUNCED)
    for _ in range(silent):
        crowd.note(UP, SILENT, Kind.ANNOUNCED)
    return crowd


@pytest.mark.parametrize(
    ("count", "ours_from"), [(1, math.inf), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (20, 11), (1000, 501)]
)
def test_only_the_silence_of_most_together_is_ours(count: int, ours_from: float) -> None:
    for silent in range(1, count + 1):
        assert judged(count, silent, ALL) is (Blame.OURS if silent >= ours_from else Blame.THEIRS), silent


@pytest.mark.parametrize(
    ("count", "silent", "answers", "blame"),
    [
        (1, 1, 0, Blame.THEIRS),
        (2, 1, 0, Blame.OPEN),
        (2, 1, 1, Blame.THEIRS),
        (2, 2, 0, Blame.OURS),
        (3, 1, 0, Blame.OPEN),
        (3, 1, 1, Blame.THEIRS),
        (3, 2, 0, Blame.OURS),
        (4, 2, 1, Blame.OPEN),
        (4, 2, 2, Blame.THEIRS),
        (6, 3, 2, Blame.OPEN),
        (6, 3, 3, Blame.THEIRS),
    ],
)
def test_few_speak_for_all_as_many_do(count: int, silent: int, answers: int, blame: Blame) -> None:
    assert judged(count, silent, answers) is blame


@pytest.mark.parametrize(("count", "asked"), [(1, 1), (ASKED_MAX, ASKED_MAX), (ASKED_MAX + 1, 0)])
def test_all_of_a_few_are_asked_when_one_has_fallen_silent(count: int, asked: int) -> None:
    crowd, found = Crowd(), list[int]()

    class Link:
        def __init__(self, number: int) -> None:
            self.number = number

        def ask(self) -> None:
            found.append(self.number)

    crowd.links |= {Link(number): None for number in range(count)}
    crowd.ask()
    assert found == [*range(asked)]


@pytest.mark.parametrize(
    ("silent", "answers", "blame"),
    [
        (1, 0, Blame.OPEN),
        (1, 1, Blame.THEIRS),
        (5, 4, Blame.OPEN),
        (5, 5, Blame.THEIRS),
        (10, 0, Blame.OPEN),
        (11, 0, Blame.OURS),
    ],
)
def test_those_that_were_asked_since_a_silence_began_speak_for_all(silent: int, answers: int, blame: Blame) -> None:
    assert judged(20, silent, answers) is blame


def test_where_all_were_asked_nothing_stays_open() -> None:
    assert {judged(up, silent, ALL) for up in range(1, 30) for silent in range(1, up + 1)} == {Blame.OURS, Blame.THEIRS}


def test_what_was_heard_before_a_silence_began_says_nothing_of_it() -> None:
    crowd = crowd_of(20, 5)
    crowd.afar.heard = 100
    silence = crowd.silence(1.0)
    crowd.afar.heard = 109
    assert crowd.blame(silence, 100, 2.0) is Blame.OPEN, "nor what was heard after the last probe had gone out"
    assert crowd.blame(silence, 105, 3.0) is Blame.THEIRS


def test_a_silence_that_lasts_is_believed_at_last() -> None:
    crowd = crowd_of(20, 20)
    assert crowd.blame(NO_SILENCE, 0, SELF_DOUBT_MAX_S - 1.0) is Blame.OURS
    assert crowd.blame(NO_SILENCE, 0, SELF_DOUBT_MAX_S + 1.0) is Blame.THEIRS


def test_links_that_are_down_or_refused_or_children_are_not_silent() -> None:
    crowd = crowd_of(6, 2)
    for _ in range(10):
        crowd.note(UP, DOWN, Kind.ANNOUNCED)
        crowd.note(IDLE, UP, Kind.ANNOUNCED)
    assert (crowd.down, crowd.afar.up, crowd.afar.silent) == ({Kind.ANNOUNCED: 10}, 6, 2)
    for _ in range(3):
        crowd.note(UP, DOWN, Kind.NAMED)
        crowd.note(IDLE, UP, Kind.NAMED)
    assert crowd.down == {Kind.ANNOUNCED: 10, Kind.NAMED: 3}
    crowd.note(DOWN, IDLE, Kind.NAMED)
    assert crowd.down == {Kind.ANNOUNCED: 10, Kind.NAMED: 2}
    child = replace(UP, is_child=True)
    crowd.note(child, replace(child, misses=2), Kind.ANNOUNCED)
    assert (crowd.afar.up, crowd.afar.silent) == (6, 2)
    crowd.note(UP, replace(UP, misses=1, refuses=True), Kind.ANNOUNCED)
    assert (crowd.afar.up, crowd.afar.silent) == (6, 2)


def test_a_server_that_is_at_work_on_a_call_tells_nothing_before_it_answers_or_has_done_it() -> None:
    crowd, busy = crowd_of(3, 1), replace(UP, misses=2, excused=2)
    crowd.note(UP, busy, Kind.OWN)
    assert (crowd.afar.up, crowd.afar.silent) == (2, 1)
    crowd.note(busy, idle := replace(busy, misses=3), Kind.OWN)
    assert (crowd.afar.up, crowd.afar.silent) == (3, 2)
    crowd.note(idle, unheard := replace(busy, unheard=True), Kind.OWN)
    assert (crowd.afar.up, crowd.afar.silent) == (3, 2)
    crowd.note(unheard, UP, Kind.OWN)
    assert (crowd.afar.up, crowd.afar.silent) == (3, 1)


def test_servers_on_this_machine_tell_nothing_of_what_is_elsewhere() -> None:
    crowd = crowd_of(1, 0)
    crowd.note(IDLE, UP, Kind.OWN, here=True)
    crowd.note(UP, SILENT, Kind.OWN, here=True)
    crowd.note(UP, SILENT, Kind.ANNOUNCED)
    assert crowd.blame(NO_SILENCE, 0, 1.0) is Blame.THEIRS, "of the one peer"
    assert crowd.blame(NO_SILENCE, 0, 1.0, here=True) is Blame.OURS, "of the server: the machine may have no time"
    crowd.note(SILENT, UP, Kind.OWN, here=True)
    silence = crowd.silence(1.0)
    crowd.hear(here=True)
    assert silence == crowd.silence(1.0), "nor does it say that the network is there"


def test_what_neither_answers_nor_misses_is_not_waited_for() -> None:
    crowd = crowd_of(2, 1)
    assert crowd.blame(NO_SILENCE, 0, ALL_ASKED_S - 1.0) is Blame.OPEN
    assert crowd.blame(NO_SILENCE, 0, ALL_ASKED_S) is Blame.THEIRS
    assert crowd.blame(NO_SILENCE, 0, ALL_ASKED_S, unheard=True) is Blame.OPEN, "the others may just be heard again"
