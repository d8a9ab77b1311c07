"""A snapshot from before all registrations is restored while every wait sleeps, with the waits of a node.

Real watches and registrars over the simulated Consul, whose own sync is left out. The one rule: one wait of 25 s, and
no peer.
"""

import asyncio
import random
from typing import TYPE_CHECKING, cast

from discovery.consul.environment import WAIT_S
from discovery.consul.registration import ConsulRegistrar
from discovery.consul.watch import ConsulWatch
from discovery.model import Registration
from tests.simulation.lying_catalog import Agent, Consul
from tests.simulation.runs import silent
from tests.simulation.virtual_time import run

if TYPE_CHECKING:
    from discovery.consul.client import ConsulClient

NAMES = ("one", "two", "three")


class Node:
    """One node's discovery. `shown`: how many instances each catalog had."""

    def __init__(self, consul: Consul, name: str) -> None:
        self.agent = Agent(consul, f"agent-{name}")
        client = cast("ConsulClient", self.agent)
        self.registrar = ConsulRegistrar(client, Registration(name, "mcp-node", 8000, meta={"node_id": f"id-{name}"}))
        self.watch = ConsulWatch(client, "mcp-node", own=self.registrar, answers=lambda _one: True)
        self.shown: list[int] = []

    async def follow(self) -> None:
        """Note each catalog."""
        async for catalog in self.watch.watch():
            self.shown.append(len(catalog.instances))


def restored(seed: int) -> tuple[float, set[int], bool]:
    """One run: seconds until all are in the catalog again, how many each saw meanwhile, whether all trust it then."""

    async def main() -> tuple[float, set[int], bool]:
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        consul = Consul(rng)
        nodes = [Node(consul, name) for name in NAMES]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for node in nodes for part in (node.registrar.keep(), node.follow())]
            await asyncio.sleep(rng.uniform(30.0, 80.0))
            before = [len(node.shown) - 1 for node in nodes]
            back = asyncio.Event()
            consul.news = lambda *_: back.set() if len(consul.entries) == len(NAMES) else back.clear()
            consul.restore(back=len(consul.history))
            restored_at_s = loop.time()
            async with asyncio.timeout(10 * WAIT_S):
                await back.wait()
            took_s = loop.time() - restored_at_s
            await asyncio.sleep(2 * WAIT_S)
            for task in tasks:
                task.cancel()
        for node in nodes:
            node.agent.close()
        seen = {count for node, index in zip(nodes, before, strict=True) for count in node.shown[index:]}
        return took_s, seen, all(node.watch.status.up for node in nodes)

    with silent():
        return run(main())
