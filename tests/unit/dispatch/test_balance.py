"""One replica for one call: ours unless it is three times slower, else the nearest, else the cheaper of two."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dispatch.balance import UNMEASURED_S, Load, answered, choose, give_up, observe, penalise
from agent.routing.table import Replica

OURS = Replica("server:a", "t", "me", ours=True, hops=0)
NEAR = [Replica(f"peer:{n}", "t", f"node-{n}", ours=False) for n in range(4)]
FAR = Replica("peer:gateway", "t", "node-9", ours=False, hops=2)


def measured(latency_s: float, in_flight: int = 0, *, at_s: float = 0.0) -> Load:
    return Load(latency_s, in_flight, observed_at_s=at_s, stalled_since_s=at_s)


def shares(
    loads: dict[str, Load], replicas: list[Replica], chances: dict[str, float] | None = None, calls: int = 2000
) -> Counter[str]:
    rng = random.Random(5)
    chosen = (choose(replicas, loads, rng, now_s=0.0, chances=chances or {}) for _ in range(calls))
    return Counter(replica.backend_key for replica in chosen if replica is not None)


@pytest.mark.parametrize(
    ("own", "other", "first"),
    [
        (Load(), Load(), True),
        (measured(0.02), Load(), True),  # no replica is believed to be faster than a hop
        (measured(5.0), measured(2.0), True),
        (measured(5.0), measured(1.0), False),
        (measured(0.1), Load(), False),  # slow enough to find out about the others
        (measured(0.1), Load(in_flight=1), True),  # one call finds out, the rest wait for what it says
        (measured(0.005, 5), measured(0.005), True),
        (measured(0.005, 50), measured(0.005), False),
        (Load(in_flight=2), Load(), True),
    ],
)
def test_our_own_replica_goes_first_unless_it_is_three_times_slower(own: Load, other: Load, *, first: bool) -> None:
    chosen = choose([FAR, NEAR[0], OURS], {"server:a": own, "peer:0": other}, random.Random(1), now_s=0.0)
    assert chosen is (OURS if first else NEAR[0])


def test_our_own_replica_that_stopped_answering_is_left_before_its_calls_time_out() -> None:
    loads = {"server:a": measured(0.005, 1), "peer:0": measured(0.005)}
    chosen = [choose([NEAR[0], OURS], loads, random.Random(1), now_s=now_s) for now_s in (0.0, 1.0)]
    assert chosen == [OURS, NEAR[0]]


def test_a_replica_behind_a_gateway_is_used_only_when_nothing_nearer_is_left() -> None:
    rng = random.Random(1)
    assert choose([FAR, NEAR[0]], {"peer:0": measured(9.0)}, rng, now_s=0.0) is NEAR[0]
    assert choose([FAR, NEAR[0]], {}, rng, now_s=0.0, exclude={"peer:0"}) is FAR


def test_nothing_is_chosen_when_every_replica_is_excluded() -> None:
    assert choose([OURS], {}, random.Random(1), now_s=0.0, exclude={"server:a"}) is None
    assert choose([], {}, random.Random(1), now_s=0.0) is None


@given(st.integers(), st.sets(st.sampled_from([r.backend_key for r in NEAR]), max_size=3))
def test_an_excluded_replica_is_never_chosen(seed: int, exclude: set[str]) -> None:
    chosen = choose(NEAR, {}, random.Random(seed), now_s=0.0, exclude=exclude, chances=dict.fromkeys(exclude, 0.5))
    assert chosen is not None
    assert chosen.backend_key not in exclude


def test_equal_replicas_share_the_calls_evenly() -> None:
    found = shares({}, NEAR)
    assert all(400 < found[replica.backend_key] < 600 for replica in NEAR)


def test_a_replica_that_is_slower_than_all_others_is_passed_over() -> None:
    loads = {replica.backend_key: measured(0.01) for replica in NEAR} | {"peer:2": measured(0.2)}
    assert shares(loads, NEAR)["peer:2"] == 0


def test_a_burst_sends_one_call_to_a_replica_that_has_never_answered() -> None:
    loads = {"peer:0": Load().started(0.0), "peer:1": measured(UNMEASURED_S / 10, 4)}
    assert shares(loads, NEAR[:2])["peer:0"] == 0
    assert shares({"peer:0": Load(), "peer:1": measured(0.005)}, NEAR[:2])["peer:1"] == 0


def test_calls_under_way_count_also_where_no_latency_is_known() -> None:
    assert shares({"peer:0": Load(in_flight=2), "peer:1": Load(in_flight=1)}, NEAR[:2])["peer:0"] == 0


@pytest.mark.parametrize(("own_weight", "its_weight", "first"), [(2, 1, True), (1, 1, False), (4, 2, True)])
def test_our_own_replica_is_compared_by_weight(own_weight: int, its_weight: int, *, first: bool) -> None:
    loads, weights = (
        {"server:a": measured(5.0), "peer:0": measured(1.0)},
        {"server:a": own_weight, "peer:0": its_weight},
    )
    chosen = choose([NEAR[0], OURS], loads, random.Random(1), now_s=0.0, weight_of=weights.__getitem__)
    assert chosen is (OURS if first else NEAR[0])


def test_a_replica_in_slow_start_takes_part_as_often_as_its_chance_says() -> None:
    found = shares({}, NEAR[:2], {"peer:0": 0.2})
    assert 150 < found["peer:0"] < 250
    assert shares({}, NEAR[:1], {"peer:0": 0.1})["peer:0"] == 2000, "no other replica is there"


def test_a_rise_of_latency_counts_at_once_and_a_fall_fades_in() -> None:
    slow = observe(measured(0.01, at_s=100.0), 1.0, 100.5)
    assert slow.latency_ewma_s == 1.0
    better = observe(slow, 0.01, 110.5)
    assert 0.3 < better.latency_ewma_s < 0.4


def test_a_past_peak_fades_without_calls_so_that_the_replica_is_tried_again() -> None:
    loads = {"peer:0": measured(0.2, at_s=100.0), "peer:1": measured(0.01, 1, at_s=100.0)}
    rng = random.Random(1)
    assert choose(NEAR[:2], loads, rng, now_s=100.0) is NEAR[1]
    loads["peer:1"] = measured(0.01, 1, at_s=160.0)
    assert choose(NEAR[:2], loads, rng, now_s=160.0) is NEAR[0]


def test_a_replica_that_fails_fast_does_not_look_fast() -> None:
    for known in (Load(), measured(0.005)):
        loads = {"peer:0": penalise(known, 0.001, 0.0), "peer:1": measured(0.02)}
        assert shares(loads, NEAR[:2])["peer:0"] == 0
        rng = random.Random(1)
        loads["peer:1"] = measured(0.02, at_s=30.0)
        assert choose(NEAR[:2], loads, rng, now_s=30.0) is NEAR[0], "one failure has faded"


def test_repeated_failures_cost_ever_more_up_to_a_limit_and_a_long_wait_counts_as_it_was() -> None:
    load, latencies = Load(), list[float]()
    for _ in range(9):
        load = penalise(load, 0.001, 0.0)
        latencies.append(load.latency_ewma_s)
    assert latencies[:3] == [pytest.approx(0.1), pytest.approx(1.0), pytest.approx(10.0)]
    assert latencies[-1] == UNMEASURED_S
    assert penalise(Load(), 300.0, 0.0).latency_ewma_s == 300.0


def test_silence_counts_as_latency_only_while_calls_wait() -> None:
    waiting = measured(0.01).started(100.0)
    rng = random.Random(1)
    for load, expected in ((waiting, NEAR[1]), (waiting.finished(), NEAR[0])):
        loads = {"peer:0": load, "peer:1": measured(0.1, at_s=109.9)}
        assert choose(NEAR[:2], loads, rng, now_s=110.0) is expected


def test_a_call_that_was_given_up_counts_as_long_as_it_was_waited_for() -> None:
    assert give_up(measured(0.005), 0.2, 1.0).latency_ewma_s == 0.2
    assert give_up(measured(0.5, at_s=1.0), 0.2, 1.0) == measured(0.5, at_s=1.0), (
        "it might have been answered like this"
    )
    assert give_up(measured(0.5), 0.2, 60.0).latency_ewma_s == 0.2, "a peak of long ago says less"


def test_a_call_that_was_given_up_ends_no_silence() -> None:
    silent = Load(0.005).started(0.0).started(0.1)
    assert give_up(silent.finished(), 0.2, 3.0).stalled_since_s == 0.0


def test_a_later_call_does_not_hide_that_earlier_ones_wait() -> None:
    assert Load().started(5.0).started(9.0).stalled_since_s == 5.0
    assert observe(Load().started(5.0).started(9.0).finished(), 1.0, 9.5).stalled_since_s == 9.5


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), max_size=20))
def test_the_average_stays_within_what_was_observed(observations: list[tuple[float, float]]) -> None:
    load, now_s = Load(), 0.0
    for latency_s, step_s in observations:
        now_s += step_s
        load = observe(load, latency_s, now_s)
        assert 0.0 <= load.latency_ewma_s <= max(latency for latency, _ in observations)


def test_starts_and_finishes_keep_count_and_never_go_below_none() -> None:
    assert Load().started(0.0).started(0.0).finished().in_flight == 1
    assert Load().finished().in_flight == 0


@pytest.mark.parametrize(
    ("home", "away", "at_home"),
    [
        (Load(), Load(), True),
        (measured(0.1), measured(0.001), True),  # nothing is believed to be faster than a hop over the WAN
        (measured(0.5), measured(0.2), True),
        (measured(0.7), measured(0.2), False),
        (Load(in_flight=2), Load(), True),
        (measured(0.5), Load(in_flight=1), True),
    ],
)
def test_a_replica_in_another_datacentre_is_for_when_those_at_home_are_three_times_slower(
    home: Load, away: Load, *, at_home: bool
) -> None:
    loads = {"peer:0": home, "peer:1": away}
    chosen = choose(NEAR[:2], loads, random.Random(1), now_s=0.0, far={"peer:1"})
    assert chosen is (NEAR[0] if at_home else NEAR[1])
    alone = choose(NEAR[:2], loads, random.Random(1), now_s=0.0, far={"peer:1"}, exclude={"peer:0"})
    assert alone is NEAR[1]
    assert choose(NEAR[1:2], loads, random.Random(1), now_s=0.0, far={"peer:1"}) is NEAR[1]


@given(
    known=st.builds(Load, st.floats(0.0, 9.0), st.integers(0, 3), st.floats(0.0, 100.0), st.floats(0.0, 100.0)),
    latency_s=st.floats(0.0, 9.0),
    now_s=st.floats(50.0, 150.0),
)
def test_an_answer_is_one_call_less_and_its_latency(known: Load, latency_s: float, now_s: float) -> None:
    assert answered(known, latency_s, now_s) == observe(known.finished(), latency_s, now_s)
