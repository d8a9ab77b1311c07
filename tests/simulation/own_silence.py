"""A node stops hearing most of twenty others, which answer as ever: the links that it has before and afterwards.

One whole node over the simulated network, with a crowd. The one rule: packets of the others are lost, and nothing else.
"""

import asyncio

from tests.simulation.runs import silent
from tests.simulation.virtual_time import run
from tests.simulation.world import world_of

OTHERS, UNHEARD = 20, 11
JOINED_S = 30.0
# Longer than a probe takes to be missed and its connection to be given up (docs/reliability.md), for links in any step.
DEAF_S = 25.0
ALONE = 3  # Every third seed has one whole node in its crowd.


def deaf(number: int) -> tuple[int, int]:
    """One run: how many links are up before, and after `DEAF_S` of it."""

    async def main() -> tuple[int, int]:
        world = world_of(ALONE * number, crowd=OTHERS)
        (node,) = world.nodes.values()

        def up() -> int:
            return sum(view.connected for view in node.mesh.peer_views())

        async with asyncio.TaskGroup() as group:
            node.agent.keep_syncing()
            world.start(node, group)
            for one in world.crowd:
                one.start()
            await asyncio.sleep(JOINED_S)
            before = up()
            world.network.cut |= {(one.name, node.name) for one in world.crowd[:UNHEARD]}
            await asyncio.sleep(DEAF_S)
            after = up()
            node.agent.close()
            world.end(node, kindly=False)
        return before, after

    with silent():
        return run(main())
