"""The calls of the last hour: buckets, quantiles, and what a backend did since the last look."""

from hypothesis import given
from hypothesis import strategies as st

from agent.call_history import BACKENDS_MAX, BUCKETS_MAX, CallHistory


def test_a_bucket_has_the_calls_since_the_one_before_and_tools_that_fail_are_answers() -> None:
    history = CallHistory()
    for outcome in ("ok", "tool_error", "cancelled", "timeout"):
        history.add("server:a", outcome, 0.004)
    first, second = history.roll(10.0), history.roll(20.0)
    assert (first.at_s, first.calls, first.errors) == (10.0, 4, 1)
    assert (second.calls, second.errors, second.p50_ms, second.p99_ms) == (0, 0, None, None)
    assert list(history.buckets) == [first, second]


@given(st.lists(st.floats(1e-6, 600.0), min_size=1, max_size=200))
def test_a_quantile_is_at_most_a_quarter_too_high_and_never_too_low(seconds: list[float]) -> None:
    history = CallHistory()
    for one in seconds:
        history.add("server:a", "ok", one)
    bucket = history.roll(0.0)
    ordered = sorted(seconds)
    for shown_ms, share in ((bucket.p50_ms, 0.5), (bucket.p99_ms, 0.99)):
        exact_ms = ordered[-(-int(share * 100) * len(ordered) // 100) - 1] * 1000
        assert shown_ms is not None
        assert exact_ms - 0.001 <= shown_ms <= exact_ms * 1.25 + 0.001


def test_a_duration_of_nothing_at_all_counts_too() -> None:
    history = CallHistory()
    history.add("server:a", "ok", 0.0)
    assert history.roll(1.0).calls == 1


def test_tallies_are_those_since_they_were_taken_last() -> None:
    history = CallHistory()
    history.add("server:a", "ok", 0.5)
    history.add("server:a", "timeout", 1.5)
    [(name, tally)] = history.take_tallies().items()
    assert (name, tally.calls, tally.errors, tally.seconds) == ("server:a", 2, 1, 2.0)
    assert history.take_tallies() == {}


def test_neither_time_nor_names_make_it_grow_for_ever() -> None:
    history = CallHistory()
    for number in range(BACKENDS_MAX + 5):
        history.add(f"server:{number}", "ok", 0.1)
    for number in range(BUCKETS_MAX + 5):
        history.roll(float(number))
    assert len(history.buckets) == BUCKETS_MAX
    assert len(history.take_tallies()) == BACKENDS_MAX
