"""What it costs a node's event loop when thousands of links go down at once, or come up: the longest piece of work.

The mesh with its selection and route tables is a node's own, and so is its loop of steps; links neither dial nor are
called, they change when they are asked to. Run by `bench.scale`, and by a test that holds the limit, as
`python -m bench.crowd_change LINKS ROUNDS`; prints costs by what happened. The one rule: processor time of the loop's
own thread counts, which other work of the machine changes little. What memory costs it changes a lot: after a rest, the
first look at what all links list took ten times as long in one hour as in the next, and so did each of these. So a look
is measured as well.
"""

import asyncio
import sys
import time
from dataclasses import asdict

import orjson

from agent.control.reconciler import Mesh
from agent.late import settle_memory
from agent.model import LinkState, NodeIdentity, Offer, ServerScope
from bench.catalog_change import Cost, MeasuredLoop
from bench.link_change import TOOLS, offer_of, still_mesh

# What follows of a step is over by then.
BETWEEN_S = 1.5
LOOK_EVERY_S = 0.05
DOWN, UP, RESYNC, LOOK = "down", "up", "resync", "look"


async def costs_of_crowds(links: int, rounds: int) -> dict[str, list[Cost]]:
    """The costs of all of so many links going down at once, coming up at once, of a resync, and of a look.

    By these names; one after the other, so often, in a process of its own.
    """
    command = [sys.executable, "-m", __name__, str(links), str(rounds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    written, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"measuring crowds exited with {process.returncode}")
    return {name: [Cost(**cost) for cost in costs] for name, costs in orjson.loads(written).items()}


def main() -> None:
    """See the module."""
    links, rounds = map(int, sys.argv[1:])
    loop = MeasuredLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        found = runner.run(_measured(loop, links, rounds))
    shown = {name: [asdict(cost) for cost in costs] for name, costs in found.items()}
    sys.stdout.write(orjson.dumps(shown).decode())


async def _measured(loop: MeasuredLoop, links: int, rounds: int) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {DOWN: [], UP: [], RESYNC: [], LOOK: []}
    async with still_mesh(links, ServerScope.NODE) as (mesh, link), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(mesh.run(), name="measured")
        await mesh.settled()
        await asyncio.sleep(BETWEEN_S)
        settle_memory()  # As a node does.
        listed = len(mesh.routes.tools)
        for _ in range(rounds):
            offers = [_offer(number) for number in range(links)]  # New objects, as they are listed anew.
            for number in range(links):
                link(f"peer:n{number}").change(state=LinkState.BACKOFF, failure="Unreachable")
            found[DOWN].append(await _cost_until(loop, mesh, 0))
            for number, offer in enumerate(offers):
                link(f"peer:n{number}").change(state=LinkState.READY, failure="", offer=offer)
            found[UP].append(await _cost_until(loop, mesh, listed))
            loop.cost_and_forget()
            await mesh.settled()
            await asyncio.sleep(0)  # The turn in which it has settled.
            found[RESYNC].append(loop.cost_and_forget())
            await asyncio.sleep(BETWEEN_S)  # As before each of the others.
            found[LOOK].append(_cost_of_look(mesh))
        running.cancel()
    return found


def _cost_of_look(mesh: Mesh) -> Cost:
    """What it takes to read the names of all that the links list: the least that looking at all of them can cost."""
    began_s = time.thread_time()
    assert all(tool["name"] for view in mesh.peer_views() for tool in view.offer.tools)
    took_s = time.thread_time() - began_s
    return Cost(took_s, took_s)


def _offer(number: int) -> Offer:
    return offer_of(NodeIdentity(f"{number:08x}-0000", f"n{number}"), ServerScope.NODE, TOOLS)


async def _cost_until(loop: MeasuredLoop, mesh: Mesh, tools: int) -> Cost:
    """The cost of what follows of what this turn has done, until so many tools are listed and all is at rest."""
    await asyncio.sleep(0)  # This turn is none of it.
    loop.cost_and_forget()
    while len(mesh.routes.tools) != tools:
        await asyncio.sleep(LOOK_EVERY_S)
    await asyncio.sleep(BETWEEN_S)  # The rest after so long a step, too.
    return loop.cost_and_forget()


if __name__ == "__main__":
    main()
