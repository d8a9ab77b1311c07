"""Chooses one replica for one call, by how long calls have taken and how many are under way.

Called by dispatch, which owns the loads. The one rule: our own replica goes first, then the shortest way; chance only
picks the two that are compared (power of two choices), so no replica is swamped by all callers at once.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.core.route_table import Replica

if TYPE_CHECKING:
    import random

# faults.md's figure (Finagle's default): after 10 s a past latency counts for 1/e.
DECAY_S: Final = 10.0
# A replica that has not answered yet costs this much, so that calls under way count for it too.
LATENCY_FLOOR_S: Final = 0.001
_WEIGHT_MIN: Final = 0.01


@dataclass(frozen=True, slots=True)
class Load:
    """What is known of one backend: latency in seconds (0: not yet measured), calls under way, relative capacity."""

    latency_ewma_s: float = 0.0
    in_flight: int = 0
    weight: float = 1.0
    observed_at_s: float = 0.0

    def started(self) -> "Load":
        """One call more under way."""
        return replace(self, in_flight=self.in_flight + 1)

    def finished(self) -> "Load":
        """One call less under way."""
        return replace(self, in_flight=max(0, self.in_flight - 1))


_UNKNOWN: Final = Load()


def choose(
    replicas: Sequence[Replica],
    loads: Mapping[str, Load],
    rng: "random.Random",
    exclude: Collection[str] = frozenset(),
    *,
    now_s: float | None = None,
) -> Replica | None:
    """Pick a replica whose backend is not excluded; None when none is left.

    `now_s` (the clock of `observe`) lets a past peak fade without calls; without it a replica that was slow once may
    never be tried again.
    """
    usable = [replica for replica in replicas if replica.backend_key not in exclude]
    if not usable:
        return None
    hops_min = min(replica.hops for replica in usable)
    nearest = [replica for replica in usable if replica.hops == hops_min]
    if len(nearest) == 1:
        return nearest[0]
    first = rng.randrange(len(nearest))
    second = rng.randrange(len(nearest) - 1)
    pair = nearest[first], nearest[second + (second >= first)]
    return min(pair, key=lambda replica: _cost(loads.get(replica.backend_key, _UNKNOWN), now_s))


def observe(load: Load, latency_s: float, now_s: float) -> Load:
    """Take one answer's latency in: a rise counts at once, a fall fades in over `DECAY_S` (peak-EWMA)."""
    if latency_s >= load.latency_ewma_s:
        return replace(load, latency_ewma_s=latency_s, observed_at_s=now_s)
    kept = _fade(load, now_s)
    return replace(load, latency_ewma_s=load.latency_ewma_s * kept + latency_s * (1.0 - kept), observed_at_s=now_s)


def _cost(load: Load, now_s: float | None) -> float:
    latency_s = load.latency_ewma_s * (1.0 if now_s is None else _fade(load, now_s))
    return max(latency_s, LATENCY_FLOOR_S) * (load.in_flight + 1) / max(load.weight, _WEIGHT_MIN)


def _fade(load: Load, now_s: float) -> float:
    return math.exp(-max(0.0, now_s - load.observed_at_s) / DECAY_S)
