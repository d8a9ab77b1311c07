"""The allowance of a token: so many calls a second, so many at once, and what a refusal costs."""

import pytest

from agent.authority.allowance import Allowance


def test_a_second_of_calls_may_come_at_once_and_then_as_many_as_the_rate() -> None:
    allowance = Allowance(5, None)
    assert [allowance.begin(100.0) for _ in range(5)] == [0.0] * 5
    assert allowance.begin(100.0) == pytest.approx(0.2)
    assert allowance.begin(100.2) == 0.0
    assert allowance.begin(100.2) > 0


def test_a_rate_below_one_lets_one_call_in_and_says_when_the_next_may_come() -> None:
    allowance = Allowance(0.01, None)
    assert allowance.begin(0.0) == 0.0
    assert allowance.begin(0.0) == pytest.approx(100.0)
    assert allowance.begin(60.0) == pytest.approx(40.0)
    assert allowance.begin(101.0) == 0.0


def test_calls_under_way_count_until_they_end() -> None:
    allowance = Allowance(None, 2)
    assert [allowance.begin(0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    allowance.end()
    assert allowance.begin(0.0) == 0.0
    assert repr(allowance) == "<Allowance None/s, 2 of 2 under way>"


def test_a_call_that_is_refused_for_its_number_costs_nothing_of_the_rate() -> None:
    allowance = Allowance(2, 1)
    assert allowance.begin(0.0) == 0.0
    assert [allowance.begin(0.0) for _ in range(10)] == [1.0] * 10
    allowance.end()
    assert allowance.begin(0.0) == 0.0


def test_a_clock_that_stands_or_goes_back_gives_nothing_away() -> None:
    allowance = Allowance(1, None)
    assert allowance.begin(50.0) == 0.0
    assert allowance.begin(40.0) == pytest.approx(1.0)
    assert allowance.begin(40.5) > 0
