"""One forwarded request: choose a replica, send it, record the outcome once; and once more where that is safe.

Called by the MCP endpoints with a route of the route table; sends over links. The one rule: a request is sent again
only as `agent.dispatch.retry` allows, and a failure always says whether the request may have been executed.
"""

import logging
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final

from agent import clock
from agent.client.protocol import Request
from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.call import Call, Failed, Forwarded, attempt_deadline_s, call_of, may_repeat
from agent.dispatch.callable_link import CallableLink
from agent.dispatch.known_routes import KnownRoutes
from agent.dispatch.next_hop import (
    believed,
    ended,
    large_result,
    outgoing,
    received_failure,
    says_no_more,
)
from agent.dispatch.outlier import outcome_of
from agent.dispatch.presence import Presence, Tried
from agent.dispatch.renewals import Present, RouteRenewals, failures, is_same
from agent.dispatch.replicas import Attempt, BalanceView, GroupView, Recorder, ReplicaStats
from agent.dispatch.request_state import RequestStates
from agent.dispatch.retry import Fate, Step, fate_of, is_repeatable, next_step
from agent.dispatch.started_call import CallTaker, StartedCall
from agent.errors import (
    AnswerCut,
    CallNotSent,
    CallOutcomeUnknown,
    CallRefused,
    MeshError,
    NoLongerOffered,
    RefusedElsewhere,
    RpcError,
)
from agent.model import ALTERNATIVES_META_KEY, Json, LinkState, LinkView, PeerSpec
from agent.routing.away import away_words
from agent.routing.table import Replica, Route
from agent.tasks.ids import shown_task
from agent.tasks.versions import with_task

log = logging.getLogger(__name__)

# Calls that have less time than this wait in tasks of their own, which end them in time.
START_TIMEOUT_MIN_S: Final = 2.0
# A replica that no longer listens, or no longer offers the name, is soon out of the table.
_GONE: Final = (CallNotSent, NoLongerOffered, RefusedElsewhere)


class Dispatch:
    """Forwards requests. Owns the statistics of replicas; links and metrics are given. `link`: finds one by backend.

    Long because the attempts of a call, its waits and its outcome are one sequence.
    """

    def __init__(
        self,
        *,
        node_id: str,
        link: Callable[[str], CallableLink | None],
        recorder: Recorder,
        call_timeout_s: float,
        rng: random.Random,
        own_weight: int = 1,
        states: RequestStates | None = None,
        is_listed: Callable[[str], bool] = lambda _backend: True,
    ) -> None:
        """`states`: one for all processes of a node; None: this one's own.

        `is_listed`: whether the route tables have what a connected backend offers.
        """
        self._node_id = node_id
        self.link = self._link = link
        self._recorder = recorder
        self.call_timeout_s = self._call_timeout_s = call_timeout_s
        self._own_weight = own_weight
        self._stats = ReplicaStats(recorder, rng, self._up_since_s, self._weight_of, self._is_ready)
        self._presence = Presence(link, self._stats.members, is_listed)
        self._known = KnownRoutes(call_timeout_s)
        self._states = RequestStates() if states is None else states
        self.renewals = RouteRenewals()
        # The failure of an attempt that another process of this node has made of a call, if one has; set by those.
        self.lost: Callable[[Call], Failed | None] | None = None

    def __repr__(self) -> str:
        return f"<Dispatch in_flight={self._stats.in_flight}>"

    def forget(self, backend_key: str) -> None:
        """Drop what is remembered of a backend that is gone."""
        self._stats.forget(backend_key)

    def far(self, backends: frozenset[str]) -> None:
        """These backends are in other datacentres."""
        self._stats.far = backends

    def drain(self, backends: frozenset[str]) -> None:
        """Give these backends no new calls while another replica is there, until the next call of this."""
        self._stats.drained = backends

    @property
    def apart(self) -> tuple[frozenset[str], frozenset[str]]:
        """The backends that get no new calls while others are there, and those in other datacentres."""
        return self._stats.drained, self._stats.far

    def balance(self) -> BalanceView:
        """How calls are spread, for metrics. Call it in the event loop."""
        return self._stats.view(clock.now_s())

    def in_flight(self) -> dict[str, int]:
        """Calls without an outcome, by backend key. Call it in the event loop."""
        return self._stats.in_flight_by_backend()

    def groups(self) -> list[GroupView]:
        """The groups of replicas, for the page. Call it in the event loop."""
        return self._stats.groups(clock.now_s())

    def forward(
        self,
        method: str,
        route: Route,
        params: Json,
        on_notification: OnNotification | None = None,
        *,
        session_id: str | None = None,
        on_attempt: Callable[[str], None] = lambda _backend: None,
        on_delivered: Callable[[bool], None] = lambda _is_error: None,
        on_trace: Callable[[str], None] = lambda _trace: None,
        sink: ResultStream | None = None,
        present: Present | None = None,
        param_headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Forwarded]:
        """Send `params` (with the name as the mesh knows it) to one of the route's replicas.

        `session_id` of a legacy client keeps its calls together: on a replica where the route is sticky, in a session
        where the server has sessions. A `requestState` in `params` keeps the call with the replica that gave it.
        `on_attempt` gets the backend key of each replica that is tried, `on_delivered` whether it was an error that the
        caller had whole when it left, `on_trace` the trace that the call is recorded in, if any. A large result may go
        to `sink` while it comes; the returned one then only shows how the call ended. `present` looks the route up as
        it is now, before a call that no replica has executed is given up. `param_headers`: the `Mcp-Param-*` headers
        that the client sent, by names in lower case.

        Raises:
            StateRefused: the `requestState` is none that this node gave for this request; nothing was sent.
            RpcError: the backend's own error, to be passed on.
            CallRefused: not executed, and no other replica may be tried.
            NoLongerOffered: its name was away, and is unknown now.
            CallUnanswered: sent, and no answer came; not to be sent again.
            AnswerCut: `sink` got a part of the result, and will get no more.
        """
        now_s, known = clock.now_s(), route
        if params.get("requestState") is not None:
            try:
                route, params = self._states.unwrapped(method, route, params, now_s)
            except CallNotSent as exc:
                raise CallRefused(f"{route.public_name} was not executed: {exc}") from exc
        call = call_of(method, route, params, now_s, present=present if route is known else None, session_id=session_id)
        call.param_headers = param_headers
        call.heard_by(on_notification, on_attempt, on_delivered, on_trace, sink)
        self._stats.called(route, now_s)
        return self._answered(call, now_s)

    def start(
        self,
        method: str,
        route: Route,
        params: Json,
        taker: CallTaker,
        *,
        present: Present | None,
        session_id: str | None = None,
    ) -> StartedCall | None:
        """Send a call without waiting, as `forward` would; None: nothing was sent, and `forward` has to be called.

        Of a route that is not away. Its first attempt may be all that it needs, and goes to `taker` then.
        """
        if self._recorder.spans is not None or params.get("requestState") is not None:
            return None
        now_s = clock.now_s()
        call = call_of(method, route, params, now_s, present=present, session_id=session_id)
        replicas = route.replicas
        replica = replicas[0] if len(replicas) == 1 else self._stats.choose(route, (), call.key, now_s)
        link = None if replica is None else self._link(replica.backend_key)
        if replica is None or link is None or not (view := link.view).connected or view.unheard:
            return None
        try:
            request, attempt = self._prepared(call, replica, view, (replica.backend_key,), now_s)
        except (MeshError, RpcError):
            return None
        started = StartedCall(call, replica, link, request, attempt, self._stats, taker, self._believed)
        if attempt.timeout_s < START_TIMEOUT_MIN_S or not link.start(request, started):
            return None
        self._stats.started(attempt)
        return started

    def go_on(
        self,
        started: StartedCall,
        on_notification: OnNotification | None,
        *,
        on_attempt: Callable[[str], None],
        on_delivered: Callable[[bool], None],
        on_trace: Callable[[str], None],
        sink: ResultStream | None,
    ) -> Coroutine[Any, Any, Forwarded]:
        """As `forward`, of a call that was started and whose taker has to wait."""
        started.call.heard_by(on_notification, on_attempt, on_delivered, on_trace, sink)
        return self._answered(started.call, started.attempt.started_s, started)

    async def _answered(self, call: Call, now_s: float, started: StartedCall | None = None) -> Forwarded:
        """Attempt after attempt until one is answered; the first may have gone out. Raises as `forward`."""
        tried: dict[str, Tried] = {}
        failed = None if self.lost is None else self.lost(call)
        attempts = int(failed is not None)
        told = failed  # The caller's error: a later "not executed" must not hide an unknown outcome.
        replica = None if started is None else started.replica
        while (
            replica := replica or self._at_once(call, tried, told) or await self._next(call, tried, told)
        ) is not None:
            if failed is not None:
                step = self._next_step(call, replica, failed, attempts=attempts)
                if step is not Step.AGAIN:
                    break
            now_s = clock.now_s() if failed is not None or call.present is None else now_s
            tried[replica.backend_key] = Tried(now_s)
            attempts += 1
            call.on_attempt(replica.backend_key)
            was_away = call.route.away_since_s is not None
            try:
                return Forwarded(await self._send(call, replica, tried, now_s, started), replica)
            except (RpcError, AnswerCut):
                raise
            except MeshError as exc:
                failed = Failed(replica, exc, was_away=was_away)
                if exc.cut_off:
                    tried[replica.backend_key] = Tried(now_s, clock.now_s())
                told = failed if told is None or fate_of(told.failure) is Fate.NOT_EXECUTED else told
                replica = started = None
        else:
            step = Step.ENOUGH
        raise self._refused(call, told, step) from (None if told is None else told.failure)

    def _refused(self, call: Call, told: Failed | None, step: Step) -> MeshError:
        """The error of a call that nothing answered; `told`: the failure to report, None when it was never sent."""
        route, is_away = call.route, call.route.away_since_s is not None
        # A name that was there when it was sent is away at first, even if its list has come meanwhile.
        if call.unknown or (told and isinstance(told.failure, NoLongerOffered) and told.was_away):
            return NoLongerOffered(f"{route.public_name} is unknown")
        if told is not None and not (is_away and isinstance(told.failure, CallNotSent)):
            return ended(route, told.replica, told.failure, step)
        if not route.replicas and route.owner:
            return CallRefused(f"{route.public_name} was not executed: no replica is connected")
        backend = next((replica.backend_key for replica in route.replicas), None)
        since_s = self._presence.unheard_since_s(route)
        words = f"{away_words(route, clock.now_s(), since_s)}{self._why_away(route)}"
        return CallRefused(f"{route.public_name} was not executed: {words}", backend=backend)

    def _why_away(self, route: Route) -> str:
        """Why its backend is not there, as clients may read it: what its link failed with, if it did."""
        links = (self._link(replica.backend_key) for replica in route.replicas)
        said = (word for link in links if link for word in failures(link.view))
        return next((f": {word}" for word in said if word), "")

    def _at_once(self, call: Call, tried: Collection[str], told: Failed | None) -> Replica | None:
        """The one replica of a call that was not sent yet, if it takes calls; most calls need no more than that."""
        if told is not None or call.present is None or len(call.route.replicas) != 1:
            return None
        only = call.route.replicas[0]
        return only if only.backend_key not in tried and self._presence.takes_calls(call.route, only) else None

    async def _next(self, call: Call, tried: dict[str, Tried], told: Failed | None) -> Replica | None:
        """The next replica; when none is left and the call may be sent again, one that has come back or is new."""
        replica = self._stats.choose(call.route, tried, call.key, clock.now_s())
        if call.present is None or (told is not None and not may_repeat(call, told)):
            return replica
        if replica is not None and (
            self._presence.takes_calls(call.route, replica) or self._presence.leads_on(call.route, tried)
        ):
            return replica
        if not call.route.replicas and call.route.owner:
            return None
        present, call.present = call.present, None
        self._presence.hurry(call.route)
        owner = call.route.owner
        now = await self.renewals.renewed(
            present,
            lambda route: is_same(route, owner) and self._presence.leads_on(route, tried),
            lambda route: self._presence.is_awaited(route, tried),
            self._presence.linked_at_s,
            self._may_wait_s(call, told),
        )
        call.unknown = now is None and told is None
        if now is None or not is_same(now, owner):
            return None
        call.route = now
        for known in now.replicas:
            if self._presence.is_back(known, tried):
                del tried[known.backend_key]
        return self._stats.choose(now, tried, call.key, clock.now_s()) if self._presence.leads_on(now, tried) else None

    def _may_wait_s(self, call: Call, told: Failed | None) -> float:
        """Seconds that the call may wait for another route table: 0 where that is of no use."""
        has_others = (call.params.get("_meta") or {}).get(ALTERNATIVES_META_KEY) is True
        if told is None:
            useful = not has_others
        else:  # A node that refused an away call has waited already.
            waited = call.route.away_since_s is not None and not isinstance(told.failure, CallNotSent)
            useful = isinstance(told.failure, (*_GONE, CallOutcomeUnknown)) and not waited
            useful = useful and not (told.failure.cut_off and has_others)
        return max(0.0, attempt_deadline_s(call, self._call_timeout_s) - clock.now_s()) if useful else 0.0

    def _next_step(self, call: Call, replica: Replica, failed: Failed, attempts: int) -> Step:
        """Decide whether `replica` gets the call now, and charge that to the budget."""
        now_s, link = clock.now_s(), self._link(replica.backend_key)
        step = next_step(
            failed.failure,
            repeatable=is_repeatable(call.method, call.route, failed.replica),
            attempts=attempts,
            remaining_s=attempt_deadline_s(call, self._known.own_timeout_s(None if link is None else link.spec))
            - now_s,
            budget=self._stats.budget(call.route),
            now_s=now_s,
        )
        if step is Step.SPENT:
            self._recorder.retry_refused()
        if step is Step.AGAIN:
            self._stats.repeated(call.route, replica, failed.failure, now_s)
            log.info(
                "MCP call is sent again",
                extra={
                    "mcp_name": call.route.public_name,
                    "backend": replica.backend_key,
                    "instead_of": failed.replica.backend_key,
                    "reason": str(failed.failure),
                },
            )
        return step

    def _prepared(
        self, call: Call, replica: Replica, view: LinkView, tried: Collection[str], now_s: float
    ) -> tuple[Request, Attempt]:
        """What one attempt sends, and its record. Raises `CallNotSent`, and `RpcError` where no server may get it."""
        route, method, spec = call.route, call.method, view.spec
        known = self._known.of(method, route, replica, spec)
        deadline_s = attempt_deadline_s(call, known.own_timeout_s)
        timeout_s = deadline_s - now_s
        if timeout_s <= 0:
            raise CallNotSent.for_clients("the deadline passed before it could be sent")
        params = outgoing(
            method,
            call.params,
            replica,
            spec,
            node_id=self._node_id,
            timeout_s=timeout_s,
            key=call.affinity,
            in_session=call.in_session,
            alternatives=len(route.replicas) > 1 and any(r.backend_key not in tried for r in route.replicas),
        )
        headers = call.param_headers or None
        if known.asks_more or "task" in params:
            params = with_task(method, route, params, view)
            headers = self._known.param_headers.outgoing(method, route, params, headers)
        attempt = Attempt(route, replica.backend_key, now_s, timeout_s, known.own_timeout_s)
        sessions = call.in_session, call.in_session and known.is_repeatable
        return Request(method, params, deadline_s, headers, call.affinity, None, None, *sessions), attempt

    async def _send(
        self, call: Call, replica: Replica, tried: Collection[str], now_s: float, started: StartedCall | None
    ) -> Json:
        link = self._link(replica.backend_key) if started is None else started.link
        if link is None:
            raise CallNotSent.about(replica.backend_key, "is gone").with_nothing_sent()
        if started is not None:
            request, attempt = started.request, started.attempt
        else:
            request, attempt = self._prepared(call, replica, link.view, tried, now_s)
            if trace := self._stats.begin(attempt, call.method, request.params or {}, call.trace):
                call.trace = trace
                call.on_trace(trace)
        outcome = "cancelled"
        sink = None if call.sink is None else large_result(call.sink, call.method, call.route, call.params, replica)
        if sink is not None:
            sink.when_begun(lambda: self._stats.answered(attempt, clock.now_s()))
        request.on_notification, request.sink = call.on_notification, sink
        try:
            result = await (link.request(request) if started is None else started.answered())
        except RpcError as exc:
            told = received_failure(exc, call.route, replica, link.spec)
            outcome = outcome_of(told or exc)
            if told is None:
                raise
            raise told from exc
        except Exception as exc:
            outcome = outcome_of(exc)
            raise
        else:
            outcome = "tool_error" if result.get("isError") is True else "ok"
            return result if says_no_more(call.method, result) else self._believed(call, replica, result, link.view)
        finally:
            if outcome == "cancelled" and sink is not None and sink.ended_with_error is not None:
                outcome = "tool_error" if sink.ended_with_error else "ok"
                call.on_delivered(sink.ended_with_error)
            request.started = None  # It refers to the request; else only the garbage collector would free them.
            self._stats.finish(attempt, outcome, clock.now_s())

    def _believed(self, call: Call, replica: Replica, result: Json, view: LinkView) -> Json:
        """A result that asks for something, is a task, or says more of itself, as its caller gets it."""
        result = believed(result, view)
        result = shown_task(call.method, call.params, result, replica, view, own_node_id=self._node_id)
        return self._states.wrapped(call.method, call.route, replica, result, clock.now_s())

    def _weight_of(self, backend_key: str) -> int:
        link = self._link(backend_key)
        return link.spec.weight if link is not None and isinstance(link.spec, PeerSpec) else self._own_weight

    def _is_ready(self, backend_key: str) -> bool:
        link = self._link(backend_key)
        return link is not None and link.view.state is LinkState.READY

    def _up_since_s(self, backend_key: str) -> float | None:
        link = self._link(backend_key)
        return None if link is None or (view := link.view).unheard else view.ready_at_s
