"""Waits grow to their cap, are spread, and are longest where only an operator can help."""

import random

from hypothesis import given
from hypothesis import strategies as st

from agent.links.state import STDIO_CAP_S, delay_s


@given(st.integers(1, 10_000), st.integers())
def test_a_wait_is_between_nothing_and_its_doubled_ceiling(attempt: int, seed: int) -> None:
    ceiling_s = min(30.0, 0.5 * 2 ** min(attempt - 1, 10))
    assert 0.0 <= delay_s(attempt, random.Random(seed)) <= ceiling_s


def test_the_ceilings_double_from_half_a_second_to_the_cap() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return max(a, b)

    assert [delay_s(n, Highest()) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert delay_s(100, Highest(), cap_s=STDIO_CAP_S) == 60


@given(st.integers(1, 100), st.integers())
def test_an_authentication_error_waits_at_least_half_the_cap_at_once(attempt: int, seed: int) -> None:
    assert 15.0 <= delay_s(attempt, random.Random(seed), retry_soon=False) <= 30.0


def test_waits_are_spread_over_the_whole_range() -> None:
    rng = random.Random(7)
    waits = [delay_s(10, rng) for _ in range(1000)]
    assert min(waits) < 1.0
    assert max(waits) > 29.0
