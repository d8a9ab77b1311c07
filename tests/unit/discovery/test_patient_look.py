"""A look that hangs delays its caller once and for a moment, and what it has found counts when it has ended."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from discovery import patient_look
from discovery.patient_look import PatientLook, look_apart
from tests.waiting import PATIENCE_S, eventually


async def test_a_look_that_hangs_is_waited_for_once_and_no_other_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_look, "LOOK_TIMEOUT_S", 0.2)
    goes_on, began, looks = threading.Event(), threading.Event(), list[int]()

    def hangs() -> None:
        looks.append(len(looks))
        began.set()
        goes_on.wait()

    look = PatientLook(hangs)
    try:
        assert not look.take()
        began_s = time.monotonic()
        assert [look.take() for _ in range(100)] == [False] * 100
        # A hundred waits would take twenty. One takes 0.2, and more where there is no core at its end.
        assert time.monotonic() - began_s < 10.0
        assert began.wait(PATIENCE_S)
        assert looks == [0]
    finally:
        goes_on.set()
    # A thread may not run for longer than that: the next look is waited for until it has ended.
    monkeypatch.setattr(patient_look, "LOOK_TIMEOUT_S", PATIENCE_S)

    async def answers() -> bool:
        return look.take()

    await eventually(answers)
    assert looks == [0, 1]


def test_a_look_is_taken_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_look, "LOOK_TIMEOUT_S", PATIENCE_S)
    looks = list[int]()
    look = PatientLook(lambda: looks.append(1))
    assert (look.take(), look.take(), looks) == (True, True, [1, 1])


async def test_what_is_looked_at_apart_comes_back_as_it_ended() -> None:
    assert await look_apart(lambda: 5) == 5

    def fails() -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        await look_apart(fails)


async def test_a_caller_that_gives_up_leaves_a_look_that_hangs_behind_and_others_go_on() -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def hangs() -> None:
        goes_on.wait()
        ended.set()

    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await look_apart(hangs)
        assert [await look_apart(lambda: 1) for _ in range(50)] == [1] * 50
    finally:
        goes_on.set()
    assert await look_apart(partial(ended.wait, 10))


@contextmanager
def no_more_threads() -> Iterator[None]:
    """By a size of their stacks that no system has; a limit on their number would not hold for root."""
    before = threading.stack_size(2**46)
    try:
        yield
    finally:
        threading.stack_size(before)


@pytest.mark.looptime
async def test_a_node_that_may_start_no_more_threads_looks_as_soon_as_it_may(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_look, "LOOK_TIMEOUT_S", PATIENCE_S)
    looks = list[int]()
    patient = PatientLook(lambda: looks.append(1))
    with no_more_threads():
        under_way = asyncio.create_task(look_apart(lambda: 5), name="look")
        await asyncio.sleep(60)
        assert not under_way.done()
        assert (patient.take(), looks) == (False, [])
    assert await under_way == 5
    assert (patient.take(), looks) == (True, [1])
    assert caplog.text.count("this node may start no more threads") == 1
