"""Statistics of every replica: its load, its health, its share, and its group's retry budget; and the choice by them.

Owned by dispatch. Kept for each backend within each group (the owner of a route: one server, on any node), so that a
server that hangs on one node ejects nothing else of that node. The one rule: this is the only writer of these states;
`balance`, `outlier` and `retry` decide.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from agent.client.affinity import rendezvous_choice
from agent.dispatch.balance import UNKNOWN, Load, answered, choose, give_up, observe, penalise
from agent.dispatch.outlier import HEALTHY, Cause, Health, Verdict, chance, ejected_of, judge, readmit, verdict_of
from agent.dispatch.retry import BUDGET_RESERVE, WINDOW_S, Budget, costs
from agent.errors import MeshError
from agent.model import Json
from agent.routing.table import Replica, Route

if TYPE_CHECKING:
    from agent.tracing.export import Spans
    from agent.tracing.spans import Span

log = logging.getLogger(__name__)

# Groups go when their last backend goes; this bounds their number for a peer that renames its servers for ever.
GROUPS_MAX: Final = 10_000
GROUPS_SHOWN_MAX: Final = 200


class Recorder(Protocol):
    """Where outcomes are counted (`agent.metrics`)."""

    @property
    def spans(self) -> "Spans | None":
        """Where attempts are recorded as spans of a trace, if anywhere."""
        ...

    def call_started(self) -> None:
        """One more call in flight."""
        ...

    def call_finished(self, backend: str, tool: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """One call less in flight, with how it ended."""
        ...

    def retried(self, backend: str) -> None:
        """A call is sent again, to `backend`."""
        ...

    def retry_refused(self) -> None:
        """The budget forbids to send a call again."""
        ...

    def ejected(self, backend: str, reason: str) -> None:
        """A replica gets no calls for a while."""
        ...


@dataclass(frozen=True, slots=True)
class BalanceView:
    """For metrics: the backends that are ejected somewhere, and each one's share of its groups' calls (0 to 1).

    Shares are those of the last whole window of `WINDOW_S`, over groups of more than one replica. `retries_left`: what
    the scarcest retry budget of those groups leaves, and as much as any at rest where there is no such group.
    """

    ejected: frozenset[str] = frozenset()
    shares: Mapping[str, float] = field(default_factory=dict)
    retries_left: int = BUDGET_RESERVE


@dataclass(frozen=True, slots=True)
class MemberView:
    """One replica of a group.

    `share` of its calls in the last whole window, None without calls; `out_until_s`: when it is readmitted at the
    earliest, in loop time, None while it is not ejected; `latency_s`: what calls are spread by, None before the first.
    """

    backend: str
    share: float | None
    out_until_s: float | None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class GroupView:
    """For the page: a group of more than one replica. `retries_left`: what its retry budget leaves."""

    owner: str
    retries_left: int
    members: tuple[MemberView, ...]


@dataclass(slots=True)
class _Group:
    loads: dict[str, Load] = field(default_factory=dict)
    healths: dict[str, Health] = field(default_factory=dict)
    refusing: dict[str, str] = field(default_factory=dict)  # Ejected for a call, by the call's name.
    budget: Budget = field(default_factory=Budget)
    replicas: tuple[Replica, ...] = ()
    asked: Counter[str] = field(default_factory=Counter)
    asked_before: Counter[str] = field(default_factory=Counter)
    window_at_s: float = 0.0


@dataclass(slots=True)
class Attempt:
    """One request in flight: when it began, its time limit, and this node's own limit.

    Written by `ReplicaStats` alone once it has begun.
    """

    route: Route
    key: str
    started_s: float
    timeout_s: float
    own_timeout_s: float
    answered_s: float | None = None  # when its answer began, if that goes to the client while it comes
    span: "Span | None" = None


class ReplicaStats:
    """See the module.

    `up_since_s(backend key)`: since when its link is up, None when it is not or is unheard; `weight_of`: its node's;
    `is_ready`: whether its link is up and answers its probes. `drained`: the backends in maintenance, which get new
    calls only where no other replica is there; `far`: those in other datacentres. Set by dispatch.

    Long because the choice, the ejection and the budget of a group are decided on the same counts.
    """

    def __init__(
        self,
        recorder: Recorder,
        rng: random.Random,
        up_since_s: Callable[[str], float | None],
        weight_of: Callable[[str], int],
        is_ready: Callable[[str], bool] = lambda _key: True,
    ) -> None:
        self._is_ready = is_ready
        self._recorder = recorder
        self._rng = rng
        self._up_since_s = up_since_s
        self._weight_of = weight_of
        self.drained: frozenset[str] = frozenset()
        self.far: frozenset[str] = frozenset()
        self._groups: dict[str, _Group] = {}

    def __repr__(self) -> str:
        return f"<ReplicaStats groups={len(self._groups)} in_flight={self.in_flight}>"

    @property
    def in_flight(self) -> int:
        """Calls that have no outcome yet."""
        return sum(load.in_flight for group in self._groups.values() for load in group.loads.values())

    def forget(self, backend_key: str) -> None:
        """Drop the statistics of a backend that is gone."""
        for owner, group in list(self._groups.items()):
            group.loads.pop(backend_key, None)
            group.healths.pop(backend_key, None)
            group.refusing.pop(backend_key, None)
            group.asked.pop(backend_key, None)
            group.asked_before.pop(backend_key, None)
            group.replicas = tuple(replica for replica in group.replicas if replica.backend_key != backend_key)
            if not group.loads:
                del self._groups[owner]

    def members(self, route: Route) -> Collection[str]:
        """Its backends, and those of its group that it does not lead to now."""
        keys, group = {replica.backend_key for replica in route.replicas}, self._groups.get(route.owner)
        return keys if group is None else keys.union(group.loads)

    def choose(self, route: Route, tried: Collection[str], key: str | None, now_s: float) -> Replica | None:
        """Pick the next replica; None when none is left. `key`: the affinity of a sticky route's call."""
        if len(route.replicas) == 1:  # A group of one is never ejected.
            only = route.replicas[0]
            return None if only.backend_key in tried else only
        group = self._group(route)
        exclude, chances = tried, dict[str, float]()
        if group.healths:  # A member has failed lately; most groups have no such one.
            keys = {replica.backend_key for replica in route.replicas}
            for ejected in [one for one in keys if group.healths.get(one, HEALTHY).is_ejected]:
                self._readmit(group, ejected, route, now_s)
            left_out = ejected_of(keys, group.healths).union(tried)
            # Better an ejected one, which may be back by now, than to give up the call.
            exclude = tried if keys <= left_out else left_out
            chances = {one: chance(group.healths[one], now_s) for one in keys & group.healths.keys()}
        if self.drained:
            exclude = self._without_drained(route, exclude)
        if key is not None:
            return self._home(route, key, exclude)

        weight_of = self._weight_of

        def chosen(exclude: Collection[str]) -> Replica | None:
            known = route.replicas, group.loads, self._rng
            return choose(*known, now_s=now_s, exclude=exclude, chances=chances, weight_of=weight_of, far=self.far)

        first = chosen(exclude)
        if first is None or self._is_ready(first.backend_key):
            return first
        # One that misses probes while it is busy gets new calls only where no other is ready; one that is down, none.
        keys = {replica.backend_key for replica in route.replicas}
        unready = {one for one in keys if not self._is_ready(one)}
        down = {one for one in unready if self._up_since_s(one) is None}
        return chosen(unready.union(exclude)) or chosen(down.union(exclude)) or first

    def _home(self, route: Route, key: str, exclude: Collection[str]) -> Replica | None:
        """That of a caller who stays with one; another one only as long as it is down or unheard, or in this set."""

        def chosen(exclude: Collection[str]) -> Replica | None:
            near = {replica.backend_key for replica in route.replicas} - self.far - set(exclude)
            return rendezvous_choice(route.replicas, key, self.far.union(exclude) if near else exclude)

        home = chosen(exclude)
        if home is None or self._is_ready(home.backend_key):
            return home
        down = {replica.backend_key for replica in route.replicas if self._up_since_s(replica.backend_key) is None}
        return chosen(down.union(exclude)) or home

    def _without_drained(self, route: Route, exclude: Collection[str]) -> Collection[str]:
        """What to exclude so that none in maintenance is chosen; `exclude` where no other is there."""
        others = {r.backend_key for r in route.replicas} - self.drained - set(exclude)
        if any(self._up_since_s(other) is not None for other in others):
            return self.drained.union(exclude)
        return exclude

    def begin(self, attempt: Attempt, method: str, params: Json, trace: str = "") -> str:
        """Note that a request goes out; where it is traced, `params` say so to the next hop.

        `trace`: that of the call's earlier attempts. Returns the attempt's own, empty where it is not traced.
        """
        if (spans := self._recorder.spans) is not None:
            attempt.span = spans.begin(method, attempt.route.public_name, attempt.key, params, trace)
        self._begun(self._group(attempt.route), attempt)
        return "" if attempt.span is None else attempt.span.trace_id

    def started(self, attempt: Attempt) -> None:
        """As `called` and `begin`, of a first attempt without a trace."""
        group = self._groups.get(attempt.route.owner) or self._group(attempt.route)
        group.budget = group.budget.called(attempt.started_s)
        self._begun(group, attempt)

    def _begun(self, group: _Group, attempt: Attempt) -> None:
        key = attempt.key
        group.loads[key] = group.loads.get(key, UNKNOWN).started(attempt.started_s)
        if group.refusing:
            _note_away(group, attempt.route)
        if len(attempt.route.replicas) > 1:
            _turn(group, attempt.started_s)
            group.replicas = attempt.route.replicas
            group.asked[key] += 1
        self._recorder.call_started()

    def answered(self, attempt: Attempt, now_s: float) -> None:
        """Note that its answer has begun: from now on the client sets the pace, not the replica."""
        attempt.answered_s = now_s
        group = self._groups.get(attempt.route.owner)
        if group is not None and (load := group.loads.get(attempt.key)) is not None:
            group.loads[attempt.key] = answered(load, now_s - attempt.started_s, now_s)

    def finish(self, attempt: Attempt, outcome: str, now_s: float) -> None:
        """Note how it ended; `outcome` is the metric's label value."""
        received_s = attempt.answered_s
        seconds, key = (now_s if received_s is None else received_s) - attempt.started_s, attempt.key
        trace_id = ""
        if (span := attempt.span) is not None and (spans := self._recorder.spans) is not None:
            spans.end(span, outcome)
            trace_id = span.trace_id
        self._recorder.call_finished(key, attempt.route.public_name, outcome, seconds, trace_id)
        group = self._groups.get(attempt.route.owner)
        load = None if group is None else group.loads.get(key)
        if group is None or load is None:
            return  # The backend went meanwhile; its statistics are gone too.
        load = load.finished() if received_s is None else load
        verdict = verdict_of(outcome, took_s=seconds, timeout_s=attempt.timeout_s, own_timeout_s=attempt.own_timeout_s)
        if verdict is None:
            # Else a replica that hangs would count as idle whenever a caller gives up, and get every call.
            group.loads[key] = give_up(load, seconds, now_s) if received_s is None else load
            return
        if verdict is not Verdict.ANSWERED:
            group.loads[key] = penalise(load, seconds, now_s)
        elif received_s is None:
            group.loads[key] = observe(load, seconds, now_s)
        # A replica without failures is not counted: a success rate begins to matter with the first failure.
        counts = verdict is not Verdict.ABSENT and (verdict is not Verdict.ANSWERED or key in group.healths)
        if len(attempt.route.replicas) > 1 and counts:
            self._judge(group, attempt, verdict, now_s)

    def ended_well(self, attempt: Attempt, now_s: float) -> None:
        """As `finish` with `ok`, of an attempt without a trace whose answer came at once: most calls end so."""
        seconds, key = now_s - attempt.started_s, attempt.key
        self._recorder.call_finished(key, attempt.route.public_name, "ok", seconds)
        group = self._groups.get(attempt.route.owner)
        if group is None or (load := group.loads.get(key)) is None:
            return  # The backend went meanwhile; its statistics are gone too.
        group.loads[key] = answered(load, seconds, now_s)
        if key in group.healths and len(attempt.route.replicas) > 1:
            self._judge(group, attempt, Verdict.ANSWERED, now_s)

    def budget(self, route: Route) -> Budget:
        """The group's retry budget."""
        return self._group(route).budget

    def called(self, route: Route, now_s: float) -> None:
        """Note a call, once for all its attempts: it feeds the budget."""
        group = self._group(route)
        group.budget = group.budget.called(now_s)

    def repeated(self, route: Route, replica: Replica, failure: MeshError, now_s: float) -> None:
        """Take one repetition from the budget, if what failed before has cost anything."""
        if costs(failure):
            group = self._group(route)
            group.budget = group.budget.repeated(now_s)
        self._recorder.retried(replica.backend_key)

    def view(self, now_s: float) -> BalanceView:
        """See `BalanceView`."""
        ejected: set[str] = set()
        asked: Counter[str] = Counter()
        of: Counter[str] = Counter()
        for group in self._groups.values():
            ejected |= {key for key, health in group.healths.items() if (health.ejected_until_s or 0.0) > now_s}
            _turn(group, now_s)
            total = group.asked_before.total()
            for key in {replica.backend_key for replica in group.replicas}:
                asked[key] += group.asked_before[key]
                of[key] += total
        budgets = [group.budget for group in self._groups.values() if len(group.replicas) > 1]
        left = min((budget.left(now_s) for budget in budgets), default=BUDGET_RESERVE)
        return BalanceView(frozenset(ejected), {key: asked[key] / of[key] for key in of if of[key]}, left)

    def in_flight_by_backend(self) -> dict[str, int]:
        """How many calls have no outcome yet, of each backend that has any."""
        counts = Counter[str]()
        for group in self._groups.values():
            counts.update({key: load.in_flight for key, load in group.loads.items() if load.in_flight})
        return dict(counts)

    def groups(self, now_s: float) -> list[GroupView]:
        """The groups that had calls lately, by name, `GROUPS_SHOWN_MAX` at most."""
        shared = sorted(owner for owner, group in self._groups.items() if len(group.replicas) > 1)
        return [self._shown(owner, self._groups[owner], now_s) for owner in shared[:GROUPS_SHOWN_MAX]]

    def _shown(self, owner: str, group: _Group, now_s: float) -> GroupView:
        _turn(group, now_s)
        total = group.asked_before.total()
        members = []
        for key in sorted({replica.backend_key for replica in group.replicas}):
            out_until_s = group.healths.get(key, HEALTHY).ejected_until_s or 0.0
            share = group.asked_before[key] / total if total else None
            load = group.loads.get(key)
            latency_s = round(load.latency_ewma_s, 4) if load is not None and load.latency_ewma_s else None
            members.append(MemberView(key, share, out_until_s if out_until_s > now_s else None, latency_s))
        return GroupView(owner, group.budget.left(now_s), tuple(members))

    def _group(self, route: Route) -> _Group:
        group = self._groups.get(route.owner)
        if group is None:
            if len(self._groups) >= GROUPS_MAX:
                self._drop_idle()
            group = self._groups[route.owner] = _Group()
        return group

    def _drop_idle(self) -> None:
        for owner, group in list(self._groups.items()):
            if not any(load.in_flight for load in group.loads.values()):
                del self._groups[owner]

    def _judge(self, group: _Group, attempt: Attempt, verdict: Verdict, now_s: float) -> None:
        key = attempt.key
        members = {r.backend_key: group.healths.get(r.backend_key, HEALTHY) for r in attempt.route.replicas}
        health = judge(key, verdict, members, started_s=attempt.started_s, now_s=now_s, rng=self._rng)
        group.healths[key] = health
        if health.is_ejected and not members[key].is_ejected:
            cause, until_s = health.cause, health.ejected_until_s
            assert isinstance(cause, Cause)
            assert until_s is not None
            if cause is Cause.REFUSED:
                group.refusing[key] = attempt.route.public_name
            self._recorder.ejected(key, cause.value)
            log.warning(
                "MCP replica ejected",
                extra={
                    "backend": key,
                    "group": attempt.route.owner,
                    "reason": cause.value,
                    "for_s": round(until_s - now_s, 1),
                },
            )

    def _readmit(self, group: _Group, key: str, route: Route, now_s: float) -> None:
        """Let an ejected replica take part again when its time has come."""
        before = group.healths[key]
        after = group.healths[key] = readmit(before, now_s, self._up_since_s(key))
        if after is not before:
            group.refusing.pop(key, None)
            # Its cost when it failed proves nothing now; slow start is the caution.
            load = group.loads.get(key, Load())
            group.loads[key] = Load(in_flight=load.in_flight, stalled_since_s=now_s)
            log.info(
                "MCP replica readmitted",
                extra={"backend": key, "group": route.owner, "after_s": round(now_s - before.ejected_at_s, 1)},
            )


def _note_away(group: _Group, route: Route) -> None:
    """Note which of those that refused a call of this name are not offered any more."""
    offered = {replica.backend_key for replica in route.replicas}
    for key in [key for key, name in group.refusing.items() if name == route.public_name and key not in offered]:
        del group.refusing[key]
        group.healths[key] = replace(group.healths[key], was_away=True)


def _turn(group: _Group, now_s: float) -> None:
    """Begin a new window of shares when the present one is over."""
    age_s = now_s - group.window_at_s
    if age_s >= WINDOW_S:
        group.asked_before = group.asked if age_s < 2 * WINDOW_S else Counter()
        group.asked, group.window_at_s = Counter(), now_s
