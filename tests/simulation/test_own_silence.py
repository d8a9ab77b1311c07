"""A node that stops hearing most others keeps its links, whose probes at rest are asked without a task."""

import asyncio

import pytest

from tests.simulation.runs import silent
from tests.simulation.virtual_time import run
from tests.simulation.world import World, world_of

OTHERS, UNHEARD = 20, 11
JOINED_S = 30.0
# Longer than a probe takes to be missed and its connection to be given up (docs/reliability.md), for links in any step.
DEAF_S = 25.0


@pytest.mark.parametrize("seed", range(0, 9, 3))
def test_no_link_ends_while_most_are_silent_at_once(seed: int) -> None:
    async def main() -> tuple[int, int]:
        world = world_of(seed, crowd=OTHERS)
        (node,) = world.nodes.values()
        async with asyncio.TaskGroup() as group:
            node.agent.keep_syncing()
            world.start(node, group)
            for one in world.crowd:
                one.start()
            await asyncio.sleep(JOINED_S)
            before = _connected(world)
            world.network.cut |= {(one.name, node.name) for one in world.crowd[:UNHEARD]}
            await asyncio.sleep(DEAF_S)
            after = _connected(world)
            node.agent.close()
            world.end(node, kindly=False)
        return before, after

    with silent():
        assert run(main()) == (OTHERS, OTHERS)


def _connected(world: World) -> int:
    (node,) = world.nodes.values()
    return sum(view.connected for view in node.mesh.peer_views())
