"""One request with all its attempts, as dispatch knows it while it is under way.

Made and changed by `agent.dispatch.dispatcher` alone. The one rule: one deadline holds for all attempts together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.renewals import Present
from agent.dispatch.retry import Fate, fate_of, is_repeatable
from agent.errors import MeshError
from agent.model import Json
from agent.routing.table import Replica, Route


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
    on_attempt: Callable[[str], None]
    on_delivered: Callable[[bool], None]
    on_trace: Callable[[str], None]
    trace: str = ""  # of its attempts, where they are traced
    unknown: bool = False  # its name was away, and has become unknown


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that was not answered."""

    replica: Replica
    failure: MeshError
    was_away: bool  # The name, when this was sent.


def may_repeat(call: Call, failed: Failed) -> bool:
    """Whether the call may be sent again after this failure."""
    return fate_of(failed.failure) is Fate.NOT_EXECUTED or is_repeatable(call.method, call.route, failed.replica)


def attempt_deadline_s(call: Call, own_timeout_s: float) -> float:
    """When an attempt ends: one deadline over all attempts, the caller's or ours, whichever is sooner."""
    ours_s = call.began_s + own_timeout_s
    return ours_s if call.deadline_s is None else min(ours_s, call.deadline_s)
