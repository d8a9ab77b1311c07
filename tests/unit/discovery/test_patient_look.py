"""A look that hangs delays its caller once and for a moment, and what it has found counts when it has ended."""

import asyncio
import threading
import time
from functools import partial

import pytest

from discovery import patient_look
from discovery.patient_look import PatientLook, look_apart
from tests.waiting import eventually


async def test_a_look_that_hangs_is_waited_for_once_and_no_other_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_look, "LOOK_TIMEOUT_S", 0.2)
    goes_on, looks = threading.Event(), list[int]()

    def hangs() -> None:
        looks.append(len(looks))
        goes_on.wait()

    look = PatientLook(hangs)
    try:
        assert not look.take()
        began_s = time.monotonic()
        assert [look.take() for _ in range(100)] == [False] * 100
        assert time.monotonic() - began_s < 0.2
        assert looks == [0]
    finally:
        goes_on.set()

    async def answers() -> bool:
        return look.take()

    await eventually(answers)
    assert looks == [0, 1]


def test_a_look_is_taken_each_time() -> None:
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
