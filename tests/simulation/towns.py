"""Nodes' decisions under faults that a seed draws: of one node among a few others, or of each of hundreds.

A town has facts that all share, and an observer for each node that decides, which has a loop and a clock of its own.
After each fault every observer takes one turn, and the town's time is the latest of their clocks. Then everything
heals, and turns go on until all is as it must be. The one rule: everything random comes from the seed.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.calls import is_readmitted
from tests.simulation.decision_rules import look_at_the_end
from tests.simulation.decisions import Observer
from tests.simulation.lying_catalog import Lie
from tests.simulation.rules import RuleBroken
from tests.simulation.surroundings import Facts, NodeFacts, Store
from tests.simulation.town_faults import FAULTS, SHARED_NAME
from tests.simulation.virtual_time import BEGINS_AT_S, VirtualTimeLoop

FAULTS_TOTAL = 6
# How often the agent of a node that moves has another name as well, and its old entry stays.
GHOSTS = 0.4
# A held-down link waits for a minute, and after a restore the catalog is doubted for three: turns of half a wait each.
CONVERGED_WITHIN_S = 260.0
# So often the last of the others is a plain server.
PLAIN_ONE_IN = 2
# Among so many a node can tell its own silence from others'.
LARGE, LARGE_ONE_IN = 9, 40
_WAITS_S = (0.2, 2.0, 15.0, 30.0)


@dataclass
class Citizen:
    """A node that decides: what of it lasts over its lives, and the present life."""

    loop: VirtualTimeLoop = field(default_factory=VirtualTimeLoop)
    store: Store = field(default_factory=Store)
    observer: Observer | None = None


class Town:
    """See the module. `deciders`: the first so many nodes have an observer each. `plain`: the last are no nodes."""

    def __init__(self, seed: int, *, size: int, deciders: int, plain: int = 0, log: list[str] | None = None) -> None:
        self.rng = rng = random.Random(seed)
        nodes = [NodeFacts(number, is_plain=number >= size - plain) for number in range(size)]
        self.facts = Facts(nodes, rng, BEGINS_AT_S)
        self.facts.says_empty = rng.random() < 0.5
        self.citizens = {number: Citizen() for number in range(deciders)}
        self.log = [] if log is None else log
        self.new_tokens: dict[int, float] = {}
        for number in self.citizens:
            self._born(number)

    def _born(self, number: int) -> None:
        citizen, one = self.citizens[number], self.facts.nodes[number]
        # A seed for each costs more than all that one of a few thousand nodes draws.
        citizen.observer = Observer(one, self.facts, self.rng, citizen.store, citizen.loop)

    def _ended(self, number: int) -> None:
        if number in self.citizens and (observer := self.citizens[number].observer) is not None:
            observer.close()
            self.citizens[number].observer = None

    # What faults are made of (`tests.simulation.town_faults`)

    @property
    def is_large(self) -> bool:
        """Whether a node can tell its own silence from others'."""
        return len(self.facts.nodes) >= LARGE

    def others(self) -> list[NodeFacts]:
        """All, but for a lone observer itself."""
        return self.facts.nodes[len(self.citizens) == 1 :]

    def other(self) -> NodeFacts:
        """Any of them."""
        return self.rng.choice(self.others())

    def some(self) -> list[NodeFacts]:
        """One, or any number of them."""
        many = self.others() if self.rng.random() < 0.5 else [self.other()]
        return self.rng.sample(many, self.rng.randrange(1, len(many) + 1))

    def citizen(self) -> tuple[int, Citizen]:
        """Any node that decides."""
        number = self.rng.randrange(len(self.citizens))
        return number, self.citizens[number]

    def living(self) -> list[Observer]:
        """The nodes that decide now."""
        return [citizen.observer for citizen in self.citizens.values() if citizen.observer is not None]

    def stop(self, one: NodeFacts, kind: str) -> None:
        """End a node, start it, move or rename it."""
        if kind != "starts":
            one.caused_at_s = self.facts.now_s
        if kind in ("SIGKILL", "SIGTERM"):
            one.alive = False
            (self.facts.lapse if kind == "SIGKILL" else self.facts.deregister)(one)
            self._ended(one.number)
            return
        was_alive, one.alive = one.alive, True
        if kind == "moves" and not one.is_plain and self.rng.random() < GHOSTS:
            self.facts.change()
            one.ghost = one.ghost_row()
        if kind == "is renamed" and not one.is_plain:
            self._ended(one.number)
            was_alive, one.name = False, SHARED_NAME if one.name != SHARED_NAME else f"n{one.number}"
        one.port += kind == "moves"
        one.epoch += 1
        self.facts.register(one)
        if one.number in self.citizens and not was_alive:
            self._born(one.number)

    @staticmethod
    def set_lie(citizen: Citizen, lie: Lie) -> None:
        """Let Consul answer it so."""
        if citizen.observer is not None:
            citizen.observer.servers.lie = lie

    def register_all(self) -> None:
        """All living register, and the checks of all others run out."""
        for one in self.facts.nodes:
            if one.alive:
                self.facts.register(one)
            else:
                self.facts.lapse(one)

    def heal(self, *, but_agents: bool = False) -> None:
        """Everything is well again."""
        self.facts.cut.clear()
        self.facts.lossy.clear()
        for citizen in self.citizens.values():
            self.set_lie(citizen, Lie.NONE)
        for one in () if but_agents else self.facts.nodes:
            one.agent_away = False

    def _read_tokens(self) -> None:
        """Who has read the new token by now registers with it at once."""
        for number, due_s in list(self.new_tokens.items()):
            if due_s <= self.facts.now_s:
                one = self.facts.nodes[number]
                one.has_token = self.facts.token
                del self.new_tokens[number]
                if one.alive:
                    self.facts.register(one)

    # The run

    def turn(self, seconds: float, *, only: Callable[[Observer], object] = lambda _: True) -> None:
        """Let so much time pass, and every observer take its turn."""
        now_s = self.facts.now_s + seconds
        self.facts.now_s = now_s
        self._read_tokens()
        self.facts.sync()
        for citizen in self.citizens.values():
            observer, loop = citizen.observer, citizen.loop
            if observer is None or not only(observer):
                continue
            time.time = loop.time_of_day
            loop.drive(observer.turn(max(0.0, now_s - loop.time())))
            self.facts.now_s = max(self.facts.now_s, loop.time())

    def live(self) -> float:
        """One run; returns the seconds from the last fault until everything is as it must be."""
        of_the_machine = time.time
        try:
            return self._live()
        finally:
            time.time = of_the_machine
            self.close()

    def close(self) -> None:
        """End the loops and what runs on them."""
        for number, citizen in self.citizens.items():
            self._ended(number)
            citizen.loop.close()

    def _live(self) -> float:
        self.turn(0.0)
        for _ in range(FAULTS_TOTAL):
            fault = self.rng.choice(FAULTS)
            self.log.append(f"{self.facts.now_s:9.3f} {fault.__name__.strip('_')}")  # It may break a rule itself.
            self.log[-1] += f": {fault(self)}"
            self.turn(self.rng.choice(_WAITS_S))
        self.heal()
        for one in self.facts.nodes:
            one.has_token = self.facts.token
        self.new_tokens.clear()
        self.register_all()
        healed_at_s = self.facts.now_s
        self.turn(0.0)
        while faults := {number: fault for number, fault in self._unconverged() if fault}:
            if self.facts.now_s - healed_at_s > CONVERGED_WITHIN_S:
                first = next(iter(faults))
                what = f"n{first} is {faults[first]}; {len(faults)} nodes in all"
                raise RuleBroken(f"not converged within {CONVERGED_WITHIN_S:g} s: {what}")
            self.turn(5.0, only=lambda one: one.own.number in faults)
        self._look_at_the_end()
        return self.facts.now_s - healed_at_s

    def _look_at_the_end(self) -> None:
        for observer in self.living():
            look_at_the_end(observer)
            if not is_readmitted(observer):
                raise RuleBroken(f"a replica is never readmitted (by {observer.own.name})")

    def _unconverged(self) -> list[tuple[int, str]]:
        return [(one.own.number, one.unconverged()) for one in self.living()]


def decide(seed: int, *, size: int = 0, all_decide: bool = False, log: list[str] | None = None) -> float:
    """Run one seed. Raises `RuleBroken`. `log` gets what happens; `size`: how many, 3 to 5 or `LARGE` where 0."""
    random.seed(seed)  # Discovery's jitter comes from the module's own generator.
    size = size or (LARGE if seed % LARGE_ONE_IN == 0 else 3 + seed % 3)
    plain = not all_decide and seed % PLAIN_ONE_IN == 0
    return Town(seed, size=size, deciders=size if all_decide else 1, plain=plain, log=log).live()
