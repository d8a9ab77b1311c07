"""A snapshot from before all registrations is restored while every wait sleeps: what it costs with the waits of a node.

Real watches and registrars over the simulated Consul, whose own sync is left out. The one rule: one wait of 25 s, and
no peer.
"""

import asyncio
import random
from typing import TYPE_CHECKING, cast

import pytest

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
# The second answer without ourselves, after which we register again; and the requests themselves.
MORE_S = 1.0


class Node:
    """One node's discovery. `shown`: how many instances each catalog had."""

    def __init__(self, consul: Consul, name: str) -> None:
        self.agent = Agent(consul, f"agent-{name}")
        client = cast("ConsulClient", self.agent)
        self.registrar = ConsulRegistrar(client, Registration(name, "mcp-node", 8000, meta={"node_id": f"id-{name}"}))
        self.watch = ConsulWatch(client, "mcp-node", own=self.registrar)
        self.shown: list[int] = []

    async def follow(self) -> None:
        async for catalog in self.watch.watch():
            self.shown.append(len(catalog.instances))


@pytest.mark.parametrize("seed", range(20))
def test_a_restored_snapshot_costs_one_wait_of_the_usual_length_and_no_peer(seed: int) -> None:
    async def main() -> None:
        loop, rng = asyncio.get_running_loop(), random.Random(seed)
        consul = Consul(rng)
        nodes = [Node(consul, name) for name in NAMES]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for node in nodes for part in (node.registrar.keep(), node.follow())]
            await asyncio.sleep(rng.uniform(30.0, 80.0))
            assert all(node.shown[-1] == len(NAMES) for node in nodes)
            consul.restore(back=len(consul.history))
            restored_at_s = loop.time()
            assert consul.entries == {}
            while len(consul.entries) < len(NAMES):
                await asyncio.sleep(0.1)
                assert loop.time() - restored_at_s <= WAIT_S + MORE_S
            await asyncio.sleep(2 * WAIT_S)
            for task in tasks:
                task.cancel()
        for node in nodes:
            assert set(node.shown[node.shown.index(len(NAMES)) :]) == {len(NAMES)}
            assert node.watch.status.up
            node.agent.close()

    with silent():
        run(main())
