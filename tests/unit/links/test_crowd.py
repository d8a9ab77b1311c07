"""Whether a node that hears no other doubts itself or them."""

from dataclasses import replace

import pytest

from agent.links.crowd import SELF_DOUBT_MAX_S, Crowd
from agent.links.state import LinkStanding
from agent.model import LinkState

IDLE = LinkStanding()
UP = LinkStanding(LinkState.READY, ready_at_s=0.0)
SILENT = replace(UP, misses=1)
DOWN = LinkStanding(LinkState.BACKOFF)


def crowd_of(count: int, silent: int, now_s: float = 0.0) -> Crowd:
    crowd = Crowd()
    for _ in range(count):
        crowd.note(IDLE, UP, now_s)
    for _ in range(silent):
        crowd.note(UP, SILENT, now_s)
    return crowd


@pytest.mark.parametrize(
    ("count", "silent", "doubts"), [(20, 11, True), (20, 10, False), (5, 3, True), (5, 2, False), (4, 4, False)]
)
def test_only_the_silence_of_most_of_enough_others_is_ours(count: int, silent: int, doubts: bool) -> None:
    assert crowd_of(count, silent).doubts_itself(1.0) is doubts


def test_the_doubt_ends_when_others_are_heard_again_and_begins_anew() -> None:
    crowd = crowd_of(6, 4)
    crowd.note(SILENT, UP, 3.0)
    assert not crowd.doubts_itself(3.0)
    crowd.note(UP, SILENT, 500.0)
    assert crowd.doubts_itself(501.0)


def test_a_silence_that_lasts_is_believed_at_last() -> None:
    crowd = crowd_of(20, 20)
    assert crowd.doubts_itself(SELF_DOUBT_MAX_S - 1.0)
    assert not crowd.doubts_itself(SELF_DOUBT_MAX_S + 1.0)


def test_links_that_are_down_or_children_are_not_asked() -> None:
    crowd = crowd_of(6, 2)
    for _ in range(10):
        crowd.note(UP, DOWN, 1.0)
        crowd.note(IDLE, UP, 1.0)
    assert (crowd.down, crowd.up, crowd.silent) == (10, 6, 2)
    for _ in range(3):
        crowd.note(UP, DOWN, 1.0, is_named=True)
        crowd.note(IDLE, UP, 1.0)
    assert (crowd.down, crowd.named_down) == (10, 3), "a thousand dead peers delay no server of ours"
    crowd.note(DOWN, IDLE, 1.0, is_named=True)
    assert (crowd.down, crowd.named_down) == (10, 2)
    child = replace(UP, is_child=True)
    crowd.note(child, replace(child, misses=2), 1.0)
    assert (crowd.up, crowd.silent) == (6, 2)
