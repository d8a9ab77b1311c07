"""Nodes that the catalog lacks while their links are up: a clean-up script took them out, and they are soon back. PURE.

Kept by the watch. A node registers again as soon as it misses itself, and one that leaves says so to its peers before
it deregisters, so that its link is not up by then. A plain server does neither: its deregistration is how it leaves.
The one rule: the catalog alone takes away no node that answers, for `FORGOTTEN_S`.
"""

from collections.abc import Iterable

from discovery.backoff import Backoff
from discovery.model import Catalog, Instance, InstanceKey

# As long as after a restore: the Consul agent of a node, which brings it back, may be away for a while itself.
FORGOTTEN_S = 180.0
# When the catalog is read again that lacks such nodes. The first step is for those that leave, and whose link was just
# about to end; a return wakes the wait.
LOOK_AGAIN = Backoff(first_s=0.5, last_s=10.0)
# From so many on they do not just leave.
LOOKS_OF_LEAVING = 2


class Forgotten:
    """See the module. `look_again_at_s`: when the catalog is to be read again; 0 while none is forgotten."""

    def __init__(self) -> None:
        self._since_s: dict[InstanceKey, float] = {}
        self._looks = 0
        self.look_again_at_s = 0.0

    def __repr__(self) -> str:
        return f"<Forgotten {sorted(self._since_s)} looks={self._looks}>"

    def of(self, answer: Catalog, missing: Iterable[Instance], now_s: float) -> frozenset[InstanceKey]:
        """Those that stay. `missing`: what the answer lacks of nodes whose links are up."""
        nodes = {one.key: one.meta.get("node_id") for one in missing}
        # One whose agent was renamed, or that has moved to another, is listed there.
        listed = {one.meta.get("node_id") for one in answer.instances} if nodes else set()
        keys = [key for key, node_id in nodes.items() if node_id and node_id not in listed]
        self._since_s = {key: self._since_s.get(key, now_s) for key in keys}
        return frozenset(key for key, since_s in self._since_s.items() if now_s - since_s < FORGOTTEN_S)

    def looked(self, now_s: float, *, some: bool) -> int:
        """An answer was judged, and lacked some or none; how many in a row have lacked some."""
        self._looks = self._looks + 1 if some else 0
        self.look_again_at_s = now_s + LOOK_AGAIN.step_s(self._looks) if some else 0.0
        return self._looks
