"""One replica for one call: ours, else the nearest, else the less loaded of two."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent.core.balance import Load, choose, observe
from agent.core.route_table import Replica

OURS = Replica("server:a", "t", "me", ours=True, hops=0)
NEAR = [Replica(f"peer:{n}", "t", f"node-{n}", ours=False) for n in range(4)]
FAR = Replica("peer:gateway", "t", "node-9", ours=False, hops=2)


def _shares(loads: dict[str, Load], replicas: list[Replica], calls: int = 2000) -> Counter[str]:
    rng = random.Random(5)
    chosen = (choose(replicas, loads, rng) for _ in range(calls))
    return Counter(replica.backend_key for replica in chosen if replica is not None)


def test_our_own_replica_goes_first() -> None:
    assert choose([FAR, *NEAR, OURS], {"server:a": Load(9.0, 100)}, random.Random(1)) is OURS


def test_a_replica_behind_a_gateway_is_used_only_when_nothing_nearer_is_left() -> None:
    rng = random.Random(1)
    assert choose([FAR, NEAR[0]], {}, rng) is NEAR[0]
    assert choose([FAR, NEAR[0]], {}, rng, exclude={"peer:0"}) is FAR


def test_nothing_is_chosen_when_every_replica_is_excluded() -> None:
    assert choose([OURS], {}, random.Random(1), exclude={"server:a"}) is None
    assert choose([], {}, random.Random(1)) is None


@given(st.integers(), st.sets(st.sampled_from([r.backend_key for r in NEAR]), max_size=3))
def test_an_excluded_replica_is_never_chosen(seed: int, exclude: set[str]) -> None:
    chosen = choose(NEAR, {}, random.Random(seed), exclude)
    assert chosen is not None
    assert chosen.backend_key not in exclude


def test_equal_replicas_share_the_calls_evenly() -> None:
    shares = _shares({}, NEAR)
    assert all(400 < shares[replica.backend_key] < 600 for replica in NEAR)


def test_a_replica_that_is_slower_than_all_others_is_passed_over() -> None:
    loads = {replica.backend_key: Load(0.01) for replica in NEAR} | {"peer:2": Load(0.2)}
    assert _shares(loads, NEAR)["peer:2"] == 0


def test_calls_under_way_count_also_where_no_latency_is_known() -> None:
    assert _shares({"peer:0": Load(in_flight=1)}, NEAR[:2])["peer:0"] == 0


def test_a_heavier_replica_takes_more_calls_under_way() -> None:
    loads = {"peer:0": Load(0.01, in_flight=2, weight=4.0), "peer:1": Load(0.01, in_flight=1)}
    assert _shares(loads, NEAR[:2])["peer:1"] == 0


def test_a_rise_of_latency_counts_at_once_and_a_fall_fades_in() -> None:
    slow = observe(Load(0.01, observed_at_s=100.0), 1.0, 100.5)
    assert slow.latency_ewma_s == 1.0
    better = observe(slow, 0.01, 110.5)
    assert 0.3 < better.latency_ewma_s < 0.4


def test_a_past_peak_fades_without_calls_so_that_the_replica_is_tried_again() -> None:
    loads = {"peer:0": Load(0.2, observed_at_s=100.0), "peer:1": Load(0.01, in_flight=1, observed_at_s=160.0)}
    rng = random.Random(1)
    assert choose(NEAR[:2], loads, rng, now_s=100.0) is NEAR[1]
    assert choose(NEAR[:2], loads, rng, now_s=160.0) is NEAR[0]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), max_size=20))
def test_the_average_stays_within_what_was_observed(observations: list[tuple[float, float]]) -> None:
    load, now_s = Load(), 0.0
    for latency_s, step_s in observations:
        now_s += step_s
        load = observe(load, latency_s, now_s)
        assert 0.0 <= load.latency_ewma_s <= max(latency for latency, _ in observations)


def test_starts_and_finishes_keep_count_and_never_go_below_none() -> None:
    assert Load().started().started().finished().in_flight == 1
    assert Load().finished().in_flight == 0
