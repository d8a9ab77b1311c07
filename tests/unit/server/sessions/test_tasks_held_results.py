"""Results that wait for a client of 2025-11-25: whose they are, for how long, and how many."""

import pytest

from agent.server.sessions import tasks as held_results
from agent.server.sessions.tasks import HELD_S, OF_SESSION_MAX, HeldResults


def kept(held: HeldResults, session: str = "a", now_s: float = 0.0, result: bytes = b"{}") -> str:
    task_id = held.new_id()
    assert held.keep(task_id, result, session, now_s, failed=False)["status"] == "working"
    return task_id


def test_a_result_is_there_for_its_session_and_for_ten_minutes() -> None:
    held = HeldResults()
    task_id = kept(held)
    found = held.find(task_id, "a", HELD_S - 1)
    assert found is not None
    assert (found.task["status"], found.result) == ("completed", b"{}")
    assert held.find(task_id, "b", 1) is None
    assert held.find(task_id, "a", HELD_S) is None
    kept(held, now_s=HELD_S)
    assert repr(held) == "<HeldResults 1 of 2 bytes>"


def test_a_session_that_fetches_no_results_loses_its_oldest_and_no_other_ones() -> None:
    held = HeldResults()
    other = kept(held, "b")
    ids = [kept(held) for _ in range(OF_SESSION_MAX + 2)]
    assert [held.find(one, "a", 1) is not None for one in ids] == [False] * 2 + [True] * OF_SESSION_MAX
    assert held.find(other, "b", 1) is not None


def test_all_together_have_a_bound_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_results, "BYTES_MAX", 10)
    held = HeldResults()
    ids = [kept(held, str(number), result=b"x" * 4) for number in range(3)]
    assert [held.find(one, str(number), 1) is not None for number, one in enumerate(ids)] == [False, True, True]


def test_a_result_that_says_so_is_a_task_that_failed() -> None:
    held = HeldResults()
    held.keep("1", b"{}", "a", 0.0, failed=True)
    found = held.find("1", "a", 0.0)
    assert found is not None
    assert found.task["status"] == "failed"
