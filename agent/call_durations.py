"""The histogram of the durations of calls, counted by hand and shown to prometheus_client when it is rendered.

Used by `agent.metrics` alone. Every call is counted here, and the library's own counting takes locks and two calls for
each figure. The one rule: what is shown is what a histogram of the library would show.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import INF, floatToGoString


class Durations:
    """The calls of one backend: how many took up to each bound, and all their seconds together."""

    __slots__ = ("bounds", "counts", "exemplars", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Final = bounds
        self.counts = [0] * len(bounds)
        self.exemplars: dict[int, Exemplar] = {}
        self.sum_s = 0.0

    def __repr__(self) -> str:
        return f"<Durations {sum(self.counts)} calls>"

    def add_all(self, seconds: Iterable[float]) -> None:
        """Count so many."""
        bounds, counts = self.bounds, self.counts
        for one in seconds:
            counts[bisect_left(bounds, one)] += 1
            self.sum_s += one

    def add(self, seconds: float, trace_id: str = "") -> None:
        """Count one. `trace_id`: of the call, where it is traced."""
        at = bisect_left(self.bounds, seconds)
        self.counts[at] += 1
        self.sum_s += seconds
        if trace_id:
            self.exemplars[at] = Exemplar({"trace_id": trace_id}, seconds, time.time())


class CallDurations(Collector):
    """All of them, by backend. Like a metric of the library it makes children by `labels` and drops them."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        """`bounds`: upper ones in seconds, ascending; that without an end is added."""
        self._name, self._text = name, text
        self._bounds = (*bounds, INF)
        self._of: dict[str, Durations] = {}

    def __repr__(self) -> str:
        return f"<CallDurations {len(self._of)} backends>"

    def labels(self, backend: str) -> Durations:
        """Those of one backend."""
        return self._of.setdefault(backend, Durations(self._bounds))

    def remove(self, backend: str) -> None:
        """Forget one backend."""
        self._of.pop(backend, None)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As `Collector.collect`."""
        family = HistogramMetricFamily(self._name, self._text, labels=["backend"])
        for backend, one in self._of.items():
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            total = 0
            for at, bound in enumerate(self._bounds):
                total += one.counts[at]
                found = one.exemplars.get(at)
                le = floatToGoString(bound)  # type: ignore[no-untyped-call]  # the library has no types here
                buckets.append((le, total) if found is None else (le, total, found))
            family.add_metric([backend], buckets, one.sum_s)
        yield family
