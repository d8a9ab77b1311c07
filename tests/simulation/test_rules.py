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

    `seeds`: the seeds that are tried, one has to find it; of meshes, which cost more, seeds that are known to.
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


MISTAKES = {
    "removals are forgotten": Mistake(
        "decisions", "agent.control.selection._suppressed", lambda *_: set(), "an operator's word does not win"
    ),
    "added peers are left out": Mistake(
        "decisions", "agent.control.selection.peer_builders", lambda *_: [], "an operator's word does not win"
    ),
    "every answer is believed": Mistake(
        "decisions", "discovery.consul.watch.weigh", believes_everything, "removed without a cause"
    ),
    "what the catalog forgets is gone": Mistake(
        "decisions", "discovery.consul.forgotten.Forgotten.of", lambda *_: frozenset(), "removed without a cause"
    ),
    "what the catalog forgets is gone from whole nodes": Mistake(
        "mesh",
        "discovery.consul.forgotten.Forgotten.of",
        lambda *_: frozenset(),
        "removed without a cause",
        range(40),
    ),
    "one node has two links": Mistake(
        "decisions", "agent.control.selection.fold_in", lambda _builders, found, _: found, "two links to one node"
    ),
    "everything is sent again": Mistake(
        "decisions", "tests.simulation.decisions.next_step", lambda *_, **__: Step.AGAIN, "a write was sent twice"
    ),
    "a lost link waits for ever": Mistake(
        "decisions", "tests.simulation.decisions.wait_s", lambda *_, **__: math.inf, "not converged"
    ),
    "everything is sent again by a whole node": Mistake(
        "mesh", "agent.dispatch.dispatcher.next_step", lambda *_, **__: Step.AGAIN, "a write was sent twice", [78, 115]
    ),
    "a lost link of a whole node waits for an hour": Mistake(
        "mesh", "agent.links.link.wait_s", lambda *_, **__: 3600.0, "not converged", [2, 4]
    ),
    "doubts end by the time of day": Mistake(
        "decisions", "discovery.clock.now_s", time_of_day, "removed without a cause", [196]
    ),
    "nothing waits to dial": Mistake("mesh", "agent.links.link.wait_s", lambda *_, **__: 0.0, "too many dials", [1, 4]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_rule_is_broken_by_a_mistake_that_seeds_soon_find(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = MISTAKES[name]
    monkeypatch.setattr(mistake.place, mistake.wrong)
    with pytest.raises(SeedFailed) as failed:
        try_seeds(mistake)
    assert str(failed.value).startswith(mistake.breaks)
    assert f"replay: make simulation REPLAY='{mistake.kind} " in str(failed.value)
