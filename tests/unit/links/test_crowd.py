"""Whether a node that hears no other doubts itself or them."""

from dataclasses import replace

import pytest

from agent.links.crowd import NO_SILENCE, SELF_DOUBT_MAX_S, Crowd, judged
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
        crowd.note(IDLE, UP)
    for _ in range(silent):
        crowd.note(UP, SILENT)
    return crowd


@pytest.mark.parametrize(
    ("count", "silent", "is_ours"), [(20, 11, True), (20, 10, False), (5, 3, True), (5, 2, False), (4, 4, False)]
)
def test_only_the_silence_of_most_of_enough_others_is_ours(count: int, silent: int, is_ours: bool) -> None:
    assert judged(count, silent, ALL) is (Blame.OURS if is_ours else Blame.THEIRS)


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
    crowd.heard = 100
    silence = crowd.silence(1.0)
    crowd.heard = 109
    assert crowd.blame(silence, 100, 2.0) is Blame.OPEN, "nor what was heard after the last probe had gone out"
    assert crowd.blame(silence, 105, 3.0) is Blame.THEIRS


def test_a_silence_that_lasts_is_believed_at_last() -> None:
    crowd = crowd_of(20, 20)
    assert crowd.blame(NO_SILENCE, 0, SELF_DOUBT_MAX_S - 1.0) is Blame.OURS
    assert crowd.blame(NO_SILENCE, 0, SELF_DOUBT_MAX_S + 1.0) is Blame.THEIRS


def test_links_that_are_down_or_refused_or_children_are_not_silent() -> None:
    crowd = crowd_of(6, 2)
    for _ in range(10):
        crowd.note(UP, DOWN)
        crowd.note(IDLE, UP)
    assert (crowd.down, crowd.up, crowd.silent) == (10, 6, 2)
    for _ in range(3):
        crowd.note(UP, DOWN, is_named=True)
        crowd.note(IDLE, UP)
    assert (crowd.down, crowd.named_down) == (10, 3), "a thousand dead peers delay no server of ours"
    crowd.note(DOWN, IDLE, is_named=True)
    assert (crowd.down, crowd.named_down) == (10, 2)
    child = replace(UP, is_child=True)
    crowd.note(child, replace(child, misses=2))
    assert (crowd.up, crowd.silent) == (6, 2)
    crowd.note(UP, replace(UP, misses=1, refuses=True))
    assert (crowd.up, crowd.silent) == (6, 2)
