"""A mesh of hundreds of whole nodes that run all the real code and are all linked: what happens to many at once.

The runs are those of `tests.simulation.world`, with the same faults of single nodes. The one rule: a fault here is one
of so many nodes that each of the others has to do with dozens of them at once.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.lying_catalog import Lie

if TYPE_CHECKING:
    from tests.simulation.node import SimulatedNode
    from tests.simulation.world import World

# From so many whole nodes on.
NODES_MIN = 20
# Each fault costs thousands of dials, so there are few, and each mostly gets the time that it takes to show.
FAULTS, PAUSES_S = 3, (0.3, 3.0, 12.0, 40.0, 40.0)
# A fault of the many comes so much more often than one of a single node.
MORE_OFTEN = 4
# How many changes ago a snapshot was made that is restored; a few, or all that the servers remember.
BACK = (1, 10, 30)


@dataclass(frozen=True, slots=True)
class CityFaults:
    """What may happen to many whole nodes at once, or to one whose silence is that of all others."""

    world: "World"
    group: asyncio.TaskGroup

    def all(self) -> list[Callable[[], str]]:
        """Each of them."""
        return [
            self.many_end,
            self.many_restart,
            self.most_die_unseen,
            self.some_are_cut_off,
            self.one_hears_none,
            self.some_hang,
            self.all_are_forgotten,
            self.much_is_restored,
        ]

    def many_end(self) -> str:
        """Half of all, or a tenth."""
        word, chosen = self.world.rng.choice(("SIGKILL", "SIGTERM")), self._some(self.world.rng.choice((2, 10)))
        for node in chosen:
            self.world.end(node, kindly=word == "SIGTERM")
        return f"{word} {len(chosen)} nodes"

    def many_restart(self) -> str:
        """At the same moment."""
        chosen = self._some(10)
        for node in chosen:
            self.world.end(node, kindly=False)
            self.world.start(node, self.group)
        return f"{len(chosen)} nodes restart"

    def most_die_unseen(self) -> str:
        """As when the power of a room fails, and Consul with it: no catalog says that they are gone."""
        lie, living = self.world.rng.choice((Lie.AWAY, Lie.LEADERLESS, Lie.FROZEN)), self._some(10)
        for node in self.world.nodes.values():
            node.agent.lie = lie
            if node not in living:
                self.world.end(node, kindly=False)
        return f"all agents: {lie}; SIGKILL all but {len(living)}"

    def some_are_cut_off(self) -> str:
        """From all others, one way or both."""
        chosen, both = self._some(5), self.world.rng.random() < 0.5
        others = [node for node in self.world.nodes.values() if node not in chosen]
        for one in chosen:
            for other in others:
                self.world.network.lose(one.name, other.name)
                if both:
                    self.world.network.lose(other.name, one.name)
        return f"{len(chosen)} nodes and all others {'do not hear each other' if both else 'do not hear them'}"

    def one_hears_none(self) -> str:
        """All are silent at once, as far as it can tell."""
        node = self.world.any_node()
        for other in self.world.nodes:
            if other != node.name:
                self.world.network.lose(other, node.name)
        return f"all packets to {node.name} are lost"

    def some_hang(self) -> str:
        """They take connections, and answer nothing."""
        chosen = self._some(10)
        for node in chosen:
            node.hangs = True
        return f"{len(chosen)} nodes hang"

    def all_are_forgotten(self) -> str:
        """Every node registers again, and each hears of all of them."""
        chosen = sorted(self.world.consul.entries)
        for service_id in chosen:
            self.world.consul.remove(service_id, "deregistered by a script")
        return f"a script deregisters {len(chosen)}"

    def much_is_restored(self) -> str:
        """The catalog of a while ago."""
        back = self.world.rng.choice(BACK)
        self.world.consul.restore(back)
        return f"a snapshot of {back} changes ago is restored"

    def _some(self, one_of: int) -> list["SimulatedNode"]:
        nodes = list(self.world.nodes.values())
        return self.world.rng.sample(nodes, len(nodes) // one_of)
