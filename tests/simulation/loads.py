"""What only many show: dials of dozens that are dead, and a silence that is our own.

Part of `tests.simulation.rules`, for whole nodes. The one rule: as there, the facts of the simulated world count, never
what a node believes; so no bound here is read from the code.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.model import PeerSpec

if TYPE_CHECKING:
    from tests.simulation.node import SimulatedNode
    from tests.simulation.world import World

# All that is dead, and has been dialled in vain for a while, is dialled three times a second together
# (docs/reliability.md); with full jitter some windows have more: 73 dials for 45, once in thousands of seeds.
ROW_MIN, DEAD_DIALS_PER_S, JITTER, DIALS_WINDOW_S = 4, 3, 1.8, 15.0
# Where of so many links nearly all have fallen silent together, a node takes that for its own silence for so long.
LINKS_MIN, DEAF_SHARE_MIN, DOUBT_LASTS_S = 10, 0.9, 96.0
# An end of the other side counts as the reason of a loss for so long.
CAUSE_LASTS_S = 120.0


@dataclass
class Loads:
    """See the module."""

    world: "World"
    _dead: dict[str, deque[float]] = field(default_factory=dict)
    _disturbances: int = 0

    def begun(self, source: str, url: str) -> None:
        """A link is new, or there is reason to dial at once: a new row of dials begins."""
        del self.world.network.in_vain[url][source]

    def news(self, node_id: str) -> None:
        """The catalog, or an operator, has news of a node, for which it may be dialled at once."""
        for url, row in self.world.network.in_vain.items():
            if self.world.node_id_at(url) == node_id:
                row.clear()

    def dialled(self, at_s: float, source: str, row: int) -> None:
        """One dial, which is the last of so many in vain."""
        if self.world.disturbances != self._disturbances:  # A clock that jumps ahead makes all dials due.
            self._disturbances = self.world.disturbances
            self._dead.clear()
        if row < ROW_MIN:
            return
        dials = self._dead.setdefault(source, deque())
        dials.append(at_s)
        while at_s - dials[0] > DIALS_WINDOW_S:
            dials.popleft()
        if len(dials) > JITTER * DEAD_DIALS_PER_S * DIALS_WINDOW_S:
            what = f"{source}, {len(dials)} times within {DIALS_WINDOW_S:g} s"
            self.world.rules.broken("what is dead is dialled too often", what)

    def lost(self, node: "SimulatedNode", key: str) -> None:
        """A node has lost a link that was up: not for want of answers where it hears hardly any."""
        spec, now_s = node.specs.get(key), self.world.now_s
        other = None if spec is None else self.world.by_url(spec.target.url)
        if other is None or not node.alive or self._silent_s(node, other.name) is None:
            return
        causes = (
            self.world.rules.causes.get(other.identity.node_id, 0.0),
            self.world.rules.words.get((node.name, other.identity.node_id), 0.0),
        )
        if now_s - max(causes) < CAUSE_LASTS_S:
            return
        up = [view.spec for view in node.mesh.peer_views() if view.connected]
        names = [found.name for one in up if isinstance(one, PeerSpec) and (found := self.world.by_url(one.target.url))]
        silent = [self._silent_s(node, name) for name in (other.name, *names)]
        deaf = sum(silent_s is not None for silent_s in silent)
        if len(silent) >= LINKS_MIN and deaf >= DEAF_SHARE_MIN * len(silent):
            what = f"{node.name} to {other.name}, {deaf} of {len(silent)} are silent"
            self.world.rules.broken("a link ended for our own silence", what)

    def _silent_s(self, node: "SimulatedNode", other: str) -> float | None:
        """For how long no answer of another node arrives; None where it does, or has not for very long."""
        since = self.world.network.lost_since
        ways = [since[way] for way in ((node.name, other), (other, node.name)) if way in since]
        silent_s = self.world.now_s - min(ways, default=0.0)
        return silent_s if silent_s < DOUBT_LASTS_S else None
