"""Waits grow to their cap, are spread, and are longest where only an operator can help."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.links.follower import STREAMS
from agent.links.state import (
    CHILD_DIALS,
    DIALS,
    DIALS_PER_S_MAX,
    HUNG_DIALS,
    NAMED_DIALS,
    NAMED_DIALS_PER_S_MAX,
    LinkStanding,
    wait_s,
)
from agent.model import LinkState
from discovery.backoff import Backoff

attempts, seeds = st.integers(1, 10_000), st.integers()


def _wait_s(attempts: int, rng: random.Random, *, is_child: bool = False, retry_soon: bool = True) -> float:
    standing = LinkStanding(LinkState.BACKOFF, is_child=is_child, attempts=attempts)
    return wait_s(standing, rng, retry_soon=retry_soon)


@given(attempts, seeds)
def test_a_wait_is_between_nothing_and_its_doubled_ceiling(attempts: int, seed: int) -> None:
    ceiling_s = min(15.0, 0.5 * 2 ** min(attempts - 1, 10))
    assert 0.0 <= _wait_s(attempts, random.Random(seed)) <= ceiling_s


def test_the_ceilings_double_from_half_a_second_to_the_cap() -> None:
    class Highest(random.Random):
        def random(self) -> float:
            return 1.0

    assert [_wait_s(n, Highest()) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert _wait_s(100, Highest(), is_child=True) == 60


@given(attempts, seeds)
def test_an_authentication_error_waits_at_least_half_the_cap_at_once(attempts: int, seed: int) -> None:
    assert 7.5 <= _wait_s(attempts, random.Random(seed), retry_soon=False) <= DIALS.last_s
    assert 30.0 <= _wait_s(attempts, random.Random(seed), is_child=True, retry_soon=False) <= CHILD_DIALS.last_s


def test_waits_are_spread_over_the_whole_range() -> None:
    rng = random.Random(7)
    waits = [_wait_s(10, rng) for _ in range(1000)]
    assert min(waits) < 1.0
    assert max(waits) > 14.5


@pytest.mark.parametrize(
    ("dials", "per_s"),
    [(DIALS, DIALS_PER_S_MAX), (HUNG_DIALS, DIALS_PER_S_MAX), (NAMED_DIALS, NAMED_DIALS_PER_S_MAX)],
    ids=["announced", "announced and hung", "named"],
)
def test_many_that_are_down_share_so_many_dials_a_second(dials: Backoff, per_s: int) -> None:
    rng, standing = random.Random(7), LinkStanding(LinkState.BACKOFF, attempts=50)
    waits = [wait_s(standing, rng, retry_soon=True, down=1000, dials=dials) for _ in range(1000)]
    assert 1000 / statistics.mean(waits) == pytest.approx(per_s, rel=0.1)


def test_a_stream_that_ends_is_opened_again_at_once_and_then_ever_more_slowly() -> None:
    assert [STREAMS.step_s(n) for n in range(6)] == [0.0, 0.5, 2.0, 8.0, 30.0, 30.0]
