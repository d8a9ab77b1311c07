"""Hundreds of other nodes that cost next to nothing: each is registered, answers probes and lists, and executes calls.

They run no decisions of their own; the few whole nodes of their world do, over links to all of them. The one rule: to
a whole node one of these looks like any other node.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.model import ORIGIN_META_KEY, Json, NodeIdentity, ServerScope
from agent.routing.names import node_alias
from agent.routing.origins import Origin
from tests.simulation.node import TOOLS

if TYPE_CHECKING:
    from tests.simulation.network import SimulatedClient
    from tests.simulation.world import World


class QuietNode:
    """See the module."""

    hangs = leaving = False

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.name = f"q{number}"
        self.identity = NodeIdentity(f"id-q{number:04d}", self.name)
        self.service_id = node_alias(self.name, self.identity.node_id)
        self.address = f"10.1.{number // 250}.{number % 250 + 1}"
        self.url = f"http://{self.address}:8000/mcp"
        self.alive = False
        self.epoch = 0
        self.clients: dict[SimulatedClient, None] = {}
        self._critical: asyncio.TimerHandle | None = None
        origins = {
            tool["name"]: Origin.of_own(self.identity, "kit", tool["name"], ServerScope.SERVICE, sticky=False)
            for tool in TOOLS
        }
        self._tools: list[Json] = [
            {**tool, "name": f"kit__{tool['name']}", "_meta": {ORIGIN_META_KEY: origins[tool["name"]].as_json()}}
            for tool in TOOLS
        ]

    def start(self) -> None:
        """Live, and be registered."""
        if self._critical is not None:
            self._critical.cancel()
        self.alive, self.epoch = True, self.epoch + 1
        self.world.network.at[self.url] = self
        self._register(passing=True)

    def kill(self, ttl_s: float = 15.0) -> None:
        """Die without a word; the catalog notices when the time of its check is over."""
        self.alive = False
        self.world.rules.cause(self.identity.node_id)
        for client in list(self.clients):
            client.hear_reset()
        self._critical = asyncio.get_running_loop().call_later(ttl_s, lambda: self._register(passing=False))

    def _register(self, *, passing: bool) -> None:
        meta = {"node_id": self.identity.node_id, "name": self.name, "epoch": str(self.epoch)}
        payload = {"ID": self.service_id, "Name": "mcp-node", "Port": 8000, "Address": self.address, "Meta": meta}
        self.world.consul.put("agent-q", payload, passing=passing)

    def reached_by(self, name: str) -> None:
        """It keeps no links of its own."""

    async def serve(self, method: str, params: Json) -> Json:
        """Answer as a node's local endpoint does."""
        if method == "tools/list":
            return {"tools": self._tools}
        self.world.executed.setdefault(params["arguments"]["id"], []).append(self.name)
        return {"content": []}


def crowd_faults(world: "World", crowd: list[QuietNode]) -> list[Callable[[], str]]:
    """What may happen to many at once."""

    def half_dies() -> str:
        chosen = world.rng.sample(crowd, len(crowd) // 2)
        for one in chosen:
            if one.alive:
                one.kill()
        return f"{len(chosen)} of {len(crowd)} die"

    def all_start() -> str:
        for one in crowd:
            if not one.alive:
                one.start()
        return "all of the crowd start"

    def half_are_cut_off() -> str:
        for one in crowd[: len(crowd) // 2]:
            for node in world.nodes:
                world.network.cut.add((one.name, node))
        return "half of the crowd cannot be heard"

    return [half_dies, all_start, half_are_cut_off]
