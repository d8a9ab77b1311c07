"""One request with all its attempts, as dispatch knows it while it is under way.

Made and changed by `agent.dispatch.dispatcher` alone. The one rule: one deadline holds for all attempts together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.client.affinity import affinity_key, session_affinity
from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.next_hop import CALL_META_KEYS, comes_in_session
from agent.dispatch.renewals import Present
from agent.dispatch.retry import Fate, fate_of, is_repeatable, received_deadline_s
from agent.errors import MeshError
from agent.lossless_json.raw import Bytes, RawObject
from agent.model import Json
from agent.routing.table import Replica, Route


def _unheard(_: object) -> None:
    """Of a call that is not waited for."""


@dataclass(slots=True)
class Call:
    """One request with all its attempts. `deadline_s`: the caller's. `present`: looks up the route anew.

    `key`: keeps the caller's requests on one replica; None where any will do.
    """

    method: str
    route: Route
    present: Present | None
    params: Json
    on_notification: OnNotification | None
    sink: ResultStream | None
    affinity: str | None
    key: str | None
    param_headers: Mapping[str, str] | None
    in_session: bool
    began_s: float
    deadline_s: float | None
    on_attempt: Callable[[str], None] = _unheard
    on_delivered: Callable[[bool], None] = _unheard
    on_trace: Callable[[str], None] = _unheard
    trace: str = ""  # of its attempts, where they are traced
    unknown: bool = False  # its name was away, and has become unknown

    def heard_by(
        self,
        on_notification: OnNotification | None,
        on_attempt: Callable[[str], None],
        on_delivered: Callable[[bool], None],
        on_trace: Callable[[str], None],
        sink: ResultStream | None,
    ) -> None:
        """Say who hears of it: of one that is not waited for, no one does."""
        self.on_notification, self.sink = on_notification, sink
        self.on_attempt, self.on_delivered, self.on_trace = on_attempt, on_delivered, on_trace


@dataclass(slots=True)
class Forwarded:
    """A request that was answered: the raw result and the replica. Changed by nothing."""

    result: Json
    replica: Replica

    @property
    def raw(self) -> Bytes | None:
        """The result as the backend wrote it; None where that is unknown, or where we changed it."""
        return self.result.raw if isinstance(self.result, RawObject) else None


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that was not answered."""

    replica: Replica
    failure: MeshError
    was_away: bool  # The name, when this was sent.


def call_of(
    method: str,
    route: Route,
    params: Json,
    now_s: float,
    *,
    present: Present | None,
    session_id: str | None,
) -> Call:
    """A call that begins now, with what it says of itself to the node that gets it."""
    meta = params.get("_meta")
    says_more = isinstance(meta, dict) and not CALL_META_KEYS.isdisjoint(meta)
    received_s = received_deadline_s(params) if says_more else None
    affinity = None if session_id is None else session_affinity(session_id)
    if says_more:
        affinity = affinity_key(params, session_id)
    in_session = session_id is not None or (says_more and comes_in_session(params, affinity))
    deadline_s = None if received_s is None else now_s + received_s
    key = affinity if route.sticky else None
    # By their places: a class that is called with names takes twice as long, and each call passes here.
    return Call(method, route, present, params, None, None, affinity, key, None, in_session, now_s, deadline_s)


def may_repeat(call: Call, failed: Failed) -> bool:
    """Whether the call may be sent again after this failure."""
    return fate_of(failed.failure) is Fate.NOT_EXECUTED or is_repeatable(call.method, call.route, failed.replica)


def attempt_deadline_s(call: Call, own_timeout_s: float) -> float:
    """When an attempt ends: one deadline over all attempts, the caller's or ours, whichever is sooner."""
    ours_s = call.began_s + own_timeout_s
    return ours_s if call.deadline_s is None else min(ours_s, call.deadline_s)
