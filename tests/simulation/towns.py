"""Nodes' decisions under faults that a seed draws: of one node among a few others, or of each of hundreds.

A town has facts that all share, and an observer for each node that decides, which has a loop and a clock of its own.
After each fault every observer takes one turn, and the town's time is the latest of their clocks. Then everything
heals, and turns go on until all is as it must be. The one rule: everything random comes from the seed.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.model import HttpTarget, Override, Suppression
from tests.simulation.calls import burst, burst_around, is_readmitted
from tests.simulation.decisions import Observer
from tests.simulation.lying_catalog import Lie
from tests.simulation.rules import RuleBroken
from tests.simulation.surroundings import Facts, NodeFacts, Store
from tests.simulation.virtual_time import BEGINS_AT_S, VirtualTimeLoop

FAULTS = 6
# How likely a draw of these is to become one: they take many turns or calls.
CRASH_LOOPS, BURSTS = 0.1, 0.25
CRASHES, CRASH_EVERY_S = 14, 0.7
# How often a snapshot is nearly of now, where this node is not in it, either.
RECENT = 0.5
# How often the agent of a node that moves has another name as well, and its old entry stays.
GHOSTS = 0.4
# A held-down link waits for a minute, and after a restore the catalog is doubted for three: turns of half a wait each.
CONVERGED_WITHIN_S = 260.0
# So often the last of the others is a plain server.
PLAIN_ONE_IN = 2
# Among so many a node can tell its own silence from others'.
LARGE, LARGE_ONE_IN = 9, 40
_WAITS_S = (0.2, 2.0, 15.0, 30.0)
# How long a node goes on with a token that was deleted, until it has read the new one.
_TOKEN_LATE_S = (0.0, 0.0, 2.0, 60.0)
# What vanishes by itself, and what was put back into the past.
_LIES = (
    Lie.NONE,
    Lie.NONE,
    Lie.AWAY,
    Lie.LEADERLESS,
    Lie.FROZEN,
    Lie.BLIND,
    Lie.SHORT_SIGHTED,
    Lie.UNKNOWN_TOKEN,
    Lie.BEHIND,
    Lie.DOUBLED,
    Lie.REORDERED,
)


@dataclass
class Citizen:
    """A node that decides: what of it lasts over its lives, and the present life."""

    loop: VirtualTimeLoop = field(default_factory=VirtualTimeLoop)
    store: Store = field(default_factory=Store)
    observer: Observer | None = None


class Town:
    """See the module. `deciders`: the first so many nodes have an observer each; `plain`: the last are plain servers.

    Long because it is the list of faults.
    """

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

    # Faults

    def _other(self) -> NodeFacts:
        """Any node, but for a lone observer itself."""
        return self.rng.choice(self.facts.nodes[len(self.citizens) == 1 :])

    def _some(self) -> list[NodeFacts]:
        """One, or any number of them."""
        first = len(self.citizens) == 1
        many = self.facts.nodes[first:] if self.rng.random() < 0.5 else [self._other()]
        return self.rng.sample(many, self.rng.randrange(1, len(many) + 1))

    def _citizen(self) -> tuple[int, Citizen]:
        number = self.rng.randrange(len(self.citizens))
        return number, self.citizens[number]

    def stop(self, one: NodeFacts, kind: str) -> None:
        """End a node, start it, or move it."""
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
        one.port += kind == "moves"
        one.epoch += 1
        self.facts.register(one)
        if one.number in self.citizens and not was_alive:
            self._born(one.number)

    def _stopped(self) -> str:
        one = self._other()
        kind = self.rng.choice(("SIGKILL", "SIGTERM", "starts", "starts", "moves"))
        self.stop(one, kind)
        return f"{kind} {one.name}"

    def _many_stopped(self) -> str:
        kind, some = self.rng.choice(("SIGKILL", "SIGTERM", "starts")), self._some()
        for one in some:
            self.stop(one, kind)
        return f"{kind} {len(some)} nodes"

    def _lapsed(self) -> str:
        """Their heartbeats do not arrive; their next registration does."""
        some = self._some()
        for one in some:
            self.facts.lapse(one)
        return f"the checks of {len(some)} are critical"

    def _crash_loops(self) -> str:
        """A node starts, registers and dies, again and again."""
        one = self._other()
        if self.rng.random() > CRASH_LOOPS:
            return "no crash loop"
        for _ in range(CRASHES):
            self.stop(one, "SIGKILL")
            self.stop(one, "starts")
            self.turn(CRASH_EVERY_S)
        return f"{one.name} has started {CRASHES} times"

    def _called_much(self) -> str:
        """Calls come while servers of some hang, or their nodes have just died."""
        if self.rng.random() > BURSTS:
            return "no burst"
        some, kind = self._some(), self.rng.choice(("hang", "die", "are well"))
        for one in some:
            one.server_hangs = kind == "hang"
            if kind == "die":
                self.stop(one, "SIGKILL")
        for observer in self._living():
            (burst_around if kind == "are well" else burst)(observer)
        for one in some:
            one.server_hangs = False
        return f"many calls, and {len(some)} {kind}"

    def _cut(self) -> str:
        some, which = self._some(), self.rng.choice(("from", "to", "both"))
        other = self._citizen()[0]
        for one in some:
            ways = {"from": [(one.number, other)], "to": [(other, one.number)]}
            self.facts.cut.update(ways.get(which, [*ways["from"], *ways["to"]]))
        return f"{which} of {len(some)} nodes and n{other} lose their packets"

    def _all_cut(self) -> str:
        if self.rng.random() < 0.5:
            self.facts.cut.clear()
            return "all packets arrive"
        number = self._citizen()[0]
        for one in self.facts.nodes:
            self.facts.cut |= {(one.number, number), (number, one.number)}
        return f"n{number} is cut off"

    def _lied(self) -> str:
        lie, everybody = self.rng.choice(_LIES), self.rng.random() < 0.5
        chosen = [*self.citizens.values()] if everybody else [self._citizen()[1]]
        for citizen in chosen:
            self._set_lie(citizen, lie)
        return f"Consul to {len(chosen)}: {lie}"

    @staticmethod
    def _set_lie(citizen: Citizen, lie: Lie) -> None:
        if citizen.observer is not None:
            citizen.observer.servers.lie = lie

    def _forgotten(self) -> str:
        some = self._some()
        if len(self.citizens) == 1 and self.rng.random() < 0.5:
            some.append(self.facts.nodes[0])
        self.facts.lose(some)
        return f"a script deregisters {len(some)}"

    def _agent_stopped(self) -> str:
        """The catalog loses a node whose Consul agent is away: nothing brings it back until all heals."""
        one = self._other()
        one.agent_away = True
        self.facts.lose([one])
        return f"the agent of {one.name} is away, and its entry lost"

    def _restored(self) -> str:
        """A snapshot from before anybody had registered; each registers again, when it notices."""
        if not self.facts.before:
            return "no snapshot"
        some, own = self._some(), self.facts.nodes[0]
        is_ours = len(self.citizens) == 1 and self.rng.random() < 0.7
        is_recent = is_ours and self.rng.random() < RECENT
        self.facts.restore([*some, own] if is_ours else some, is_recent=is_recent)
        return f"a {'recent ' * is_recent}snapshot without {len(some)}{' and us' * is_ours} is restored"

    def _rotated(self) -> str:
        """The token is replaced and deleted; each node reads the new one at its own time."""
        self.facts.token += 1
        for one in self.facts.nodes:
            self.new_tokens[one.number] = self.facts.now_s + self.rng.choice(_TOKEN_LATE_S)
        return f"the token is rotated for the {self.facts.token}. time"

    def _read_tokens(self) -> None:
        """Who has read the new token by now registers with it at once."""
        for number, due_s in list(self.new_tokens.items()):
            if due_s <= self.facts.now_s:
                one = self.facts.nodes[number]
                one.has_token = self.facts.token
                del self.new_tokens[number]
                if one.alive:
                    self.facts.register(one)

    def _registered_again(self) -> str:
        for one in self.facts.nodes:
            if one.alive:
                self.facts.register(one)
            else:
                self.facts.lapse(one)
        return "all living are registered"

    def _ordered(self) -> str:
        one, word = self._other(), self.rng.choice(("remove", "add", "add under another name", "reset"))
        number, citizen = self._citizen()
        if number == one.number or one.is_plain:
            return "no order"
        if citizen.observer is not None:
            citizen.observer.words[one.node_id] = self.facts.now_s
        name, store = one.name if word != "add under another name" else f"my-{one.name}", citizen.store
        overrides = tuple(known for known in store.overrides if known.name != name)
        suppressions = tuple(known for known in store.suppressions if known.node_id != one.node_id)
        match word:
            case "remove":
                suppressions = (*suppressions, Suppression(one.name, one.node_id, one.service_id))
            case "add" | "add under another name":
                overrides = (*overrides, Override(name, HttpTarget(one.url)))
        store.overrides, store.suppressions = overrides, suppressions
        return f"an operator of n{number}: {word} {name}"

    def _time_set(self) -> str:
        ahead_s = self.rng.choice((-86_400.0, -3_600.0, 0.0, 3_600.0, 40 * 86_400.0))
        for citizen in self.citizens.values():
            citizen.loop.set_time_of_day(ahead_s)
        return f"the time of day is {ahead_s} s ahead"

    def _jumped(self) -> str:
        seconds = self.rng.choice((20.0, 3600.0))
        for one in self.facts.nodes:  # What has just happened is news to those who slept.
            one.caused_at_s += seconds
            one.lost_at_s += seconds
            one.lapsed_at_s += seconds
        for observer in self._living():
            observer.words = {node_id: at_s + seconds for node_id, at_s in observer.words.items()}
            observer.turned_at_s += seconds  # Who slept has not dialled.
        self.facts.restored_at_s += seconds
        self.facts.now_s += seconds
        return f"the clocks jump {seconds} s ahead"

    def healed(self) -> str:
        """Everything is well again."""
        self.facts.cut.clear()
        for citizen in self.citizens.values():
            self._set_lie(citizen, Lie.NONE)
        for one in self.facts.nodes:
            one.agent_away = False
        return "everything heals"

    def fault(self) -> str:
        """Let one thing happen."""
        return self.rng.choice(_FAULTS)(self)

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
        for _ in range(FAULTS):
            self.log.append(f"{self.facts.now_s:9.3f} {self.fault()}")
            self.turn(self.rng.choice(_WAITS_S))
        self.healed()
        for one in self.facts.nodes:
            one.has_token = self.facts.token
        self.new_tokens.clear()
        self._registered_again()
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
        for observer in self._living():
            if not is_readmitted(observer):
                raise RuleBroken(f"a replica is never readmitted (by {observer.own.name})")

    def _living(self) -> list[Observer]:
        return [citizen.observer for citizen in self.citizens.values() if citizen.observer is not None]

    def _unconverged(self) -> list[tuple[int, str]]:
        return [(one.own.number, one.unconverged()) for one in self._living()]


_FAULTS = (
    Town._stopped,
    Town._stopped,
    Town._stopped,
    Town._many_stopped,
    Town._crash_loops,
    Town._called_much,
    Town._lapsed,
    Town._cut,
    Town._cut,
    Town._all_cut,
    Town._lied,
    Town._lied,
    Town._forgotten,
    Town._agent_stopped,
    Town._restored,
    Town._rotated,
    Town._rotated,
    Town._registered_again,
    Town._ordered,
    Town._ordered,
    Town._time_set,
    Town._jumped,
    Town.healed,
)


def decide(seed: int, *, size: int = 0, all_decide: bool = False, log: list[str] | None = None) -> float:
    """Run one seed. Raises `RuleBroken`. `log` gets what happens; `size`: how many, 3 to 5 or `LARGE` where 0."""
    random.seed(seed)  # Discovery's jitter comes from the module's own generator.
    size = size or (LARGE if seed % LARGE_ONE_IN == 0 else 3 + seed % 3)
    plain = not all_decide and seed % PLAIN_ONE_IN == 0
    return Town(seed, size=size, deciders=size if all_decide else 1, plain=plain, log=log).live()
