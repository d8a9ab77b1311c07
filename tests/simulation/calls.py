"""Calls of one node in the simulation of its decisions: the choice of a replica, ejection, and what is sent again.

Made by `tests.simulation.decisions` before and after each turn, and in bursts by `tests.simulation.towns`. The one
rule: the real `ReplicaStats` chooses, the real rule of retries decides, and what a server is sent is counted there.
"""

from collections import Counter, deque
from functools import lru_cache
from typing import TYPE_CHECKING

from agent.dispatch.outlier import outcome_of
from agent.dispatch.replicas import Attempt
from agent.dispatch.retry import Step, is_repeatable, next_step
from agent.errors import CallNotSent, MeshError
from agent.routing.table import Replica, Route, RouteKind
from tests.simulation.node import NoRecorder

if TYPE_CHECKING:
    from tests.simulation.decisions import Observer

# Of each burst, within a second, or within some in which what was sent again before is still counted.
BURST_CALLS, BURST_STEPS_S = 12, (0.05, 0.5)
# So many calls of one that stumbles are enough for five failures, which are in no row.
STUMBLING_CALLS = 20
# Failures in a row after which a replica gets no calls, and for how long at the most, the first time.
FAILURES_MAX, OUT_FOR_MAX_S = 5, 30.0
ATTEMPTS_MAX = 3
# Repetitions within ten seconds: a fifth of the calls and three more. Seconds are counted whole.
REPEATED_SHARE, REPEATED_MORE, REPEATED_WINDOW_S, WHOLE_S = 0.2, 3, 10.0, 1.0
# The longest ejection is over by then.
READMITTED_AFTER_S = 310.0


class Outcomes(NoRecorder):
    """How one node's calls ended. `rows`: failures in a row, by replica, since it was last ejected, if ever.

    `refused_at_s`: when a refusal ejected a replica. `called`, `repeated`: when it has called, and sent a call again.
    """

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.refused_at_s: dict[str, float] = {}
        self.called: deque[float] = deque()
        self.repeated: deque[float] = deque()
        self._out: tuple[str, str] | None = None

    def ejected(self, backend: str, reason: str) -> None:
        """As `Recorder`: the call that has just ended has ejected this one."""
        self._out = backend, reason

    def forget(self, backend: str) -> None:
        """Its link has ended, or what it did is no part of this."""
        self._out = None
        self.rows.pop(backend, None)
        self.refused_at_s.pop(backend, None)

    def failed(self, backend: str, failure: MeshError, now_s: float) -> str:
        """An attempt has failed; returns what is wrong with an ejection that it led to, if anything."""
        refused = isinstance(failure, CallNotSent)
        self.rows[backend] += 1
        if self._out is None:
            return ""
        (out, reason), self._out = self._out, None
        row = self.rows.pop(backend)
        self.refused_at_s.pop(backend, None)
        if reason == "refused":
            self.refused_at_s[backend] = now_s
        known = {"refused": refused, "failures": row >= FAILURES_MAX}
        if out == backend and known.get(reason, True):
            return ""
        return f"a replica is ejected that fails now and then: {out}, {row} in a row"

    def sent_again(self, now_s: float) -> str:
        """A call is sent again; returns what is wrong with that, if anything."""
        self.repeated.append(now_s)
        while self.called and self.called[0] < now_s - REPEATED_WINDOW_S - WHOLE_S:
            self.called.popleft()
        while self.repeated[0] < now_s - REPEATED_WINDOW_S + WHOLE_S:
            self.repeated.popleft()
        enough = len(self.repeated) <= REPEATED_SHARE * len(self.called) + REPEATED_MORE
        return "" if enough else f"too much is sent again: {len(self.repeated)} times in {len(self.called)} calls"


def call(
    observer: "Observer", key: str | None = None, now_s: float | None = None
) -> list[tuple[str, MeshError | None]]:
    """One call, with all its attempts, as dispatch sends it; returns who got it, and how each ended.

    `key`: of a session that stays with one replica.
    """
    up = observer.replicas()
    if not up:
        return []
    now_s = observer.loop.time() if now_s is None else now_s
    observer.calls += 1
    call_id, is_read, stats = f"c{observer.calls}", observer.rng.random() < 0.5, observer.stats
    route = _route(up, is_read=is_read)
    stats.called(route, now_s)
    outcomes = observer.outcomes
    outcomes.called.append(now_s)
    tried: dict[str, MeshError | None] = {}
    while (replica := stats.choose(route, tried, key, now_s)) is not None:
        if replica.backend_key in tried:
            observer.broken(f"a replica is tried again in one call: {replica.backend_key}")
        attempt = Attempt(route, replica.backend_key, now_s, 10.0, 10.0)
        stats.begin(attempt, "tools/call", {})
        failure = tried[replica.backend_key] = observer.sent(replica.backend_key, call_id)
        now_s += 0.01
        stats.finish(attempt, "ok" if failure is None else outcome_of(failure), now_s)
        if failure is None:
            outcomes.rows.pop(replica.backend_key, None)
            break
        if wrong := outcomes.failed(replica.backend_key, failure, now_s):
            observer.broken(wrong)
        repeatable = is_repeatable("tools/call", route, replica)
        known = {"repeatable": repeatable, "attempts": len(tried), "remaining_s": 5.0}
        if next_step(failure, **known, budget=stats.budget(route), now_s=now_s) is not Step.AGAIN:
            break
        stats.repeated(route, replica, failure, now_s)
        # What could not be sent is no repetition.
        if not isinstance(failure, CallNotSent) and (wrong := outcomes.sent_again(now_s)):
            observer.broken(wrong)
    if len(tried) > ATTEMPTS_MAX:
        observer.broken(f"a call is sent too often: {list(tried)}")
    if not is_read and observer.executed[call_id] > 1:
        observer.broken(f"a write was sent twice: {call_id} to {list(tried)}")
    return list(tried.items())


def burst(observer: "Observer", *, calls: int = BURST_CALLS, sessions: int = 1) -> Counter[str]:
    """Many calls of some sessions: what fails again and again gets no more; returns how many each got first."""
    began_s, step_s = observer.loop.time(), observer.rng.choice(BURST_STEPS_S)
    failed: Counter[str] = Counter()
    first: Counter[str] = Counter()
    up = [key for key, _ in observer.replicas()]
    # At most half of a group is ejected, and each refusal before counts: only a group that is well otherwise tells.
    out = observer.stats.view(began_s).ejected & set(up)
    few = len(up) > 1 and not out
    for number in range(calls):
        sent = call(observer, f"session {number % sessions}", began_s + number * step_s)
        first.update([key for key, _ in sent[:1]])
        for key, _ in sent[:1]:
            if few and failed[key] >= FAILURES_MAX and not any(failed[other] for other in up if other != key):
                observer.broken(f"a replica that fails is used again and again: {key}")
        for key, failure in sent:
            answered, refused = failure is None, isinstance(failure, CallNotSent)
            failed[key] = 0 if answered else failed[key] + (FAILURES_MAX if refused else 1)
    observer.loop.jump(calls * step_s)
    ejected = observer.stats.view(observer.loop.time()).ejected
    if len(up) > 1 and 2 * len(ejected & set(up)) > len(up) >= 2 * len(out):  # Some may have left since.
        observer.broken(f"more than half of a group is ejected: {sorted(ejected)} of {up}")
    return first


def burst_around(observer: "Observer") -> None:
    """Many calls while one replica is in maintenance, then while one is far away: the others get them all."""
    up = [key for key, _ in observer.replicas()]
    if len(up) < 2 or observer.facts.cut or observer.stats.view(observer.loop.time()).ejected:
        return
    for word in ("drained", "far"):
        setattr(observer.stats, word, frozenset(up[:1]))
        for _ in range(BURST_CALLS):
            sent = call(observer)
            observer.loop.jump(BURST_STEPS_S[0])
            if [key for key, _ in sent] == up[:1]:
                observer.broken(f"a replica gets a call that is {word}, and others are there: {up[0]}")
        setattr(observer.stats, word, frozenset())


def burst_in_panic(observer: "Observer") -> None:
    """Calls of many sessions: where most of a group are ejected, they get calls all the same, and may be back."""
    up = {key for key, _ in observer.replicas()}
    ejected = observer.stats.view(observer.loop.time()).ejected & up
    if 2 * (len(up) - len(ejected)) < len(up) and not ejected & burst(observer, sessions=BURST_CALLS).keys():
        observer.broken(f"a group that has lost most of its members is not used whole: {sorted(ejected)} of {len(up)}")


def late_failures(observer: "Observer") -> None:
    """Calls that hang since before an ejection fail when it is over: they prove nothing new."""
    up, stats = observer.replicas(), observer.stats
    if len(up) < 2 or observer.facts.cut or stats.view(observer.loop.time()).ejected:
        return
    key, route = up[0][0], _route(up, is_read=False)

    def begun() -> list[Attempt]:
        attempts = [Attempt(route, key, observer.loop.time(), 60.0, 10.0) for _ in range(FAILURES_MAX)]
        for attempt in attempts:
            stats.begin(attempt, "tools/call", {})
        observer.loop.jump(1.0)
        return attempts

    def fail(attempts: list[Attempt]) -> bool:
        for attempt in attempts:
            stats.finish(attempt, "timeout", observer.loop.time())
        observer.outcomes.forget(key)
        return key in stats.view(observer.loop.time()).ejected

    old = begun()
    if not fail(begun()):
        return
    observer.loop.jump(OUT_FOR_MAX_S + 1.0)
    call(observer)
    if key not in stats.view(observer.loop.time()).ejected and fail(old):
        observer.broken(f"a replica is ejected for calls of before its last ejection: {key}")


def look_at_refused(observer: "Observer") -> None:
    """A refused connection is disproved by one that has come since: after the next call no replica is out for it."""
    out = observer.outcomes.refused_at_s
    up = {key: since_s for key, _ in observer.replicas() if (since_s := observer._up_since_s(key)) is not None}
    back = {key for key, at_s in out.items() if up.get(key, 0.0) > at_s}
    if len(up) > 1 and (kept := back & observer.stats.view(observer.loop.time()).ejected):
        observer.broken(f"a replica is back that refused, and gets no calls: {sorted(kept)}")
    for key in back:
        del out[key]


def is_readmitted(observer: "Observer") -> bool:
    """Whether every replica gets calls again once the longest ejection is over; the next choice sees to that."""
    observer.loop.jump(READMITTED_AFTER_S)
    call(observer)
    up = {key for key, _ in observer.replicas()}
    healths = [
        health for group in observer.stats._groups.values() for key, health in group.healths.items() if key in up
    ]
    return len(up) < 2 or not any(health.is_ejected for health in healths)


@lru_cache(maxsize=1024)
def _route(up: tuple[tuple[str, str], ...], *, is_read: bool) -> Route:
    """The route to a tool of the nodes at these links."""
    replicas = tuple([Replica(key, "t", node_id, ours=False) for key, node_id in up])
    hints = {"readOnlyHint": True} if is_read else {}
    return Route(RouteKind.TOOL, "kit__t", {"name": "kit__t", "annotations": hints}, "d", replicas, True, "kit")
