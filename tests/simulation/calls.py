"""Calls of one node in the simulation of its decisions: the choice of a replica, ejection, and what is sent again.

Made by `tests.simulation.decisions` before and after each turn, and in bursts by `tests.simulation.towns`. The one
rule: the real `ReplicaStats` chooses, the real rule of retries decides, and what a server is sent is counted there.
"""

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from agent.dispatch.outlier import outcome_of
from agent.dispatch.replicas import Attempt
from agent.dispatch.retry import Step, fate_of, is_repeatable, next_step
from agent.errors import CallNotSent, MeshError
from agent.routing.table import Replica, Route, RouteKind

if TYPE_CHECKING:
    from tests.simulation.decisions import Observer

# Of each burst, in half a second.
BURST_CALLS, BURST_STEP_S = 12, 0.05
# Failures in a row after which a replica gets no calls, and how soon it may be back at the earliest.
FAILURES_MAX, OUT_FOR_S = 5, 20.0
ATTEMPTS_MAX = 3
# Repetitions within ten seconds: a fifth of the calls and three more, and what calls of the turn before have left.
REPEATED_SHARE, REPEATED_MORE = 0.2, 4
# The longest ejection is over by then.
READMITTED_AFTER_S = 310.0


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
    tried: dict[str, MeshError | None] = {}
    while (replica := stats.choose(route, tried, key, now_s)) is not None:
        attempt = Attempt(route, replica.backend_key, now_s, 10.0, 10.0)
        stats.begin(attempt, "tools/call", {})
        failure = tried[replica.backend_key] = observer.sent(replica.backend_key, call_id)
        now_s += 0.01
        stats.finish(attempt, "ok" if failure is None else outcome_of(failure), now_s)
        if failure is None:
            break
        repeatable = is_repeatable("tools/call", route, replica)
        known = {"repeatable": repeatable, "attempts": len(tried), "remaining_s": 5.0}
        if next_step(fate_of(failure), **known, budget=stats.budget(route), now_s=now_s) is not Step.AGAIN:
            break
        stats.repeated(route, replica, now_s)
    if len(tried) > ATTEMPTS_MAX:
        observer.broken(f"a call is sent too often: {list(tried)}")
    if not is_read and observer.executed[call_id] > 1:
        observer.broken(f"a write was sent twice: {call_id} to {list(tried)}")
    return list(tried.items())


def burst(observer: "Observer") -> None:
    """Many calls of one session: what fails again and again gets no more, and little is sent again."""
    now_s, repeated = observer.loop.time(), 0
    failed: Counter[str] = Counter()
    up = [key for key, _ in observer.replicas()]
    # At most half of a group is ejected, and each refusal before counts: only a group that is well otherwise tells.
    few = len(up) > 1 and not observer.stats.view(now_s).ejected
    for number in range(BURST_CALLS):
        at_s = now_s + number * BURST_STEP_S
        sent = call(observer, "session", at_s)
        repeated += max(0, len(sent) - 1)
        for key, _ in sent[:1]:
            if few and failed[key] >= FAILURES_MAX and not any(failed[other] for other in up if other != key):
                observer.broken(f"a replica that fails is used again and again: {key}")
        for key, failure in sent:
            answered, refused = failure is None, isinstance(failure, CallNotSent)
            failed[key] = 0 if answered else failed[key] + (FAILURES_MAX if refused else 1)
    if repeated > REPEATED_SHARE * BURST_CALLS + REPEATED_MORE:
        observer.broken(f"too much is sent again: {repeated} times in {BURST_CALLS} calls")
    ejected = observer.stats.view(now_s + 1.0).ejected
    if len(up) > 1 and 2 * len(ejected & set(up)) > len(up):
        observer.broken(f"more than half of a group is ejected: {sorted(ejected)} of {up}")


def burst_around(observer: "Observer") -> None:
    """Many calls while one replica is in maintenance, then while one is far away: the others get them all."""
    up = [key for key, _ in observer.replicas()]
    if len(up) < 2 or observer.facts.cut or observer.stats.view(observer.loop.time()).ejected:
        return
    for word in ("drained", "far"):
        setattr(observer.stats, word, frozenset(up[:1]))
        for number in range(BURST_CALLS):
            sent = call(observer, None, observer.loop.time() + number * BURST_STEP_S)
            if [key for key, _ in sent] == up[:1]:
                observer.broken(f"a replica gets a call that is {word}, and others are there: {up[0]}")
        setattr(observer.stats, word, frozenset())


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
