"""Chooses one replica for one call, by the latency of earlier calls and the number in flight.

Called by `agent.dispatch.replicas`, which owns the loads. The one rule: our own replica goes first while it is not
three times slower, then the fewest hops; chance only picks the two that are compared (power of two choices), so no
replica is swamped by all callers at once.

The cost of a replica is peak-EWMA latency x (calls in flight + 1) / weight. Latency counts as at least the time that
calls have been in flight without any answer: a replica that hangs becomes expensive long before its first time-out.

Where weights differ, all replicas are compared, and an exponentially distributed number of mean 1 stands in for the 1:
of idle replicas that are equally fast each wins in proportion to its weight, and so do the calls in flight.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.routing.table import Replica

if TYPE_CHECKING:
    import random


# Finagle's default: after 10 s a past latency counts for 1/e.
DECAY_S: Final = 10.0
# And after so many answers, however soon they come: what dozens have contradicted since was a moment, and a replica
# that had one must not look like another one that is always slow.
DECAY_ANSWERS: Final = 32
# A replica that is idle and unmeasured, or whose peak has faded, costs this much: it is worth a try.
LATENCY_FLOOR_S: Final = 0.001
# One that got a call and has never answered costs this much: one call finds out, not all of a burst.
UNMEASURED_S: Final = 60.0
# Our own replica goes first unless it is slower by this factor; a hop over the network costs about that much as well.
OWN_SLOWER_BY: Final = 3.0
# No other replica is taken to be faster than this when it is compared with our own: a hop and a short tool.
HOP_S: Final = 0.01
# Nor one in another datacentre than this, so that a busy moment at home sends no call over the WAN.
WIDE_HOP_S: Final = 0.05
# A failure counts as an answer this much slower than usual: a replica that fails fast must not count as a fast one. The
# factor multiplies with every failure in a row; a single one has faded after half a minute.
FAILURE_FACTOR: Final = 10.0
_KEPT_MAX: Final = 1.0 - 1.0 / DECAY_ANSWERS
_ALL_IN: Final[Mapping[str, float]] = MappingProxyType({})


# Without the call in between that a named tuple's own class makes.
_new: Final = tuple.__new__


class Load(NamedTuple):
    """The load of one backend: latency in seconds (0: not yet measured), calls in flight.

    `observed_at_s`: when the latency was measured. `stalled_since_s`: the last answer, or when calls were in flight
    again after none. Both on the clock of `now_s`. Written anew three times a call, hence by hand, and a
    tuple: `dataclasses.replace` costs three times as much, and so does each frozen dataclass.
    """

    latency_ewma_s: float = 0.0
    in_flight: int = 0
    observed_at_s: float = 0.0
    stalled_since_s: float = 0.0

    def started(self, now_s: float) -> "Load":
        """One call more in flight."""
        stalled_since_s = self.stalled_since_s if self.in_flight else now_s
        return _new(Load, (self.latency_ewma_s, self.in_flight + 1, self.observed_at_s, stalled_since_s))

    def finished(self) -> "Load":
        """One call less in flight."""
        in_flight = self.in_flight - 1 if self.in_flight else 0
        return _new(Load, (self.latency_ewma_s, in_flight, self.observed_at_s, self.stalled_since_s))


UNKNOWN: Final = Load()


def _alike(_backend_key: str) -> int:
    return 1


def choose(
    replicas: Sequence[Replica],
    loads: Mapping[str, Load],
    rng: "random.Random",
    *,
    now_s: float,
    exclude: Collection[str] = frozenset(),
    chances: Mapping[str, float] = _ALL_IN,
    weight_of: Callable[[str], int] = _alike,
    far: Collection[str] = frozenset(),
) -> Replica | None:
    """Pick a replica whose backend is not excluded; None when none is left.

    `now_s` is the clock of `observe`: a past peak fades without calls, so a replica that was slow once is tried again.
    `chances`: backend key -> the probability that it takes part at all (slow start), 1 where there is none.
    `weight_of(backend key)`: how many calls it can take in comparison with the others, at least 1. `far`: the backends
    in other datacentres, which get the call where those at home are slower by `OWN_SLOWER_BY`, or are none.
    """
    usable = [replica for replica in replicas if replica.backend_key not in exclude]
    if chances:
        usable = [r for r in usable if chances.get(r.backend_key, 1.0) > rng.random()] or usable
    if not usable:
        return None
    abroad = [replica for replica in usable if replica.backend_key in far] if far else []
    if not abroad or len(abroad) == len(usable):
        return _chosen(usable, loads, rng, now_s, weight_of)
    home = _chosen([replica for replica in usable if replica not in abroad], loads, rng, now_s, weight_of)
    away = _chosen(abroad, loads, rng, now_s, weight_of)
    home_cost = _own_cost(loads.get(home.backend_key, UNKNOWN), now_s) / weight_of(home.backend_key)
    away_cost = _cost(loads.get(away.backend_key, UNKNOWN), now_s, WIDE_HOP_S) / weight_of(away.backend_key)
    return home if home_cost <= OWN_SLOWER_BY * away_cost else away


def _chosen(
    usable: Sequence[Replica],
    loads: Mapping[str, Load],
    rng: "random.Random",
    now_s: float,
    weight_of: Callable[[str], int],
) -> Replica:
    nearest = _nearest(usable)
    if nearest[0].hops > 0 or len(nearest) == len(usable):
        return _cheaper(nearest, loads, rng, now_s, weight_of)
    own = nearest[0]
    other = _cheaper(_nearest([replica for replica in usable if replica.hops > 0]), loads, rng, now_s, weight_of)
    other_cost = _cost(loads.get(other.backend_key, UNKNOWN), now_s, HOP_S) / weight_of(other.backend_key)
    own_cost = _own_cost(loads.get(own.backend_key, UNKNOWN), now_s) / weight_of(own.backend_key)
    return own if own_cost <= OWN_SLOWER_BY * other_cost else other


def observe(load: Load, latency_s: float, now_s: float) -> Load:
    """Record one answer's latency: a rise counts at once, a fall fades in over `DECAY_S` (peak-EWMA).

    The time of a call that timed out may be given as well: its answer would have come later still.
    """
    return _new(Load, (_peak_s(load, latency_s, now_s), load.in_flight, now_s, now_s))


def answered(load: Load, latency_s: float, now_s: float) -> Load:
    """One call less in flight, and its latency: as `finished` and `observe`, which most calls come to."""
    in_flight = load.in_flight - 1 if load.in_flight else 0
    return _new(Load, (_peak_s(load, latency_s, now_s), in_flight, now_s, now_s))


def penalise(load: Load, waited_s: float, now_s: float) -> Load:
    """Record a call that failed after `waited_s`: the replica costs more for a while."""
    usual_s = max(load.latency_ewma_s * _fade(load, now_s), HOP_S)
    return observe(load, max(waited_s, min(UNMEASURED_S, FAILURE_FACTOR * usual_s)), now_s)


def give_up(load: Load, waited_s: float, now_s: float) -> Load:
    """Record a call that its caller gave up after `waited_s`: the answer would have come later still, if at all.

    It is no answer, so the other calls still count as unanswered.
    """
    if waited_s <= load.latency_ewma_s * _fade(load, now_s):
        return load
    return Load(waited_s, load.in_flight, observed_at_s=now_s, stalled_since_s=load.stalled_since_s)


def _nearest(replicas: Sequence[Replica]) -> list[Replica]:
    hops_min = min(replica.hops for replica in replicas)
    return [replica for replica in replicas if replica.hops == hops_min]


def _cheaper(
    replicas: Sequence[Replica],
    loads: Mapping[str, Load],
    rng: "random.Random",
    now_s: float,
    weight_of: Callable[[str], int],
) -> Replica:
    """The cheaper one of two; the cheapest of all where weights differ."""
    if len(replicas) == 1:
        return replicas[0]
    weights = [weight_of(replica.backend_key) for replica in replicas]
    if min(weights) < max(weights):
        return _by_weight(replicas, weights, loads, rng, now_s)
    first = rng.randrange(len(replicas))
    second = rng.randrange(len(replicas) - 1)
    pair = replicas[first], replicas[second + (second >= first)]
    return min(pair, key=lambda replica: _cost(loads.get(replica.backend_key, UNKNOWN), now_s, LATENCY_FLOOR_S))


def _by_weight(
    replicas: Sequence[Replica], weights: Sequence[int], loads: Mapping[str, Load], rng: "random.Random", now_s: float
) -> Replica:
    """The cheapest, with chance in the place of a call more."""

    def cost(number: int) -> float:
        load = loads.get(replicas[number].backend_key, UNKNOWN)
        return _cost(load, now_s, LATENCY_FLOOR_S, rng.expovariate(1.0)) / weights[number]

    return replicas[min(range(len(replicas)), key=cost)]


def _cost(load: Load, now_s: float, floor_s: float, one_more: float = 1.0) -> float:
    if load.in_flight and not load.latency_ewma_s:
        floor_s = UNMEASURED_S
    return max(_latency_s(load, now_s), floor_s) * (load.in_flight + one_more)


def _own_cost(load: Load, now_s: float) -> float:
    # Unmeasured, our own is taken for an ordinary one, so that the first callers do not leave it in a crowd.
    floor_s = LATENCY_FLOOR_S if load.latency_ewma_s else HOP_S
    return max(_latency_s(load, now_s), floor_s) * (load.in_flight + 1)


def _latency_s(load: Load, now_s: float) -> float:
    stall_s = now_s - load.stalled_since_s if load.in_flight else 0.0
    return max(load.latency_ewma_s * _fade(load, now_s), stall_s)


def _peak_s(load: Load, latency_s: float, now_s: float) -> float:
    if latency_s >= load.latency_ewma_s:
        return latency_s
    kept = _fade(load, now_s)
    if kept > _KEPT_MAX:  # noqa: PLR1730 - a call of `min` costs each call more than this
        kept = _KEPT_MAX
    return load.latency_ewma_s * kept + latency_s * (1.0 - kept)


def _fade(load: Load, now_s: float) -> float:
    age_s = now_s - load.observed_at_s
    return math.exp(-age_s / DECAY_S) if age_s > 0.0 else 1.0
