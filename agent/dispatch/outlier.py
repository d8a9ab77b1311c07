"""Outlier ejection: which replicas of a group get no calls for a while because calls to them keep failing.

Called by `agent.dispatch.replicas`, which owns one `Health` for each replica of each group. The one rule: at most half
of a group is ejected, and a group that has lost more than half of its members otherwise is used whole (panic).

Theory of operation. A replica is ADMITTED, EJECTED or, after its ejection, WARMING (slow start: the chance that it
takes part in a choice grows from `CHANCE_MIN` to 1 over `SLOW_START_S`). A refused connection ejects at once; so do
`FAILURES_IN_ROW_MAX` failures in a row, and a success rate under one half of at least `RATE_CALLS_MIN` calls. The n-th
ejection lasts n x `EJECT_S`; health between ejections is forgiven at the same pace.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from agent.errors import (
    AuthRefused,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    LinkFailed,
    MeshError,
    NoLongerOffered,
    RefusedElsewhere,
    RpcError,
    ScopesNeeded,
)

if TYPE_CHECKING:
    import random


# After Envoy's outlier detection; 5 failures in a row, 30 s and 300 s are its defaults (docs/reliability.md).
FAILURES_IN_ROW_MAX: Final = 5
RATE_CALLS_MIN: Final = 20
RATE_MIN: Final = 0.5
EJECT_S: Final = 30.0
EJECT_MAX_S: Final = 300.0
# Downwards only, so that `EJECT_MAX_S` holds; nodes that ejected together should not come back together.
EJECT_JITTER: Final = 0.2
# The success rate is taken over windows of this length; with fewer calls than `RATE_CALLS_MIN` it says nothing.
RATE_WINDOW_S: Final = 10.0
SLOW_START_S: Final = 30.0
CHANCE_MIN: Final = 0.1
# A caller with less time than a dial may take (links dial for 5 s at most) proves nothing by running out of it.
DIAL_PATIENCE_S: Final = 5.0

# The first that fits counts: some of these are kinds of others.
_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (RpcError, "rpc_error"),
    (CallNotSent, "not_sent"),
    (RefusedElsewhere, "refused"),
    (NoLongerOffered, "gone"),
    (CallTimedOut, "timeout"),
    (CallOutcomeUnknown, "unknown"),
    (ScopesNeeded, "scopes"),
    (AuthRefused, "auth"),
    (LinkFailed, "protocol"),
    # Of the caller, which takes a large result while it comes: it has gone, and its task is not cancelled yet.
    (ConnectionError, "cancelled"),
)


class Verdict(StrEnum):
    """What a call proves about its replica. A server's own error is an answer."""

    ANSWERED = "answered"
    FAILED = "failed"  # no answer, a time-out, a refused token, or no MCP
    REFUSED = "refused"  # no connection: ours to the replica, or a mesh node's to its server
    ABSENT = "absent"  # nothing about its health: its offer has changed, or this node had no descriptor for it


class Cause(StrEnum):
    """Why a replica was ejected; a label value of `mesh_ejections_total`."""

    REFUSED = "refused"
    FAILURES = "failures"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Health:
    """How calls to one replica ended. `calls` and `failures` are those since `window_at_s`.

    `ejections`: n of the last ejection. `ejected_until_s` None: not ejected. `readmitted_at_s` None: never was.
    `was_away`: it has not been offered for a while since it refused.
    """

    failures_in_row: int = 0
    calls: int = 0
    failures: int = 0
    window_at_s: float = -math.inf
    ejections: int = 0
    ejected_at_s: float = 0.0
    ejected_until_s: float | None = None
    cause: Cause | None = None
    readmitted_at_s: float | None = None
    was_away: bool = False

    @property
    def is_ejected(self) -> bool:
        """Whether it gets calls in panic only."""
        return self.ejected_until_s is not None


HEALTHY: Final = Health()

_VERDICTS: Final[Mapping[str, Verdict]] = {
    "ok": Verdict.ANSWERED,
    "tool_error": Verdict.ANSWERED,
    "rpc_error": Verdict.ANSWERED,
    "scopes": Verdict.ANSWERED,
    "not_sent": Verdict.REFUSED,
    "refused": Verdict.REFUSED,
    "gone": Verdict.ABSENT,
    "short": Verdict.ABSENT,
    "timeout": Verdict.FAILED,
    "unknown": Verdict.FAILED,
    "auth": Verdict.FAILED,
    "protocol": Verdict.FAILED,
}


def outcome_of(exc: Exception) -> str:
    """The metric's label value for a failure."""
    if isinstance(exc, MeshError) and exc.short:
        return "short"
    return next((word for kind, word in _WORDS if isinstance(exc, kind)), "failed")


def verdict_of(outcome: str, *, took_s: float, timeout_s: float, own_timeout_s: float) -> Verdict | None:
    """What an outcome (the metric's label value) proves about the replica; None: nothing.

    `timeout_s` is the time limit of the call, `own_timeout_s` this node's own: a caller with a deadline of a
    millisecond, or one that leaves at once, must not be able to eject a replica.
    """
    if outcome == "ok":
        return Verdict.ANSWERED
    if outcome == "cancelled" and took_s >= own_timeout_s / 2:
        return Verdict.FAILED  # Many clients wait less long than we would; that must not hide a replica that hangs.
    if outcome in ("not_sent", "refused") and timeout_s < min(DIAL_PATIENCE_S, own_timeout_s):
        return None
    if outcome == "timeout" and timeout_s < own_timeout_s / 2:
        return None
    return _VERDICTS.get(outcome)


def judge(
    key: str,
    verdict: Verdict,
    healths: Mapping[str, Health],
    *,
    started_s: float,
    now_s: float,
    rng: "random.Random",
) -> Health:
    """The health of `key` after one more call. `healths` has every present member of the group, `key` among them.

    A call that began before the last ejection ended proves nothing new: it was one of those that led to it.
    """
    health = healths[key]
    if health.is_ejected or (health.readmitted_at_s is not None and started_s < health.readmitted_at_s):
        return health
    health = _counted(health, verdict, now_s)
    cause = _cause(health, verdict)
    if cause is None or not _may_eject(healths):
        return health
    return _ejected(health, cause, now_s, rng)


def readmit(health: Health, now_s: float, up_since_s: float | None = None) -> Health:
    """The same health, or that of a readmitted replica when its time has come.

    `up_since_s`: since when its link is up. A refused connection is disproved by one that came after it, and by its
    node, which has missed its server since and offers it again; failures of calls are not.
    """
    if health.ejected_until_s is None:
        return health
    back_at_s = min(now_s, health.ejected_until_s) if health.was_away else health.ejected_until_s
    if health.cause is Cause.REFUSED and up_since_s is not None and up_since_s > health.ejected_at_s:
        back_at_s = min(back_at_s, up_since_s)
    if now_s < back_at_s:
        return health
    return Health(ejections=health.ejections, ejected_at_s=health.ejected_at_s, readmitted_at_s=back_at_s)


def ejected_of(group: Collection[str], healths: Mapping[str, Health]) -> frozenset[str]:
    """The members that get no calls: the ejected ones; none in panic, when fewer than half of the members are left."""
    ejected = frozenset(key for key in group if healths.get(key, HEALTHY).is_ejected)
    return frozenset() if 2 * (len(group) - len(ejected)) < len(group) else ejected


def chance(health: Health, now_s: float) -> float:
    """The probability that it takes part in a choice: 1 but for slow start."""
    if health.readmitted_at_s is None:
        return 1.0
    warm = (now_s - health.readmitted_at_s) / SLOW_START_S
    return min(1.0, max(CHANCE_MIN, warm))


def _counted(health: Health, verdict: Verdict, now_s: float) -> Health:
    failed = verdict is not Verdict.ANSWERED
    if now_s - health.window_at_s >= RATE_WINDOW_S:
        health = replace(health, calls=0, failures=0, window_at_s=now_s)
    return replace(
        health,
        failures_in_row=health.failures_in_row + 1 if failed else 0,
        calls=health.calls + 1,
        failures=health.failures + failed,
    )


def _cause(health: Health, verdict: Verdict) -> Cause | None:
    if verdict is Verdict.ANSWERED:
        return None
    if verdict is Verdict.REFUSED:
        return Cause.REFUSED
    if health.failures_in_row >= FAILURES_IN_ROW_MAX:
        return Cause.FAILURES
    if health.calls >= RATE_CALLS_MIN and health.calls - health.failures < RATE_MIN * health.calls:
        return Cause.RATE
    return None


def _may_eject(healths: Mapping[str, Health]) -> bool:
    ejected = sum(health.is_ejected for health in healths.values())
    return 2 * (ejected + 1) <= len(healths)


def _ejected(health: Health, cause: Cause, now_s: float, rng: "random.Random") -> Health:
    healthy_s = 0.0 if health.readmitted_at_s is None else now_s - health.readmitted_at_s
    times = max(0, health.ejections - int(healthy_s / EJECT_S)) + 1
    lasts_s = min(EJECT_MAX_S, EJECT_S * times) * (1.0 - EJECT_JITTER * rng.random())
    return Health(ejections=times, ejected_at_s=now_s, ejected_until_s=now_s + lasts_s, cause=cause)
