"""One forwarded request: choose a replica, send it, record the outcome once.

Called by the MCP endpoints with a route of the route table; asks links to send. The one rule: a request is sent again
only when no byte of it was written, and a failure always says whether the request may have been executed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from agent.core.balance import Load, choose, observe
from agent.core.route_table import Replica, Route
from agent.errors import (
    AuthRefused,
    CallFailed,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    LinkFailed,
    ProtocolBroken,
    RpcError,
)
from agent.links.param_headers import ParamHeaders
from agent.model import PATH_META_KEY, BackendSpec, Json, PeerScope, PeerSpec, ServerSpec

log = logging.getLogger(__name__)

# faults.md: at most three attempts, each on another replica.
ATTEMPTS_MAX: Final = 3
# A call may pass at most this many nodes across gateways; more means a loop nobody wanted.
HOPS_MAX: Final = 3

OnNotification = Callable[[str, Json], Awaitable[None]]


class CallableLink(Protocol):
    """What dispatch needs of a link."""

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        ...

    async def request(
        self,
        method: str,
        params: Json,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
    ) -> Json:
        """Send over the open door. Raises what `Door.request` raises, `CallNotSent` when no door is open."""
        ...


class Recorder(Protocol):
    """Where outcomes are counted (`agent.metrics`)."""

    def call_started(self) -> None:
        """One more call in flight."""
        ...

    def call_finished(self, backend: str, tool: str, outcome: str, seconds: float) -> None:
        """One call less in flight, with how it ended."""
        ...


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How a request ended well: the raw result and who answered."""

    result: Json
    replica: Replica


class CallRefused(CallFailed):
    """The request was not executed, for a reason of ours. `backend` names the last one tried, if any."""


class Dispatch:
    """Forwards requests. Sole writer of the loads; links and metrics are given."""

    def __init__(
        self,
        *,
        node_id: str,
        link: Callable[[str], CallableLink | None],
        recorder: Recorder,
        call_timeout_s: float,
        rng: random.Random,
    ) -> None:
        self._node_id = node_id
        self._link = link
        self._recorder = recorder
        self._call_timeout_s = call_timeout_s
        self._rng = rng
        self._loads: dict[str, Load] = {}
        self._param_headers = ParamHeaders()

    def __repr__(self) -> str:
        return f"<Dispatch in_flight={sum(load.in_flight for load in self._loads.values())}>"

    def forget(self, backend_key: str) -> None:
        """Drop what is remembered of a backend that is gone."""
        self._loads.pop(backend_key, None)

    async def forward(
        self, method: str, route: Route, params: Json, on_notification: OnNotification | None = None
    ) -> Forwarded:
        """Send `params` (with the name as the mesh knows it) to one of the route's replicas.

        Raises:
            RpcError: the backend's own error, to be passed on.
            CallRefused: not executed, and no replica left to try.
            CallOutcomeUnknown, CallTimedOut: sent, and no answer came.
        """
        loop = asyncio.get_running_loop()
        tried: set[str] = set()
        failure: Exception | None = None
        for _ in range(ATTEMPTS_MAX):
            replica = choose(route.replicas, self._loads, self._rng, tried, now_s=loop.time())
            if replica is None:
                break
            tried.add(replica.backend_key)
            try:
                return Forwarded(await self._send(method, route, replica, params, on_notification), replica)
            except (CallNotSent, AuthRefused) as exc:
                failure = exc
                log.warning(
                    "MCP call not taken, trying another replica",
                    extra={"mcp_name": route.public_name, "backend": replica.backend_key, "reason": str(exc)},
                )
        detail = "no replica is connected" if failure is None else str(failure)
        raise CallRefused(f"{route.public_name} was not executed: {detail}") from failure

    async def _send(
        self, method: str, route: Route, replica: Replica, params: Json, on_notification: OnNotification | None
    ) -> Json:
        link = self._link(replica.backend_key)
        if link is None:
            raise CallNotSent(f"{replica.backend_key} is gone")
        outgoing = self._outgoing(method, link.spec, replica, params)
        headers = self._param_headers.of(route, params) if method == "tools/call" else None
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        self._begin(replica.backend_key)
        outcome = "cancelled"
        try:
            result = await link.request(
                method,
                outgoing,
                timeout_s=self._timeout_s(link.spec),
                headers=headers,
                on_notification=on_notification,
            )
        except Exception as exc:
            outcome = outcome_of(exc)
            raise
        else:
            outcome = "tool_error" if result.get("isError") is True else "ok"
            return result
        finally:
            self._finish(replica.backend_key, route, outcome, loop.time() - started_s, loop.time())

    def _outgoing(self, method: str, spec: BackendSpec, replica: Replica, params: Json) -> Json:
        named = with_name(method, params, replica.remote_name)
        meta = dict(named.get("_meta") or {})
        path = meta.pop(PATH_META_KEY, None)
        if isinstance(spec, PeerSpec) and spec.scope is PeerScope.MESH:
            meta[PATH_META_KEY] = [*checked_path(path, self._node_id), self._node_id]
        named["_meta"] = meta
        return named

    def _timeout_s(self, spec: BackendSpec) -> float:
        own = spec.call_timeout_s if isinstance(spec, ServerSpec) else None
        return self._call_timeout_s if own is None else own

    def _begin(self, key: str) -> None:
        self._recorder.call_started()
        self._loads[key] = self._loads.get(key, Load()).started()

    def _finish(self, key: str, route: Route, outcome: str, seconds: float, now_s: float) -> None:
        load = self._loads.get(key)
        if load is not None:  # The backend may have gone while it was asked; then its load is nobody's business.
            load = load.finished()
            answered = outcome in ("ok", "tool_error", "rpc_error")
            self._loads[key] = observe(load, seconds, now_s) if answered else load
        self._recorder.call_finished(key, route.public_name, outcome, seconds)


def outcome_of(exc: Exception) -> str:
    """The metric's word for a failure."""
    match exc:
        case RpcError():
            return "rpc_error"
        case CallNotSent():
            return "not_sent"
        case CallTimedOut():
            return "timeout"
        case CallOutcomeUnknown():
            return "unknown"
        case AuthRefused():
            return "auth"
        case ProtocolBroken() | LinkFailed():
            return "protocol"
        case _:
            return "failed"


def with_name(method: str, params: Json, remote_name: str) -> Json:
    """A shallow copy of `params` that names the thing as its backend does."""
    match method:
        case "tools/call" | "prompts/get":
            return {**params, "name": remote_name}
        case "resources/read":
            return {**params, "uri": remote_name}
        case "completion/complete":
            ref = dict(params["ref"])
            ref["name" if ref.get("type") == "ref/prompt" else "uri"] = remote_name
            return {**params, "ref": ref}
        case _:
            raise AssertionError(method)


def checked_path(path: object, node_id: str) -> list[str]:
    """The node IDs that a request has passed; refuses loops. Only requests across gateways carry any."""
    passed = [entry for entry in path if isinstance(entry, str)] if isinstance(path, list) else []
    if node_id in passed:
        raise CallNotSent("the request has passed this node before: two gateways import each other")
    if len(passed) >= HOPS_MAX:
        raise CallNotSent(f"the request has passed {HOPS_MAX} gateways, which is the limit")
    return passed
