"""Every rule of the simulation can be broken: with one decision made wrong, seeds find it within a few tries.

The one rule: each case replaces one function by a plausible mistake, and the rule that is named is the one that breaks.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from agent.dispatch.retry import Step
from discovery.consul.blocking_query import Trust, Verdict
from tests.simulation.runs import SeedFailed, try_seed


@dataclass(frozen=True)
class Mistake:
    """`place`: the name that is replaced, where it is used; `breaks`: how the rule begins that has to be broken.

    `seeds`: the seeds that are tried, one has to find it; of runs that cost more, seeds that are known to.
    """

    kind: str
    place: str
    wrong: Callable[..., Any]
    breaks: str
    seeds: Sequence[int] = range(200)


def believes_everything(_shown: Any, answer: Any, **_: Any) -> Verdict:
    return Verdict(Trust.BELIEVED, answer)


def time_of_day() -> float:
    return time.time()


def try_seeds(mistake: "Mistake") -> None:
    for seed in mistake.seeds:
        try_seed(mistake.kind, seed)


def again(*_: object, **__: object) -> Step:
    return Step.AGAIN


def never(*_: object, **__: object) -> float:
    return math.inf


def at_once(*_: object, **__: object) -> float:
    return 0.0


# The place of each mistake in one node's decisions and in whole nodes, the mistake, and the rule that breaks.
REMOVALS = ("agent.control.selection._suppressed", lambda *_: set(), "an operator's word does not win")
ADDITIONS = ("agent.control.selection.peer_builders", lambda *_: [], "an operator's word does not win")
BELIEF = ("discovery.consul.watch.weigh", believes_everything, "removed without a cause")
OBLIVION = ("discovery.consul.forgotten.Forgotten.of", lambda *_: frozenset(), "removed without a cause")
TWO_LINKS = ("agent.control.selection.fold_in", lambda _builders, found, _: found, "two links to one node")
TWO_REPLICAS = (*TWO_LINKS[:2], "two ")
DECIDED_AGAIN = ("tests.simulation.decisions.next_step", again, "a write was sent twice")
DECIDED_NEVER = ("tests.simulation.decisions.wait_s", never, "not converged")
DECIDED_AT_ONCE = ("tests.simulation.decisions.wait_s", at_once, "too many dials")
SENT_AGAIN = ("agent.dispatch.dispatcher.next_step", again, "a write was sent twice")
DIALLED_NEVER = ("agent.links.link.wait_s", lambda *_, **__: 3600.0, "not converged")
DIALLED_AT_ONCE = ("agent.links.link.wait_s", at_once, "too many dials")

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
        "decisions", "discovery.clock.now_s", time_of_day, "removed without a cause", [275]
    ),
    "removals are forgotten in a mesh": Mistake("mesh", *REMOVALS, [9]),
    "added peers are left out in a mesh": Mistake("mesh", *ADDITIONS, [5]),
    "what the catalog forgets is gone in a mesh": Mistake("mesh", *OBLIVION, [0]),
    "one node has two links in a mesh": Mistake("mesh", *TWO_REPLICAS, [5]),
    "everything is sent again by a whole node": Mistake("mesh", *SENT_AGAIN, [141]),
    "a lost link of a whole node waits for an hour": Mistake("mesh", *DIALLED_NEVER, [0]),
    "nothing waits to dial in a mesh": Mistake("mesh", *DIALLED_AT_ONCE, [1]),
    "removals are forgotten in a crowd": Mistake("crowd", *REMOVALS, [10]),
    "what the catalog forgets is gone in a crowd": Mistake("crowd", *OBLIVION, [8]),
    "one node has two links in a crowd": Mistake("crowd", *TWO_REPLICAS, [8]),
    "a lost link waits for an hour in a crowd": Mistake("crowd", *DIALLED_NEVER, [0]),
    "nothing waits to dial in a crowd": Mistake("crowd", *DIALLED_AT_ONCE, [1]),
    "added peers are left out in a town": Mistake("town", *ADDITIONS, [13]),
    "every answer is believed in a town": Mistake("town", *BELIEF, [1]),
    "what the catalog forgets is gone in a town": Mistake("town", *OBLIVION, [4]),
    "one node has two links in a town": Mistake("town", *TWO_LINKS, [0]),
    "a lost link waits for ever in a town": Mistake("town", *DECIDED_NEVER, [1]),
    "nothing waits to dial in a town": Mistake("town", *DECIDED_AT_ONCE, [0]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_rule_is_broken_by_a_mistake_that_seeds_soon_find(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = MISTAKES[name]
    # A mistake shows among a few as soon, and two thirds of a town's time is its first turn.
    monkeypatch.setattr("tests.simulation.runs.TOWNS", FEW)
    monkeypatch.setattr("tests.simulation.runs.CROWDS", FEW)
    monkeypatch.setattr(mistake.place, mistake.wrong)
    with pytest.raises(SeedFailed) as failed:
        try_seeds(mistake)
    assert str(failed.value).startswith(mistake.breaks)
    assert f"replay: make simulation REPLAY='{mistake.kind} " in str(failed.value)
