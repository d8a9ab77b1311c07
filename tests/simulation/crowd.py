"""Hundreds of other nodes that cost next to nothing: each is registered, answers probes and lists, and executes calls.

They run no decisions of their own; the few whole nodes of their world do, over links to all of them. The one rule: to
a whole node one of these looks like any other node.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from agent.model import ORIGIN_META_KEY, Json, NodeIdentity, ServerScope
from agent.routing.names import node_alias
from agent.routing.origins import Origin
from tests.simulation.node import TOOLS

if TYPE_CHECKING:
    from tests.simulation.network import SimulatedClient
    from tests.simulation.world import World


# A node that dies as soon as it has started, and is started again.
CRASHES, CRASH_EVERY_S = 14, 0.7


class QuietNode:
    """See the module."""

    hangs = leaving = False

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.name = f"q{number}"
        self.identity = NodeIdentity(f"id-q{number:04d}", self.name)
        self.service_id = node_alias(self.name, self.identity.node_id)
        self.address = f"10.1.{number // 250}.{number % 250 + 1}"
        self.port = 8000
        self.alive = False
        self.epoch = 0
        self.token = self._held_token = "t0"
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

    @property
    def url(self) -> str:
        """Where it is now."""
        return f"http://{self.address}:{self.port}/mcp"

    def start(self) -> None:
        """Live, and be registered."""
        self.alive, self.epoch = True, self.epoch + 1
        self.world.settle(self)
        self.register()

    def register(self) -> None:
        """Register with the token that it knows, as its own registrar does when its entry is lost or the token new."""
        if self.alive:
            self._held_token = self.token
            if self._critical is not None:
                self._critical.cancel()
            self._tell(passing=True)

    def kill(self, ttl_s: float = 15.0) -> None:
        """Die without a word; the catalog notices when the time of its check is over."""
        self._end()
        self._critical = asyncio.get_running_loop().call_later(ttl_s, lambda: self._tell(passing=False))

    def leave(self) -> None:
        """Be deregistered, and end."""
        self._end()
        if self._is_known:
            self.world.consul.remove(self.service_id, "left")

    def move(self) -> None:
        """Die, and start at another address at once."""
        self._end()
        self.world.network.at.pop(self.url, None)
        self.port += 1
        self.start()

    def crash(self) -> None:
        """Die, and start again at once, at the same place."""
        if self.alive:
            self._end()
            self.start()

    def _end(self) -> None:
        self.alive = False
        self.world.rules.cause(self.identity.node_id)
        for client in list(self.clients):
            client.hear_reset()

    @property
    def _is_known(self) -> bool:
        """Whether the servers take the token of its registration; else it leaves a ghost."""
        return self._held_token not in self.world.consul.refused_tokens

    def _tell(self, *, passing: bool) -> None:
        if self._is_known:
            meta = {"node_id": self.identity.node_id, "name": self.name, "epoch": str(self.epoch)}
            entry = {"ID": self.service_id, "Name": "mcp-node", "Port": self.port, "Address": self.address}
            self.world.consul.put("agent-q", entry | {"Meta": meta}, passing=passing)

    def reached_by(self, name: str) -> None:
        """It keeps no links of its own."""

    async def serve(self, method: str, params: Json) -> Json:
        """Answer as a node's local endpoint does."""
        if method == "tools/list":
            return {"tools": self._tools}
        self.world.executed.setdefault(params["arguments"]["id"], []).append(self.name)
        return {"content": []}


def crowd_faults(world: "World", crowd: list[QuietNode]) -> list[Callable[[], str]]:
    """What may happen to many at once, or to one of many."""

    def many_end() -> str:
        word, chosen = world.rng.choice(("die", "leave", "move")), world.rng.sample(crowd, len(crowd) // 2)
        living = [one for one in chosen if one.alive]
        for one in living:
            {"die": one.kill, "leave": one.leave, "move": one.move}[word]()
        return f"{len(living)} of {len(crowd)} {word}"

    def all_start() -> str:
        for one in crowd:
            if not one.alive:
                one.start()
        return "all of the crowd start"

    def half_are_cut_off() -> str:
        heard = world.rng.random() < 0.5
        for one in crowd[: len(crowd) // 2]:
            for node in world.nodes:
                world.network.cut.add((node, one.name) if heard else (one.name, node))
        return f"half of the crowd {'hear nothing' if heard else 'cannot be heard'}"

    return [many_end, many_end, all_start, half_are_cut_off, partial(one_crashes, world, crowd)]


def one_crashes(world: "World", crowd: list[QuietNode]) -> str:
    """One starts, registers and dies, again and again."""
    one, loop = world.rng.choice(crowd), asyncio.get_running_loop()
    for number in range(CRASHES):
        loop.call_later(number * CRASH_EVERY_S, one.crash)
    return f"{one.name} starts, registers and dies {CRASHES} times"
