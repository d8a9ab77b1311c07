"""Every metric of a node, and with `agent.call_durations` the only user of prometheus_client.

Parts of the node call the typed methods as things happen; `/metrics` calls `observe` and then `render`. What mirrors
state (links, catalog, conflicts) is built from the snapshot of the scrape itself, so it cannot go stale.
The one rule: a label value is a word of ours, a backend's name or a tool's name, never an address, a token or what a
client typed, and each metric has a limit of label sets beyond which everything is counted under `other`. The reason of
a maintenance is an operator's, and short. Long because all metrics of a node are here.
"""

import asyncio
import re
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from agent import clock
from agent.call_durations import CallDurations
from agent.call_history import CallHistory
from agent.harmless_text import one_line
from agent.model import LinkState, LinkView, PeerSpec, ServerSpec, StdioTarget
from discovery.model import Catalog, Health, Instance, RegistrarStatus, SourceStatus, is_listed

if TYPE_CHECKING:
    from agent.tracing.export import Spans

# Together they keep a node under 2,000 series, whatever names its peers think up.
CALL_LABEL_SETS_MAX: Final = 1000
BACKENDS_MAX: Final = 50  # Of the histogram, 14 series each.
EVENT_LABEL_SETS_MAX: Final = 100
# Of an operator's reason: the one text of a person among all labels, there for as long as the maintenance is.
REASON_CHARS_MAX: Final = 100
OTHER: Final = "other"
MAINTENANCE: Final = "maintenance"

# From one hop on a loopback (3 ms) to the longest call that is allowed (600 s).
CALL_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

LAG_EVERY_S: Final = 0.5
LAG_SAMPLES: Final = 60  # The gauge shows the worst of the last 30 s, so a scrape every 15 s misses nothing.

_LABEL = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

# A second `_created` series for every counter would double what Prometheus stores, for a start time that it can see.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves this one function without types


class ObservedMesh(Protocol):
    """What `observe` reads of `agent.control.reconciler.Mesh`."""

    def views(self) -> Sequence[LinkView]:
        """Every link as it stands."""

    @property
    def routes(self) -> Any:
        """The route table; its `conflicts` and what is `left_out` are counted."""

    @property
    def catalog(self) -> Catalog:
        """The catalog in use."""

    @property
    def maintenance(self) -> Any:
        """The operator's maintenance: `own` of this node, `peers` of others."""


class ObservedMembership(Protocol):
    """What `observe` reads of `agent.control.membership.MembershipView`."""

    @property
    def mode(self) -> str:
        """Which catalog is used; `off` for none."""

    @property
    def source(self) -> SourceStatus:
        """How far the catalog can be trusted."""

    @property
    def registrar(self) -> RegistrarStatus:
        """Whether the catalog knows us."""


class ObservedBalance(Protocol):
    """What `observe` reads of `agent.dispatch.replicas.BalanceView`."""

    @property
    def ejected(self) -> frozenset[str]:
        """The backends that are ejected somewhere."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Backend -> its share of the last window's calls."""

    @property
    def retries_left(self) -> int:
        """What the scarcest retry budget of a group leaves now."""


class Metrics:
    """All metrics, on a registry of their own. Methods are called in the event loop and never raise or wait.

    Long because each metric is made here, and has a method that counts.
    """

    def __init__(self, version: str, spans: "Spans | None" = None) -> None:
        self._registry = registry = CollectorRegistry()
        self.spans, self._state = spans, _StateCollector()
        registry.register(self._state)
        ProcessCollector(registry=registry)
        Gauge("mesh_build_info", "Always 1; the version is its label.", ["version"], registry=registry).labels(
            version
        ).set(1)
        # Counted by hand and read when it is rendered: the library's own counting costs a call 2% of its work.
        self._calls_in_flight = self._calls_in_workers = 0
        in_flight = Gauge("mesh_calls_in_flight", "Calls that have no outcome yet.", registry=registry)
        in_flight.set_function(lambda: self._calls_in_flight + self._calls_in_workers)
        self._of_workers = _metrics_of_workers(registry)
        self.history, self.servers_file_ok = CallHistory(), True
        whether = "Whether the servers file could be read as it is now."
        servers_file_ok = Gauge("mesh_servers_file_ok", whether, registry=registry)
        servers_file_ok.set_function(lambda: float(self.servers_file_ok))
        self._changed_definitions, self._suspected_definitions = _gauges_of_definitions(registry)
        self._refused_connections = _counter_of_refused_connections(registry)
        self._auth_failures = Counter("mesh_auth_failures", "Requests without a valid token.", registry=registry)
        self._refused = Counter(
            "mesh_refused_requests", "Requests that their caller may not make, or not so often.", registry=registry
        )
        self._audit_lost = Counter(
            "mesh_audit_lost_records", "Records of the audit that were not kept.", registry=registry
        )
        self._lag = Gauge(
            "mesh_event_loop_lag_seconds", "The longest delay of a timer in the last 30 s.", registry=registry
        )
        calls = Counter("mesh_calls", "Forwarded calls by outcome.", ["backend", "tool", "outcome"], registry=registry)
        seconds = CallDurations("mesh_call_seconds", "Duration of calls.", CALL_BUCKETS_S)
        registry.register(seconds)
        dials = Counter("mesh_dials", "Attempts to open a link by outcome.", ["outcome"], registry=registry)
        reconnects = Counter("mesh_link_reconnects", "Links that broke.", ["backend"], registry=registry)
        changes = Counter(
            "mesh_list_changes", "List changes that clients were notified of.", ["kind"], registry=registry
        )
        self._sessions = Gauge("mesh_sessions", "Open sessions of clients before 2026-07-28.", registry=registry)
        self._session_events = Counter(
            "mesh_session_events", "What happened to sessions.", ["event"], registry=registry
        )
        self._parked = Gauge("mesh_parked_calls", "Calls that wait for their client's answers.", registry=registry)
        self._pending_events = Counter(
            "mesh_parked_call_events", "Pending calls by what became of them.", ["event"], registry=registry
        )
        # Subscriptions of this node's clients: how many there are now, and how many updates they brought.
        self.resources_followed = Gauge(
            "mesh_resource_subscriptions", "Resources that clients follow.", registry=registry
        ).set
        self.resource_told = Counter("mesh_resource_updates", "Updates that clients got.", registry=registry).inc
        self.tasks_followed = Gauge("mesh_task_subscriptions", "Tasks that clients follow.", registry=registry).set
        self.task_told = Counter("mesh_task_updates", "States of tasks that clients got.", registry=registry).inc
        retries = Counter("mesh_retries", "Calls that were sent again.", ["backend"], registry=registry)
        ejections = Counter(
            "mesh_ejections", "Replicas that got no more calls for a while.", ["backend", "reason"], registry=registry
        )
        self._retries_refused = Counter(
            "mesh_retries_refused", "Calls that the retry budget did not let be sent again.", registry=registry
        )
        self._retries = _Limited(retries, EVENT_LABEL_SETS_MAX, names=1)
        self._ejections = _Limited(ejections, EVENT_LABEL_SETS_MAX, names=1)
        self._calls = _Limited(calls, CALL_LABEL_SETS_MAX, names=2)
        self._ended_calls: dict[tuple[str, str, str], int] = {}  # Since they were given to `_calls`.
        self._call_seconds = _Limited(seconds, BACKENDS_MAX, names=1)
        self._dials = _Limited(dials, EVENT_LABEL_SETS_MAX, names=1)
        self._reconnects = _Limited(reconnects, EVENT_LABEL_SETS_MAX, names=1)
        self._own_names = Counter(
            "mesh_own_name_requests", "Requests by a name that only its server gave.", ["method"], registry=registry
        )
        self._list_changes = _Limited(changes, EVENT_LABEL_SETS_MAX, names=1)

    def definitions(self, changed: int, suspected: int) -> None:
        """How many definitions are not as they were pinned, and how many look suspicious."""
        self._changed_definitions.set(changed)
        self._suspected_definitions.set(suspected)

    def connection_refused(self, reason: str) -> None:
        """A connection was not let in, for `total` or `address`."""
        self._refused_connections.labels(reason).inc()

    def audit_lost(self, records: int) -> None:
        """So many records of the audit are not kept."""
        self._audit_lost.inc(records)

    def refused(self) -> None:
        """A request was refused that its caller may not make."""
        self._refused.inc()

    def session_event(self, event: str) -> None:
        """A session was `opened`, `adopted` or `refused`, lost a slow stream (`stream_dropped`), or ended (others)."""
        self._sessions.inc({"opened": 1, "adopted": 1, "refused": 0, "stream_dropped": 0}.get(event, -1))
        self._session_events.labels(event).inc()

    def pending_call(self, event: str, waiting: int) -> None:
        """Something happened to a call whose client is asked; so many more wait since."""
        self._parked.inc(waiting)
        self._pending_events.labels(event).inc()

    def call_started(self) -> None:
        """One more call in flight."""
        self._calls_in_flight += 1

    def call_finished(self, backend: str, tool: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """One call less in flight. `backend` and `tool` as the route table names them, `outcome` a word of ours."""
        self._calls_in_flight -= 1
        labels, ended = (backend, tool, outcome), self._ended_calls
        if labels in ended:
            ended[labels] += 1
        else:
            if len(ended) >= CALL_LABEL_SETS_MAX:
                self._count_ended_calls()
            ended[labels] = 1
        self._call_seconds.labels(backend).add(seconds, trace_id)
        self.history.add(backend, outcome, seconds)

    def calls_elsewhere(self, backend: str, tool: str, outcome: str, seconds: Sequence[float]) -> None:
        """Calls that another process of this node has made: how long each took."""
        self._calls.labels(backend, tool, outcome).inc(len(seconds))
        self._call_seconds.labels(backend).add_all(seconds)
        self.history.add(backend, outcome, *seconds)

    def _count_ended_calls(self) -> None:
        """Give the library what was counted by hand."""
        for labels, count in self._ended_calls.items():
            self._calls.labels(*labels).inc(count)
        self._ended_calls.clear()

    def workers_running(self, count: int, connections: int, in_flight: int) -> None:
        """So many processes beside this one serve calls, with so many connections, and so many calls under way."""
        self._of_workers.running.set(count)
        self._of_workers.connections.set(connections)
        self._calls_in_workers = in_flight

    def worker_called(self, calls: int) -> None:
        """Such processes have made so many calls, which are counted as all others, too."""
        self._of_workers.calls.inc(calls)

    def worker_lost(self) -> None:
        """A process beside this one has ended, and is started again."""
        self._of_workers.lost.inc()

    def retried(self, backend: str) -> None:
        """A call is sent again, to `backend`."""
        self._retries.labels(backend).inc()

    def retry_refused(self) -> None:
        """The budget forbids to send a call again."""
        self._retries_refused.inc()

    def ejected(self, backend: str, reason: str) -> None:
        """A replica is not asked for a while; `reason` is a word of ours."""
        self._ejections.labels(backend, reason).inc()

    def dialled(self, outcome: str) -> None:
        """An attempt to open a link ended: `ok`, or the failure's class name."""
        self._dials.labels(_CAMEL.sub("_", outcome).lower()).inc()

    def link_reconnected(self, backend: str) -> None:
        """A link that was up broke and is being opened again."""
        self._reconnects.labels(backend).inc()

    def list_changed(self, kind: str) -> None:
        """The node notified clients that their `tools`, `prompts` or `resources` list changed."""
        self._list_changes.labels(kind).inc()

    def named_by_server(self, method: str) -> None:
        """A request named something as its server does, as the pages of MCP Apps do."""
        self._own_names.labels(method).inc()

    def auth_failed(self) -> None:
        """A request had no valid token."""
        self._auth_failures.inc()

    def observe(
        self, mesh: ObservedMesh, membership: ObservedMembership, balance: ObservedBalance | None = None
    ) -> None:
        """Take the state that the next `render` shows; call it in the event loop, right before."""
        now_s = clock.now_s()
        backends = frozenset(view.key for view in mesh.views())
        self._count_ended_calls()
        for metric in (self._calls, self._call_seconds, self._reconnects, self._retries, self._ejections):
            metric.forget_absent(backends)
        shown = () if balance is None else _balance_families(balance)
        self._state.families = (*_state_families(mesh, membership, now_s), *shown)

    def render(self, accepted: str = "") -> tuple[bytes, str]:
        """Return the exposition in Prometheus' text format and its content type.

        In that of OpenMetrics where calls are traced and it is `accepted`, since only that has exemplars.
        """
        self._count_ended_calls()
        if self.spans is not None and "application/openmetrics-text" in accepted:
            from prometheus_client.openmetrics import exposition as openmetrics  # noqa: PLC0415 - few are traced

            rendered: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]  # theirs
            return rendered, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    async def watch_loop_lag(self) -> None:
        """Measure how late timers are, until cancelled."""
        lags_s: deque[float] = deque(maxlen=LAG_SAMPLES)
        while True:
            due_s = clock.now_s() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            lags_s.append(max(0.0, clock.now_s() - due_s))
            self._lag.set(max(lags_s))


class _Limited:
    """A labelled metric that stops making label sets at its limit.

    The first `names` labels are names of others and become `other` beyond it; the rest are a few words of ours.
    """

    def __init__(self, metric: Any, sets_max: int, names: int) -> None:
        self._metric = metric
        self._sets_max = sets_max
        self._names = names
        self._children: dict[tuple[str, ...], Any] = {}

    def labels(self, *values: str) -> Any:
        known = self._children.get(values)
        if known is not None:
            return known
        clean = tuple(value if _LABEL.fullmatch(value) else OTHER for value in values)
        if clean not in self._children and len(self._children) >= self._sets_max:
            clean = (OTHER,) * self._names + clean[self._names :]
        child = self._children.get(clean)
        if child is None:
            child = self._children[clean] = self._metric.labels(*clean)
        return child

    def forget_absent(self, backends: frozenset[str]) -> None:
        """When it is full, drop the label sets of backends that are gone, so that new ones get their own."""
        if len(self._children) < self._sets_max:
            return
        for values in [values for values in self._children if values[0] not in backends and values[0] != OTHER]:
            del self._children[values]
            self._metric.remove(*values)


def _gauges_of_definitions(registry: CollectorRegistry) -> tuple[Gauge, Gauge]:
    changed = "Tools and prompts that are not as they were pinned."
    suspected = "Tools and prompts that look as if they were to steer a model."
    return (
        Gauge("mesh_changed_definitions", changed, registry=registry),
        Gauge("mesh_suspected_definitions", suspected, registry=registry),
    )


class _WorkerMetrics(NamedTuple):
    """Of the processes beside this one."""

    running: Gauge
    connections: Gauge
    calls: Counter
    lost: Counter


def _metrics_of_workers(registry: CollectorRegistry) -> _WorkerMetrics:
    return _WorkerMetrics(
        Gauge("mesh_workers", "Processes beside this one that serve calls.", registry=registry),
        Gauge("mesh_worker_connections", "Connections that such processes have.", registry=registry),
        Counter("mesh_worker_calls", "Calls that such processes made.", registry=registry),
        Counter("mesh_lost_workers", "Such processes that ended.", registry=registry),
    )


def _counter_of_refused_connections(registry: CollectorRegistry) -> Counter:
    about = "Connections beyond what this node takes."
    return Counter("mesh_refused_connections", about, ["reason"], registry=registry)


class _StateCollector(Collector):
    """Shows what `observe` took last."""

    def __init__(self) -> None:
        self.families: tuple[Metric, ...] = ()

    def collect(self) -> Iterator[Metric]:
        return iter(self.families)


def _state_families(mesh: ObservedMesh, membership: ObservedMembership, now_s: float) -> Iterator[Metric]:
    source, registrar, views = membership.source, membership.registrar, mesh.views()
    if membership.mode != "off":
        # Without discovery there is no catalog that could be down.
        yield _gauge("mesh_consul_up", "Whether the catalog answers.", float(source.up))
        yield _gauge("mesh_registered", "Whether the catalog lists us.", float(is_listed(source, registrar)))
        healths = Tally(_health_word(instance) for instance in mesh.catalog.instances)
        instances = GaugeMetricFamily("mesh_instances", "Instances in the catalog, ours too.", labels=["health"])
        for word in (*Health, MAINTENANCE):
            instances.add_metric([str(word)], healths[str(word)])
        yield instances
    if source.confirmed_at_s is not None:
        age_s = max(0.0, now_s - source.confirmed_at_s)
        yield _gauge("mesh_catalog_age_seconds", "Time since the catalog's servers last confirmed it.", age_s)
    yield CounterMetricFamily("mesh_catalog_changes", "Catalogs that differed from the last.", source.changes_total)
    yield CounterMetricFamily(
        "mesh_registrations", "Registrations that were sent to the catalog.", registrar.registrations_total
    )
    yield _gauge("mesh_name_conflicts", "Public names that more than one backend wants.", len(mesh.routes.conflicts))
    yield _gauge("mesh_entries_left_out", "Listed entries that no client could read.", len(mesh.routes.left_out))
    yield _gauge("mesh_maintenance", "Whether this node is in maintenance.", float(bool(mesh.maintenance.own)))
    yield _gauge("mesh_peers_in_maintenance", "Peers in maintenance.", len(mesh.maintenance.peers))
    yield _maintenance_reasons(mesh)
    states = Tally(view.state for view in views)
    links = GaugeMetricFamily("mesh_links", "Links by state.", labels=["state"])
    for state in LinkState:
        links.add_metric([state.value], states[state])
    yield links
    ups = GaugeMetricFamily("mesh_peer_up", "Whether calls may go to this peer.", labels=["peer"])
    peers = [v for v in views if isinstance(v.spec, PeerSpec) and _LABEL.fullmatch(v.spec.name)]
    for view in peers[:EVENT_LABEL_SETS_MAX]:
        ups.add_metric([view.spec.name], float(view.connected and not view.unheard))
    yield ups
    restarts = CounterMetricFamily(
        "mesh_stdio_restarts", "Times that a child process was lost and started again.", labels=["server"]
    )
    children = [v for v in views if isinstance(v.spec, ServerSpec) and isinstance(v.spec.target, StdioTarget)]
    for view in children[:EVENT_LABEL_SETS_MAX]:
        restarts.add_metric([view.spec.name], view.reconnects)
    yield restarts


def _maintenance_reasons(mesh: ObservedMesh) -> Metric:
    """Who is in maintenance, and why: the operator's words, on one short line each."""
    about = "Always 1; a node in maintenance, with the operator's reason; without a peer it is this one."
    reasons = GaugeMetricFamily("mesh_maintenance_info", about, labels=["peer", "reason"])
    named = [(name, why) for name, why in sorted(mesh.maintenance.peers.items()) if _LABEL.fullmatch(name)]
    own = [("", mesh.maintenance.own)] if mesh.maintenance.own else []
    for name, why in (*own, *named[:EVENT_LABEL_SETS_MAX]):
        reasons.add_metric([name, one_line(why, REASON_CHARS_MAX)], 1)
    return reasons


def _health_word(instance: Instance) -> str:
    return MAINTENANCE if instance.maintenance else instance.health.value


def _balance_families(balance: ObservedBalance) -> Iterator[Metric]:
    yield _gauge("mesh_backends_ejected", "Backends that are ejected somewhere.", len(balance.ejected))
    shares = GaugeMetricFamily(
        "mesh_backend_share", "A replica's part of its group's calls, 0 to 1, in the last 10 s.", labels=["backend"]
    )
    for backend, share in sorted(balance.shares.items())[:EVENT_LABEL_SETS_MAX]:
        if _LABEL.fullmatch(backend):
            shares.add_metric([backend], share)
    yield shares
    yield _gauge("mesh_retries_left", "Repetitions that the scarcest retry budget leaves.", balance.retries_left)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)
