"""How calls spread over replicas in virtual time: seeded arrivals, latencies of our choosing, no clock."""

import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest

from agent.dispatch.balance import Load, choose, observe
from agent.routing.table import Replica

FLEET = [Replica(f"peer:{n}", "t", f"node-{n}", ours=False) for n in range(5)]
OURS = Replica("server:own", "t", "me", ours=True, hops=0)
LatencyOf = Callable[[str, float], float]


def simulate(
    replicas: list[Replica],
    latency_s: LatencyOf,
    seed: int,
    *,
    rate_per_s: float = 100.0,
    ends_s: float = 18.0,
    from_s: float = 10.0,
    weights: dict[str, int] | None = None,
) -> tuple[dict[str, float], list[float]]:
    """Each replica's share of the calls that begin after `from_s`, and those calls' latencies."""
    rng, loads, under_way = random.Random(seed), dict[str, Load](), list[tuple[float, float, str]]()
    counted, latencies, now_s = Counter[str](), list[float](), 0.0
    while now_s < ends_s:
        now_s += rng.expovariate(rate_per_s)
        while under_way and under_way[0][0] <= now_s:
            ended_s, took_s, key = heapq.heappop(under_way)
            loads[key] = observe(loads[key].finished(), took_s, ended_s)
        chosen = choose(replicas, loads, rng, now_s=now_s, weight_of=lambda key: 1 if weights is None else weights[key])
        assert chosen is not None
        key = chosen.backend_key
        loads[key] = loads.get(key, Load()).started(now_s)
        took_s = latency_s(key, now_s) * rng.uniform(0.8, 1.2)
        heapq.heappush(under_way, (now_s + took_s, took_s, key))
        if now_s >= from_s:
            counted[key] += 1
            latencies.append(took_s)
    return {replica.backend_key: counted[replica.backend_key] / counted.total() for replica in replicas}, latencies


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * len(values))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_replica_twenty_times_slower_gets_under_a_twentieth_of_the_calls(size: int, seed: int) -> None:
    def latency_s(key: str, now_s: float) -> float:
        return 0.1 if key == "peer:1" and now_s > 2.0 else 0.005

    shares, _ = simulate(FLEET[:size], latency_s, seed)
    assert shares["peer:1"] < 0.05, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_the_slow_one_hardly_shows_in_the_latency_of_the_fleet(seed: int) -> None:
    def slow_one(key: str, _: float) -> float:
        return 0.1 if key == "peer:1" else 0.005

    _, sick = simulate(FLEET, slow_one, seed)
    _, well = simulate(FLEET, lambda *_: 0.005, seed)
    assert percentile(sick, 0.99) < 1.5 * percentile(well, 0.99), f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 5])
def test_moments_in_which_all_are_slow_send_hardly_a_call_to_the_one_that_always_is(size: int, seed: int) -> None:
    def stalled(latency_s: LatencyOf) -> LatencyOf:
        """As on a machine that stands still for so long every five seconds: what begins then waits for the rest."""
        return lambda key, now_s: latency_s(key, now_s) + max(0.0, 0.2 - now_s % 5.0)

    def slow_one(key: str, _: float) -> float:
        return 0.68 if key == "peer:1" else 0.017

    shares, sick = simulate(FLEET[:size], stalled(slow_one), seed, ends_s=60.0)
    _, well = simulate(FLEET[:size], stalled(lambda *_: 0.017), seed, ends_s=60.0)
    assert shares["peer:1"] < 0.01, f"seed {seed}: {shares}"
    assert percentile(sick, 0.99) < 1.5 * percentile(well, 0.99), f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_that_hangs_holds_only_a_handful_of_calls(seed: int) -> None:
    def latency_s(key: str, now_s: float) -> float:
        return 600.0 if key == "peer:1" and now_s > 5.0 else 0.005

    shares, latencies = simulate(FLEET[:2], latency_s, seed, from_s=5.0)
    assert shares["peer:1"] * len(latencies) < 20, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_equal_replicas_get_equal_shares(seed: int) -> None:
    shares, _ = simulate(FLEET, lambda *_: 0.02, seed)
    assert all(0.1 < share < 0.3 for share in shares.values()), f"seed {seed}: {shares}"


@pytest.mark.parametrize("rate_per_s", [10.0, 100.0, 1000.0])
@pytest.mark.parametrize("weights", [(1, 3), (1, 1, 1, 3), (20, 30, 50)])
def test_equally_fast_replicas_get_what_their_weights_say_however_much_there_is_to_do(
    weights: tuple[int, ...], rate_per_s: float
) -> None:
    by_key = {f"peer:{number}": weight for number, weight in enumerate(weights)}
    ends_s = 10.0 + 6000 / rate_per_s
    shares, _ = simulate(
        FLEET[: len(weights)], lambda *_: 0.02, 0, rate_per_s=rate_per_s, weights=by_key, ends_s=ends_s
    )
    for key, weight in by_key.items():
        assert shares[key] == pytest.approx(weight / sum(weights), rel=0.25), shares


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weights", [{"peer:0": 1, "peer:1": 3}, {"peer:0": 3, "peer:1": 1}])
def test_a_weight_does_not_hide_that_a_replica_is_twenty_times_slower(weights: dict[str, int], seed: int) -> None:
    shares, _ = simulate(FLEET[:2], lambda key, _: 0.1 if key == "peer:1" else 0.005, seed, weights=weights)
    fair = weights["peer:1"] / 20 / (weights["peer:1"] / 20 + weights["peer:0"])
    assert shares["peer:1"] < 1.5 * fair, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_fast_replica_of_ours_answers_everything(seed: int) -> None:
    shares, _ = simulate([OURS, *FLEET], lambda *_: 0.005, seed)
    assert shares["server:own"] > 0.99, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_of_ours_that_is_twenty_times_slower_answers_little(seed: int) -> None:
    shares, _ = simulate([OURS, *FLEET], lambda key, _: 0.4 if key == "server:own" else 0.02, seed)
    assert shares["server:own"] < 0.05, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_that_recovered_gets_its_share_back(seed: int) -> None:
    def latency_s(key: str, now_s: float) -> float:
        return 0.1 if key == "peer:1" and now_s < 5.0 else 0.005

    shares, _ = simulate(FLEET[:2], latency_s, seed, from_s=50.0, ends_s=60.0)
    assert shares["peer:1"] > 0.3, f"seed {seed}"
