"""A look that hangs delays its caller once and for a moment, and what it has found counts when it has ended."""

import threading
import time

import pytest

from discovery import patient_look
from discovery.patient_look import PatientLook
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


def test_a_look_is_taken_each_time_and_its_failure_comes_out() -> None:
    looks = list[int]()
    look = PatientLook(lambda: looks.append(1))
    assert (look.take(), look.take(), looks) == (True, True, [1, 1])

    def fails() -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        PatientLook(fails).take()
