"""The durations of calls: what is shown is what the library's own histogram would show."""

import random

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from agent.call_durations import CallDurations

BOUNDS = (0.005, 0.01, 0.25, 1, 60)


def test_any_durations_are_shown_as_the_library_shows_them() -> None:
    disable_created_metrics()
    rng = random.Random(14)
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    library = Histogram("took_seconds", "Durations.", ["backend"], buckets=BOUNDS, registry=theirs)
    durations = CallDurations("took_seconds", "Durations.", BOUNDS)
    ours.register(durations)
    seconds = [*BOUNDS, 0.0, 61.0, *(rng.expovariate(2) for _ in range(200))]
    for backend in ("server:a", "peer:b"):
        for one in seconds:
            library.labels(backend).observe(one)
            durations.labels(backend).add(one)
    assert generate_latest(ours) == generate_latest(theirs)
    durations.remove("peer:b")
    library.remove("peer:b")
    assert generate_latest(ours) == generate_latest(theirs)
