"""What a worker has done since it last said so: calls, repetitions, ejections. The frames of the feed to the node.

Written by the worker's dispatch in the place of `agent.metrics`, and added to the node's metrics by
`agent.workers.crew`. The one rule: a call is counted where it was made, and shown where operators look, once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.tracing.export import Spans
    from agent.tracing.spans import Span  # noqa: F401 - of `Spans`


@dataclass(slots=True)
class Done:
    """Since the last one. `calls`: the seconds of each by backend, tool and outcome; `traced`: those with a trace.

    `closed`: numbers of connections; `sessions`: those whose calls were served; `ways`: the backends that can be called
    now; `changing`: those whose lists changed during a call; `lines`: of the log, with their levels, for readers over
    REST.
    """

    calls: defaultdict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    traced: list[tuple[str, str, str, float, str]] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    retries_refused: int = 0
    ejected: list[tuple[str, str]] = field(default_factory=list)
    in_flight: int = 0
    closed: list[int] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    ways: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()
    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def call_count(self) -> int:
        """How many calls there were."""
        return len(self.traced) + sum(map(len, self.calls.values()))


@dataclass(frozen=True, slots=True)
class Back:
    """A connection is the node's again, with what its journal has of it. `returns`: how often it came back."""

    number: int
    returns: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has all that it needs."""


class Counted(Protocol):
    """Where the node counts (`agent.metrics.Metrics`)."""

    def call_started(self) -> None:
        """See there."""
        ...

    def call_finished(self, backend: str, tool: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """See there."""
        ...

    def calls_elsewhere(self, backend: str, tool: str, outcome: str, seconds: Sequence[float]) -> None:
        """See there."""
        ...

    def retried(self, backend: str) -> None:
        """See there."""
        ...

    def retry_refused(self) -> None:
        """See there."""
        ...

    def ejected(self, backend: str, reason: str) -> None:
        """See there."""
        ...


class CrewMetrics(Counted, Protocol):
    """What is counted of the workers, too (`agent.metrics.Metrics`)."""

    def workers_running(self, count: int, connections: int, in_flight: int) -> None:
        """So many serve now, with so many connections, and so many calls under way."""
        ...

    def worker_called(self, calls: int) -> None:
        """So many were made there."""
        ...

    def worker_lost(self) -> None:
        """One ended that should not have."""
        ...


class Tally:
    """See the module: what dispatch records to (`agent.dispatch.replicas.Recorder`)."""

    def __init__(self, spans: "Spans | None" = None) -> None:
        self.spans = spans
        self.done = Done()
        self._in_flight = 0

    def __repr__(self) -> str:
        return f"<Tally {len(self.done.calls)} calls, {self._in_flight} in flight>"

    def take(self) -> Done:
        """All of it; the next one begins now."""
        done, self.done = self.done, Done()
        done.in_flight = self._in_flight
        return done

    def call_started(self) -> None:
        """As `Recorder`."""
        self._in_flight += 1

    def call_finished(self, backend: str, tool: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """As `Recorder`."""
        self._in_flight -= 1
        if trace_id:
            self.done.traced.append((backend, tool, outcome, seconds, trace_id))
        else:
            self.done.calls[backend, tool, outcome].append(seconds)

    def retried(self, backend: str) -> None:
        """As `Recorder`."""
        self.done.retried.append(backend)

    def retry_refused(self) -> None:
        """As `Recorder`."""
        self.done.retries_refused += 1

    def ejected(self, backend: str, reason: str) -> None:
        """As `Recorder`."""
        self.done.ejected.append((backend, reason))


def add(done: Done, metrics: Counted) -> None:
    """Count it at the node."""
    for labels, seconds in done.calls.items():
        metrics.calls_elsewhere(*labels, seconds)
    for call in done.traced:
        metrics.call_started()
        metrics.call_finished(*call)
    for backend in done.retried:
        metrics.retried(backend)
    for _ in range(done.retries_refused):
        metrics.retry_refused()
    for backend, reason in done.ejected:
        metrics.ejected(backend, reason)
