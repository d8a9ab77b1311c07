"""Every rule of the simulation can be broken: with one decision made wrong, seeds find it within a few tries.

The one rule: each case replaces one function by a plausible mistake, and the rule that is named is the one that breaks.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agent.dispatch.outlier import Health, judge, readmit
from agent.dispatch.replicas import ReplicaStats
from agent.dispatch.retry import Step
from agent.links.state import Blame
from discovery.consul.blocking_query import Trust, Verdict, weigh
from discovery.consul.watch import ConsulWatch
from tests.simulation.cities import NODES_MIN
from tests.simulation.loads import DEAD_DIALS_PER_S, ROW_MIN
from tests.simulation.node import WRITE
from tests.simulation.rules import RuleBroken
from tests.simulation.runs import SeedFailed, try_seed, try_seeds
from tests.simulation.virtual_time import run
from tests.simulation.world import world_of


@dataclass(frozen=True)
class Mistake:
    """`place`: the name that is replaced, where it is used; `breaks`: how the rule begins that has to be broken.

    `seeds`: those that are tried, until one finds it; of runs that cost more the first one is known to.
    """

    kind: str
    place: str
    wrong: Any
    breaks: str
    seeds: Iterable[int] = range(400)


def believes_everything(_shown: Any, answer: Any, **_: Any) -> Verdict:
    return Verdict(Trust.BELIEVED, answer)


def time_of_day() -> float:
    return time.time()


def found_by_a_seed(mistake: "Mistake") -> str:
    """What the first seed says that breaks its rule; a mistake may break others sooner."""
    for seed in mistake.seeds:
        try:
            try_seeds(mistake.kind, [seed])
        except SeedFailed as exc:
            if str(exc).startswith(mistake.breaks):
                return str(exc)
    return "no seed finds it"


def from_seed(first: int, others: int = 60) -> Iterable[int]:
    """A seed that is known to find a mistake, and then all: any change of the simulation moves what seeds draw."""
    return (first, *range(others))


def again(*_: object, **__: object) -> Step:
    return Step.AGAIN


def never(*_: object, **__: object) -> float:
    return math.inf


def at_once(*_: object, **__: object) -> float:
    return 0.0


CHOOSE, READ = ReplicaStats.choose, ConsulWatch._read


def counts_on(health: Health, failed_before: Health) -> Health:
    return replace(health, failures_in_row=health.failures_in_row or failed_before.failures_in_row)


def ends_no_row(key: str, verdict: Any, healths: Any, **known: Any) -> Health:
    return counts_on(judge(key, verdict, healths, **known), healths[key])


def judges_again(*known: Any, **more: Any) -> Health:
    return judge(*known, **(more | {"started_s": math.inf}))


async def fails_to_read(watch: ConsulWatch, rows: Sequence[bytes]) -> Any:
    return await READ(watch, rows) if rows else 1 // 0


# The place of each mistake in one node's decisions and in whole nodes, the mistake, and the rule that breaks.
REMOVALS = ("agent.control.selection._suppressed", lambda *_: set(), "an operator's word does not win")
ADDITIONS = ("agent.control.selection.peer_builders", lambda *_: [], "an operator's word does not win")
BELIEF = ("discovery.consul.watch.weigh", believes_everything, "removed without a cause")
OBLIVION = ("discovery.consul.forgotten.Forgotten.of", lambda *_: frozenset(), "removed without a cause")
TWO_LINKS = ("agent.control.selection.fold_in", lambda _builders, found, _: found, "two links to one node")
TWO_REPLICAS = (*TWO_LINKS[:2], "two ")
DECIDED_AGAIN = ("tests.simulation.calls.next_step", again, "a write was sent twice")
DECIDED_NEVER = ("tests.simulation.decisions.wait_s", never, "not converged")
DECIDED_AT_ONCE = ("tests.simulation.decisions.wait_s", at_once, "too many dials")
DIALLED_NEVER = ("agent.links.link.wait_s", lambda *_, **__: 3600.0, "not converged")
DIALLED_AT_ONCE = ("agent.links.link.wait_s", at_once, "too many dials")
DEAD_DIALLED_AT_ONCE = (*DIALLED_AT_ONCE[:2], "what is dead is dialled too often")

# Places in modules that decide, and what they are wrongly; the rules that each breaks are named in the table.
NEVER_DOUBTS = ("agent.links.crowd.judged", lambda *_: Blame.THEIRS, "a link ended for our own silence")
DOUBTS_FOR_EVER = ("agent.links.crowd.SELF_DOUBT_MAX_S", math.inf, "a link is kept that answers nothing")
NEVER_HELD = ("agent.links.state.FLAPS_MIN", 10**9, "a flapping link is not held down")
CUT_SHORT = ("agent.links.link.Link._is_held_down", False, "a flapping link is not held down")
NEVER_EJECTED = ("agent.dispatch.outlier.FAILURES_IN_ROW_MAX", 10**9, "a replica that fails is used again")
ALL_EJECTED = ("agent.dispatch.outlier._may_eject", lambda _: True, "more than half of a group is ejected")
NEVER_BACK = ("agent.dispatch.replicas.readmit", lambda health, *_: health, "a replica is never readmitted")
NO_BUDGET = ("agent.dispatch.retry.BUDGET_RESERVE", 100, "too much is sent again")
NO_MAINTENANCE = (
    "agent.dispatch.replicas.ReplicaStats._without_drained",
    lambda _self, _route, exclude: exclude,
    "a replica gets a call that is drained",
)
COUNTS_CHILDREN = ("agent.links.crowd._is_up", lambda standing: standing.attempts == 0, "links are counted wrongly")
REMEMBERS = ("agent.links.state.MISSES_DOWN", 2, "a link ended after fewer misses in a row")
COUNTS_ON = ("agent.links.state._row", lambda standing, _now_s: standing, "a failure after a steady session is not the")
NEVER_CALM = ("agent.links.state.FLAP_S", math.inf, "a link is held down that has not flapped")
NEVER_REPAIRS = ("discovery.consul.watch._DISTRUSTS_OF_LOSS", 10**9, "our own entry is lost, and not registered again")
NEVER_SIGHTED = ("agent.links.actions._sighted", lambda *_: False, "what has registered anew is not dialled at once")
KEEPS_FOR_EVER = ("discovery.consul.forgotten.FORGOTTEN_S", math.inf, "what the catalog has long forgotten is kept")
RELABELS = ("agent.links.actions._same_link", lambda *_: True, "a link is at another place than its peer")
SEES_ALL = ("discovery.consul.watch.proves_absence", lambda *_, **__: True, "removed without a cause")
NEVER_RESTORED = ("discovery.consul.watch.RESTORED_S", 0.0, "removed without a cause")
FORGETFUL = ("agent.control.absence.AWAY_FOR_S", 0.0, "the names of a peer are forgotten")

NEVER_WHOLE = (
    "agent.dispatch.replicas.ejected_of",
    lambda group, healths: frozenset(one for one in group if one in healths and healths[one].is_ejected),
    "a group that has lost most of its members is not used whole",
)
ENDS_NO_ROW = ("agent.dispatch.replicas.judge", ends_no_row, "a replica is ejected that fails now and then")
JUDGES_AGAIN = ("agent.dispatch.replicas.judge", judges_again, "a replica is ejected for calls of before")
NEVER_DISPROVED = (
    "agent.dispatch.replicas.readmit",
    lambda health, now_s, _: readmit(health, now_s),
    "a replica is back that refused, and gets no calls",
)
TRIES_AGAIN = (
    "agent.dispatch.replicas.ReplicaStats.choose",
    lambda stats, route, _, key, now_s: CHOOSE(stats, route, (), key, now_s),
    "a replica is tried again in one call",
)
FORGETS_NOTHING = (
    "agent.dispatch.replicas.ReplicaStats.forget",
    lambda *_: None,
    "what is gone keeps its ejection",
)
NEVER_SURE = (
    "discovery.consul.watch.weigh",
    lambda *known, **more: weigh(*known, **(more | {"confirming": False})),
    "what has left is kept",
)
NEVER_BACKWARDS = ("discovery.consul.watch.next_index", max, "Consul is asked for what it does not have")
NAMES_KEPT = (
    "agent.control.absence.is_suppressed",
    lambda *_: False,
    "the names of a peer are kept that an operator removed",
)
NOT_HURRIED = ("agent.links.link.Link.reached", lambda _: None, "who has reached us is not dialled")
RAISES = ("discovery.consul.watch.ConsulWatch._read", fails_to_read, "an unforeseen failure")

FEW = range(30, 41)

MISTAKES = {
    "removals are forgotten": Mistake("decisions", *REMOVALS),
    "added peers are left out": Mistake("decisions", *ADDITIONS),
    "every answer is believed": Mistake("decisions", *BELIEF),
    "what the catalog forgets is gone": Mistake("decisions", *OBLIVION),
    "one node has two links": Mistake("decisions", *TWO_LINKS),
    "everything is sent again": Mistake("decisions", *DECIDED_AGAIN),
    "a lost link waits for ever": Mistake("decisions", *DECIDED_NEVER),
    "nothing waits to dial": Mistake("decisions", *DECIDED_AT_ONCE),
    "doubts end by the time of day": Mistake(
        "decisions", "discovery.clock.now_s", time_of_day, "removed without a cause", from_seed(34, 4_000)
    ),
    "a node never doubts itself": Mistake("decisions", *NEVER_DOUBTS),
    "a node doubts itself for ever": Mistake("decisions", *DOUBTS_FOR_EVER, (1_080, *range(0, 4_000, 40))),
    "what flaps is not held down": Mistake("decisions", *NEVER_HELD),
    "what fails again and again is never ejected": Mistake("decisions", *NEVER_EJECTED),
    "all of a group are ejected": Mistake("decisions", *ALL_EJECTED, from_seed(334, 4_000)),
    "nothing is readmitted": Mistake("decisions", *NEVER_BACK),
    "the budget of retries is as large as may be": Mistake("decisions", *NO_BUDGET, from_seed(639, 4_000)),
    "maintenance is ignored": Mistake("decisions", *NO_MAINTENANCE, from_seed(588, 4_000)),
    "away names are forgotten at once": Mistake("decisions", *FORGETFUL),
    "links that are down count as up": Mistake("decisions", *COUNTS_CHILDREN),
    "a link ends with its second miss": Mistake("decisions", *REMEMBERS),
    "a steady session ends no row of failures": Mistake("decisions", *COUNTS_ON, from_seed(415, 4_000)),
    "every session is a flap": Mistake("decisions", *NEVER_CALM, from_seed(654, 4_000)),
    "an entry of ours that is lost is not registered again": Mistake("decisions", *NEVER_REPAIRS),
    "what has registered anew waits like others": Mistake("decisions", *NEVER_SIGHTED),
    "what the catalog has forgotten is kept for ever": Mistake("decisions", *KEEPS_FOR_EVER, from_seed(953, 4_000)),
    "a link keeps its session when its peer moves": Mistake("decisions", *RELABELS),
    "rows that access control hides are taken for gone": Mistake("decisions", *SEES_ALL, from_seed(256, 4_000)),
    "a restored state is believed": Mistake("decisions", *NEVER_RESTORED, from_seed(96, 4_000)),
    "a group that has lost most of its members is not used whole": Mistake(
        "decisions", *NEVER_WHOLE, from_seed(20, 4_000)
    ),
    "an answer ends no row of failures": Mistake("decisions", *ENDS_NO_ROW, from_seed(83, 4_000)),
    "calls of before an ejection judge again": Mistake("decisions", *JUDGES_AGAIN, from_seed(153, 4_000)),
    "no connection disproves a refusal": Mistake("decisions", *NEVER_DISPROVED, from_seed(415, 4_000)),
    "a replica is tried again in one call": Mistake("decisions", *TRIES_AGAIN, from_seed(7, 4_000)),
    "what is gone keeps its ejection": Mistake("decisions", *FORGETS_NOTHING, from_seed(1, 4_000)),
    "a second look is never enough": Mistake("decisions", *NEVER_SURE, from_seed(134, 4_000)),
    "an index never goes back": Mistake("decisions", *NEVER_BACKWARDS, from_seed(11, 4_000)),
    "names of what an operator removed are kept": Mistake("decisions", *NAMES_KEPT, from_seed(5, 4_000)),
    "the watch fails in an unforeseen way": Mistake("decisions", *RAISES, from_seed(2, 4_000)),
    "a peer that has reached us is not dialled": Mistake("mesh", *NOT_HURRIED),
    "removals are forgotten in a mesh": Mistake("mesh", *REMOVALS, from_seed(3)),
    "added peers are left out in a mesh": Mistake("mesh", *ADDITIONS, from_seed(3)),
    "what the catalog forgets is gone in a mesh": Mistake("mesh", *OBLIVION, from_seed(0)),
    "one node has two links in a mesh": Mistake("mesh", *TWO_REPLICAS, from_seed(3)),
    "a lost link of a whole node waits for an hour": Mistake("mesh", *DIALLED_NEVER, from_seed(2)),
    "nothing waits to dial in a mesh": Mistake("mesh", *DIALLED_AT_ONCE, from_seed(1)),
    "a hold-down is cut short in a crowd": Mistake("crowd", *CUT_SHORT, from_seed(0, 20)),
    "removals are forgotten in a crowd": Mistake("crowd", *REMOVALS, from_seed(1)),
    "what the catalog forgets is gone in a crowd": Mistake("crowd", *OBLIVION, from_seed(8)),
    "one node has two links in a crowd": Mistake("crowd", *TWO_REPLICAS, from_seed(0)),
    "a lost link waits for an hour in a crowd": Mistake("crowd", *DIALLED_NEVER, from_seed(0)),
    "nothing waits to dial in a crowd": Mistake("crowd", *DEAD_DIALLED_AT_ONCE, from_seed(6)),
    "a node never doubts itself in a city": Mistake("city", *NEVER_DOUBTS, from_seed(14)),
    "added peers are left out in a town": Mistake("town", *ADDITIONS, from_seed(21)),
    "every answer is believed in a town": Mistake("town", *BELIEF, from_seed(1)),
    "what the catalog forgets is gone in a town": Mistake("town", *OBLIVION, from_seed(4)),
    "one node has two links in a town": Mistake("town", *TWO_LINKS, from_seed(0)),
    "a lost link waits for ever in a town": Mistake("town", *DECIDED_NEVER, from_seed(1)),
    "nothing waits to dial in a town": Mistake("town", *DECIDED_AT_ONCE, from_seed(1)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_rule_is_broken_by_a_mistake_that_seeds_soon_find(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = MISTAKES[name]
    # A mistake shows among a few as soon, and two thirds of a town's time is its first turn.
    monkeypatch.setattr("tests.simulation.runs.TOWNS", FEW)
    monkeypatch.setattr("tests.simulation.runs.CROWDS", FEW)
    monkeypatch.setattr("tests.simulation.runs.CITY", NODES_MIN)
    monkeypatch.setattr(mistake.place, mistake.wrong)
    said = found_by_a_seed(mistake)
    assert f"replay: make simulation REPLAY='{mistake.kind} " in said


def test_write_that_two_servers_have_executed_breaks_a_rule() -> None:
    world = world_of(0)

    async def ended() -> None:
        world.executed["c1"] = ["kit-0", "kit-1"]
        world.rules.called("c1", WRITE, "ok")

    with pytest.raises(RuleBroken, match="a write was sent twice"):
        run(ended())


def test_dead_that_are_dialled_twice_as_often_as_they_may_be_break_a_rule() -> None:
    world = world_of(0)

    async def dialled(rate: int, row: int) -> None:
        for number in range(60 * rate):
            world.rules.loads.dialled(number / rate, "n0", row)

    run(dialled(2 * DEAD_DIALS_PER_S, ROW_MIN - 1))
    run(dialled(DEAD_DIALS_PER_S, ROW_MIN))
    with pytest.raises(RuleBroken, match="what is dead is dialled too often"):
        run(dialled(2 * DEAD_DIALS_PER_S, ROW_MIN))


def test_failing_run_of_another_size_is_replayed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.rules.Rules.unconverged", lambda _: ["never"])
    with pytest.raises(SeedFailed, match=r"replay: make simulation REPLAY='mesh 3' NODES=2$"):
        try_seed("mesh", 3, nodes=2)
