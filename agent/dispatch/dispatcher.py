"""One forwarded request: choose a replica, send it, record the outcome once; and once more where that is safe.

Called by the MCP endpoints with a route of the route table; sends over links. The one rule: a request is sent again
only as `agent.dispatch.retry` allows, and a failure always says whether the request may have been executed.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from agent import clock
from agent.client.affinity import affinity_key
from agent.client.event import Event
from agent.client.protocol import Request
from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.next_hop import believed, ended, large_result, outgoing, received_failure
from agent.dispatch.outlier import outcome_of
from agent.dispatch.param_headers import ParamHeaders
from agent.dispatch.replicas import Attempt, BalanceView, Recorder, ReplicaStats
from agent.dispatch.request_state import RequestStates
from agent.dispatch.retry import Fate, Step, fate_of, is_repeatable, next_step, received_deadline_s
from agent.errors import AnswerCut, CallNotSent, CallRefused, MeshError, NoLongerOffered, RefusedElsewhere, RpcError
from agent.lossless_json.raw import Bytes, RawObject
from agent.model import BackendSpec, Json, LinkView, PeerSpec, ServerSpec
from agent.routing.table import Replica, Route
from agent.tasks.ids import shown_task
from agent.tasks.versions import with_task

log = logging.getLogger(__name__)

# The route table follows a closed link within one step of the mesh, and a changed list within one listing.
WAIT_S: Final = 0.5

# A replica that no longer listens, or no longer offers it, is soon out of the table.
_GONE: Final = (CallNotSent, NoLongerOffered, RefusedElsewhere)

# Gives the route of a request as it is now, None when there is none.
Present: TypeAlias = Callable[[], Route | None]


class RouteRenewals:
    """Lets a call wait for the next route table. The mesh calls `routes_changed` for each new one."""

    def __init__(self) -> None:
        self._changed = Event()

    def __repr__(self) -> str:
        return f"<RouteRenewals {self._changed!r}>"

    def routes_changed(self) -> None:
        """There are new route tables."""
        self._changed.set()
        self._changed.clear()

    async def renewed(
        self, route: Route, present: Present, tried: Collection[str], failure: MeshError, within_s: float
    ) -> Route:
        """The present route if it has a replica that was not `tried`; else `route`.

        `failure`: that of the last attempt. `within_s`: what is left of the call's time.
        """
        if isinstance(failure, _GONE):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(WAIT_S, within_s)):
                    while (now := present()) is not None and not _leads_on(now, route, tried):
                        await self._changed.wait()
        now = present()
        return now if now is not None and _leads_on(now, route, tried) else route


def _leads_on(now: Route, before: Route, tried: Collection[str]) -> bool:
    """Whether it has a new replica; another owner's tool of that name is another tool."""
    return now.owner == before.owner and any(replica.backend_key not in tried for replica in now.replicas)


class CallableLink(Protocol):
    """What dispatch needs of a link."""

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        ...

    @property
    def view(self) -> LinkView:
        """Its present state."""
        ...

    async def request(self, request: Request) -> Json:
        """Send over the open client. Raises what `McpClient.request` raises, `CallNotSent` when no client is open."""
        ...


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request that was answered: the raw result and the replica."""

    result: Json
    replica: Replica

    @property
    def raw(self) -> Bytes | None:
        """The result as the backend wrote it; None where that is unknown, or where we changed it."""
        return self.result.raw if isinstance(self.result, RawObject) else None


@dataclass(slots=True)
class _Call:
    """One request with all its attempts. `deadline_s`: the caller's. `present`: looks up the route anew."""

    method: str
    route: Route
    present: Present | None
    params: Json
    on_notification: OnNotification | None
    sink: ResultStream | None
    affinity: str | None
    param_headers: Mapping[str, str] | None
    began_s: float
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class _Failed:
    replica: Replica
    failure: MeshError


class Dispatch:
    """Forwards requests. Owns the statistics of replicas; links and metrics are given. `link`: finds one by backend."""

    def __init__(
        self,
        *,
        node_id: str,
        link: Callable[[str], CallableLink | None],
        recorder: Recorder,
        call_timeout_s: float,
        rng: random.Random,
        own_weight: int = 1,
    ) -> None:
        self._node_id = node_id
        self.link = self._link = link
        self._recorder = recorder
        self._call_timeout_s = call_timeout_s
        self._own_weight = own_weight
        self._stats = ReplicaStats(recorder, rng, self._up_since_s, self._weight_of)
        self._param_headers = ParamHeaders()
        self._states = RequestStates()
        self.renewals = RouteRenewals()

    def __repr__(self) -> str:
        return f"<Dispatch in_flight={self._stats.in_flight}>"

    def forget(self, backend_key: str) -> None:
        """Drop what is remembered of a backend that is gone."""
        self._stats.forget(backend_key)

    def balance(self) -> BalanceView:
        """How calls are spread, for metrics. Call it in the event loop."""
        return self._stats.view(clock.now_s())

    async def forward(
        self,
        method: str,
        route: Route,
        params: Json,
        on_notification: OnNotification | None = None,
        *,
        session_id: str | None = None,
        on_attempt: Callable[[str], None] = lambda _backend: None,
        sink: ResultStream | None = None,
        present: Present | None = None,
        param_headers: Mapping[str, str] | None = None,
    ) -> Forwarded:
        """Send `params` (with the name as the mesh knows it) to one of the route's replicas.

        `session_id` of a legacy client keeps its calls together: on a replica where the route is sticky, in a session
        where the server has sessions. A `requestState` in `params` keeps the call with the replica that gave it.
        `on_attempt` gets the backend key of each replica that is tried. A large result may go to `sink` while it comes;
        the returned one then only shows how the call ended. `present` looks the route up as it is now, before a call
        that no replica has executed is given up. `param_headers`: the `Mcp-Param-*` headers that the client sent, by
        names in lower case.

        Raises:
            StateRefused: the `requestState` is none that this node gave for this request; nothing was sent.
            RpcError: the backend's own error, to be passed on.
            CallRefused: not executed, and no other replica may be tried.
            CallUnanswered: sent, and no answer came; not to be sent again.
            AnswerCut: `sink` got a part of the result, and will get no more.
        """
        now_s, known = clock.now_s(), route
        try:
            route, params = self._states.unwrapped(method, route, params, now_s)
        except CallNotSent as exc:
            raise CallRefused(f"{route.public_name} was not executed: {exc}") from exc
        received_s = received_deadline_s(params)
        deadline_s = None if received_s is None else now_s + received_s
        affinity = affinity_key(params, session_id)
        key = affinity if route.sticky else None
        anew = present if route is known else None
        call = _Call(method, route, anew, params, on_notification, sink, affinity, param_headers, now_s, deadline_s)
        self._stats.called(route, now_s)
        tried: set[str] = set()
        failed: _Failed | None = None
        told: _Failed | None = None  # The caller's error: a later "not executed" must not hide an unknown outcome.
        while (replica := await self._next(call, tried, key, told)) is not None:
            if failed is not None:
                step = self._next_step(call, replica, failed, attempts=len(tried))
                if step is not Step.AGAIN:
                    break
            tried.add(replica.backend_key)
            on_attempt(replica.backend_key)
            try:
                return Forwarded(await self._send(call, replica), replica)
            except (RpcError, AnswerCut):
                raise
            except MeshError as exc:
                failed = _Failed(replica, exc)
                told = failed if told is None or fate_of(told.failure) is Fate.NOT_EXECUTED else told
        else:
            step = Step.ENOUGH
        if told is None:
            raise CallRefused(f"{route.public_name} was not executed: no replica is connected")
        raise ended(call.route, told.replica, told.failure, step) from told.failure

    async def _next(self, call: _Call, tried: Collection[str], key: str | None, told: _Failed | None) -> Replica | None:
        """The next replica; when none is left and nothing was executed, one that the present route has added."""
        replica = self._stats.choose(call.route, tried, key, clock.now_s())
        present, call.present = call.present, None if replica is None else call.present
        if replica is not None or present is None or told is None or fate_of(told.failure) is Fate.UNKNOWN:
            return replica
        left_s = _deadline_s(call, self._call_timeout_s) - clock.now_s()
        call.route = await self.renewals.renewed(call.route, present, tried, told.failure, left_s)
        return self._stats.choose(call.route, tried, key, clock.now_s())

    def _next_step(self, call: _Call, replica: Replica, failed: _Failed, attempts: int) -> Step:
        """Decide whether `replica` gets the call now, and charge that to the budget."""
        now_s = clock.now_s()
        step = next_step(
            fate_of(failed.failure),
            repeatable=is_repeatable(call.method, call.route, failed.replica),
            attempts=attempts,
            remaining_s=_deadline_s(call, self._own_timeout_s(self._link(replica.backend_key))) - now_s,
            budget=self._stats.budget(call.route),
            now_s=now_s,
        )
        if step is Step.SPENT:
            self._recorder.retry_refused()
        if step is Step.AGAIN:
            self._stats.repeated(call.route, replica, now_s)
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

    async def _send(self, call: _Call, replica: Replica) -> Json:
        link, now_s = self._link(replica.backend_key), clock.now_s()
        if link is None:
            raise CallNotSent(f"{replica.backend_key} is gone")
        own_timeout_s = self._own_timeout_s(link)
        deadline_s, view = _deadline_s(call, own_timeout_s), link.view
        timeout_s = deadline_s - now_s
        if timeout_s <= 0:
            raise CallNotSent("the deadline passed before it could be sent")
        params = outgoing(
            call.method, call.params, replica, view.spec, node_id=self._node_id, timeout_s=timeout_s, key=call.affinity
        )
        params = with_task(call.method, call.route, params, view)
        headers = self._param_headers.outgoing(call.method, call.route, params, call.param_headers)
        attempt = Attempt(call.route, replica.backend_key, now_s, timeout_s, own_timeout_s)
        self._stats.begin(attempt)
        outcome = "cancelled"
        sink = None if call.sink is None else large_result(call.sink, call.method, call.route, call.params, replica)
        if sink is not None:
            sink.when_begun(lambda: self._stats.answered(attempt, clock.now_s()))
        request = Request(call.method, params, deadline_s, headers, call.affinity, call.on_notification, sink)
        try:
            result = await link.request(request)
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
            view = link.view
            result = believed(result, view)
            result = shown_task(call.method, call.params, result, replica, view, own_node_id=self._node_id)
            return self._states.wrapped(call.method, call.route, replica, result, clock.now_s())
        finally:
            self._stats.finish(attempt, outcome, clock.now_s())

    def _own_timeout_s(self, link: CallableLink | None) -> float:
        own = link.spec.call_timeout_s if link is not None and isinstance(link.spec, ServerSpec) else None
        return self._call_timeout_s if own is None else own

    def _weight_of(self, backend_key: str) -> int:
        link = self._link(backend_key)
        return link.spec.weight if link is not None and isinstance(link.spec, PeerSpec) else self._own_weight

    def _up_since_s(self, backend_key: str) -> float | None:
        link = self._link(backend_key)
        return None if link is None else link.view.ready_at_s


def _deadline_s(call: _Call, own_timeout_s: float) -> float:
    """When an attempt ends: one deadline over all attempts, the caller's or ours, whichever is sooner."""
    ours_s = call.began_s + own_timeout_s
    return ours_s if call.deadline_s is None else min(ours_s, call.deadline_s)
