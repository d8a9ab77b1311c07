"""Back-off as numbers: it grows by its factor, stops at its last step, and jitter only shortens it."""

from hypothesis import given
from hypothesis import strategies as st

from discovery.backoff import Backoff

failures = st.integers(0, 10_000)


def test_steps_double_from_the_first_to_the_last() -> None:
    backoff = Backoff(first_s=0.25, last_s=30.0)
    assert [backoff.step_s(n) for n in (1, 2, 3, 7, 8, 1000)] == [0.25, 0.5, 1.0, 16.0, 30.0, 30.0]


def test_nothing_is_waited_for_before_the_first_failure() -> None:
    assert [Backoff(first_s=0.5, last_s=30.0, factor=4.0).step_s(n) for n in range(-1, 6)] == [0, 0, 0.5, 2, 8, 30, 30]


@given(failures=failures, factor=st.floats(1, 10))
def test_a_step_is_never_longer_than_the_last(failures: int, factor: float) -> None:
    assert Backoff(0.5, 30.0, factor).step_s(failures) <= 30.0


@given(failures=failures, draw=st.floats(0, 1, exclude_max=True))
def test_full_jitter_is_anywhere_below_the_step(failures: int, draw: float) -> None:
    backoff = Backoff(first_s=0.25, last_s=30.0)
    assert 0 <= backoff.jittered_s(failures, draw) <= backoff.step_s(failures)
