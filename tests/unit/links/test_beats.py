"""The beats that links share, in loop time: what is due by a moment, what after one, and what a fault of one costs."""

import asyncio

import pytest

from agent.links.beats import BEAT_S, shared_beats

pytestmark = pytest.mark.looptime


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def test_what_is_due_by_a_moment_is_done_at_the_beat_before_it_and_what_is_due_after_one_at_the_next() -> None:
    done: list[tuple[str, float]] = []
    beats = shared_beats()
    beats.after(10 * BEAT_S + 0.1, lambda: done.append(("after", now_s())))
    beats.by(10 * BEAT_S + 0.1, lambda: done.append(("by", now_s())))
    await asyncio.sleep(20 * BEAT_S)
    assert done == [("by", 10 * BEAT_S), ("after", 11 * BEAT_S)]


async def test_what_is_due_already_is_done_at_the_next_beat_and_not_at_once() -> None:
    done: list[float] = []
    await asyncio.sleep(10 * BEAT_S + 0.1)
    shared_beats().by(0.0, lambda: done.append(now_s()))
    assert done == []
    await asyncio.sleep(BEAT_S)
    assert done == [11 * BEAT_S]


async def test_what_is_due_together_takes_one_timer_and_may_ask_for_more_of_them() -> None:
    done: list[float] = []
    beats = shared_beats()

    def again() -> None:
        done.append(now_s())
        if len(done) < 12:
            beats.by(now_s() + 1.0, again)

    for _ in range(4):
        beats.by(1.0, again)
    assert repr(beats) == "<Beats 4 calls in 1>"
    await asyncio.sleep(10)
    assert done == [1.0] * 4 + [2.0] * 4 + [3.0] * 4 + [4.0] * 3


async def test_a_fault_of_one_link_is_reported_and_does_not_keep_the_others_from_their_turn() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(repr(context["exception"])))
    done: list[float] = []

    def fails() -> None:
        raise ValueError("a bug")

    shared_beats().by(1.0, fails)
    shared_beats().by(1.0, lambda: done.append(now_s()))
    await asyncio.sleep(2)
    assert (told, done) == (["ValueError('a bug')"], [1.0])
