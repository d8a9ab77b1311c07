"""Whether a failed call is sent again: the rule, the budget, the deadline.

Called by dispatch after each failed attempt. The one rule: a request is sent again only when it was certainly not
executed, or when a trusted server declares that executing it twice does no harm.

The budget keeps failures from multiplying load: in any `WINDOW_S` a replica group gets at most 20% of its calls plus 3
as repetitions. An attempt for which not a byte went out has burdened no one, so that the next one counts as none; a
server that refuses a session was asked for it. The deadline is one for all attempts and travels to the next hop as
milliseconds that are left.
"""

import math
from enum import StrEnum
from typing import Final, NamedTuple

from agent.errors import AuthRefused, CallNotSent, MeshError, NoLongerOffered, RefusedElsewhere
from agent.mcp_terms import READS
from agent.model import DEADLINE_META_KEY, Json
from agent.routing.table import Replica, Route, RouteKind

# Each attempt is on another replica; more would only use up the caller's time.
ATTEMPTS_MAX: Final = 3
# Finagle's retry budget: a share of the calls, and a reserve for quiet times.
BUDGET_SHARE: Final = 0.2
BUDGET_RESERVE: Final = 3
WINDOW_S: Final = 10
# We keep this much of the time that is left, so that the next hop's clear error arrives before our own time-out.
HOP_MARGIN_S: Final = 0.05
_MARGIN_SHARE_MAX: Final = 0.1
# Longer deadlines than a day are a mistake of units.
_DEADLINE_MAX_MS: Final = 86_400_000


class Fate(StrEnum):
    """The certain part of a failed request's outcome; the `data.outcome` of the error that a client gets."""

    NOT_EXECUTED = "not_executed"
    UNKNOWN = "unknown"


class Step(StrEnum):
    """What to do after a failed attempt: the request may be sent again, or why it may not."""

    AGAIN = "again"
    UNSAFE = "unsafe"
    ENOUGH = "enough"
    LATE = "late"
    SPENT = "spent"


class Budget(NamedTuple):
    """Calls and repetitions of the last `WINDOW_S`, as (second, calls, repetitions), oldest first.

    Written anew for each call, hence a tuple, as `agent.dispatch.balance.Load`.
    """

    seconds: tuple[tuple[int, int, int], ...] = ()

    def called(self, now_s: float) -> "Budget":
        """One more first attempt."""
        if self.seconds and self.seconds[-1][0] == (second := math.floor(now_s)):
            _, calls, repeated = self.seconds[-1]
            return tuple.__new__(Budget, ((*self.seconds[:-1], (second, calls + 1, repeated)),))
        return self._with(now_s, 1, 0)

    def repeated(self, now_s: float) -> "Budget":
        """One more repetition."""
        return self._with(now_s, 0, 1)

    def left(self, now_s: float) -> int:
        """How many more repetitions fit."""
        oldest = math.floor(now_s) - WINDOW_S
        calls = sum(entry[1] for entry in self.seconds if entry[0] > oldest)
        repeated = sum(entry[2] for entry in self.seconds if entry[0] > oldest)
        return max(0, math.floor(BUDGET_RESERVE + BUDGET_SHARE * calls) - repeated)

    def _with(self, now_s: float, calls: int, repeated: int) -> "Budget":
        second = math.floor(now_s)
        if self.seconds and self.seconds[-1][0] == second:
            _, known_calls, known_repeated = self.seconds[-1]
            return Budget((*self.seconds[:-1], (second, known_calls + calls, known_repeated + repeated)))
        kept = tuple([entry for entry in self.seconds if entry[0] > second - WINDOW_S])
        return Budget((*kept, (second, calls, repeated)))


def fate_of(failure: MeshError) -> Fate:
    """Whether the request that ended so was certainly not executed."""
    match failure:
        case CallNotSent() | AuthRefused() | RefusedElsewhere() | NoLongerOffered():
            return Fate.NOT_EXECUTED
        case _:
            return Fate.UNKNOWN


def next_step(
    failure: MeshError, *, repeatable: bool, attempts: int, remaining_s: float, budget: Budget, now_s: float
) -> Step:
    """Decide after `attempts` attempts, and this failure of the last one, with `remaining_s` until the deadline."""
    if fate_of(failure) is not Fate.NOT_EXECUTED and not repeatable:
        return Step.UNSAFE
    if attempts >= ATTEMPTS_MAX:
        return Step.ENOUGH
    if remaining_s <= 0:
        return Step.LATE
    return Step.AGAIN if not costs(failure) or budget.left(now_s) else Step.SPENT


def costs(failure: MeshError) -> bool:
    """Whether the attempt that ended so has burdened the other side, so that one more counts as a repetition."""
    return not failure.nothing_sent


def is_repeatable(method: str, route: Route, replica: Replica) -> bool:
    """Whether executing the request twice does no harm, by its method or a trusted server's hints.

    Hints are claims of the server (MCP, tool annotations): those of a configured server or a mesh node are trusted.
    """
    if not is_trusted(route, replica):
        return False
    if method in READS:
        return True
    hints = route.definition.get("annotations") if route.kind is RouteKind.TOOL else None
    return isinstance(hints, dict) and (hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True)


def is_trusted(route: Route, replica: Replica) -> bool:
    """Whether it is a configured server, ours or another node's; a plain peer behind a gateway is still one."""
    return replica.node_id is not None and not route.owner.startswith("plain:")


def received_deadline_s(params: Json) -> float | None:
    """Seconds that the caller has left, from the request's `_meta`; None when there is no usable value."""
    meta = params.get("_meta")
    told = meta.get(DEADLINE_META_KEY) if isinstance(meta, dict) else None
    if not isinstance(told, int | float) or isinstance(told, bool) or not 0 <= told <= _DEADLINE_MAX_MS:
        return None
    return told / 1000


def deadline_ms_to_tell(remaining_s: float) -> int:
    """The deadline for the next hop when we wait `remaining_s` for it."""
    return max(1, int((remaining_s - min(HOP_MARGIN_S, remaining_s * _MARGIN_SHARE_MAX)) * 1000))
