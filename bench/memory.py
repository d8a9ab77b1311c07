"""What memory a node needs: for each idle link, and whether calls leave anything behind.

A link is idle, not asleep: its stream of list changes is open and it is probed. Each figure is a median of five nodes.
Resident memory is read from the kernel, so that it holds what no Python tool sees. Linux only, where `/proc` says it.
"""

import asyncio
import statistics
import sys
from functools import partial

from bench.figures import Figure
from bench.loads import rate
from bench.processes import canned_server, canned_servers, node_process, resident_bytes
from bench.raw_client import RawClient

LINKS = 200
RUNS = 5
LINK_GOAL_KB = 50
# Links list again and probe while they settle; what is left after two rounds of probes (5 s, +-20%) is idle.
SETTLE_S = 12.0
FEW_CALLS = 20_000
MANY_CALLS = 100_000
# Resident memory comes in pages and arenas; two percent of a node is about 2 MB, 20 bytes a call.
GROWTH_GOAL = 1.02


async def measure() -> list[Figure]:
    """Both figures; none where the kernel does not tell."""
    if sys.platform != "linux":
        print("memory is not measured: /proc tells it on Linux only", file=sys.stderr)
        return []
    return [*await _links(), *await _growth()]


async def _links() -> list[Figure]:
    bare: list[int] = []
    linked: list[int] = []
    async with canned_servers(LINKS) as urls:
        for _ in range(RUNS):
            # Side by side, so that both had the same time to settle.
            async with asyncio.TaskGroup() as group:
                without = group.create_task(_settled(urls[:0]), name="without links")
                with_links = group.create_task(_settled(urls), name="with links")
            bare.append(without.result())
            linked.append(with_links.result())
    per_link = [(b - a) / LINKS / 1024 for a, b in zip(bare, linked, strict=True)]
    return [
        Figure("a node without links", statistics.median(bare) / 1024, "KB"),
        Figure(f"one of {LINKS} idle links", statistics.median(per_link), "KB", LINK_GOAL_KB),
        # How far apart they are says what one of them is worth.
        Figure(f"the same, lowest of {RUNS} nodes", min(per_link), "KB"),
        Figure(f"the same, highest of {RUNS} nodes", max(per_link), "KB"),
    ]


async def _settled(urls: list[str]) -> int:
    """Resident bytes of a node with links to these, once they are idle."""
    servers = {f"s{number}": {"url": url} for number, url in enumerate(urls)}
    name = f"idle-{len(urls)}"
    async with (
        node_process(name, servers=servers, MESH_DISCOVERY="off") as (base, process_id),
        RawClient(f"{base}/mcp") as client,
    ):
        wanted = {f"s{number}__echo" for number in range(len(urls))}
        while not wanted <= await client.tool_names():
            await asyncio.sleep(0.2)
        await asyncio.sleep(SETTLE_S)
        return resident_bytes(process_id)


async def _growth() -> list[Figure]:
    grown = [await _before_and_after() for _ in range(RUNS)]
    return [
        Figure("a node after 20,000 calls", statistics.median(few for few, _ in grown) / 1024, "KB"),
        Figure(
            "memory after 100,000 calls over after 20,000",
            statistics.median(many / few for few, many in grown),
            "x",
            GROWTH_GOAL,
        ),
    ]


async def _before_and_after() -> tuple[int, int]:
    """Resident bytes of one node after some calls, and after many."""
    async with (
        canned_server() as url,
        node_process("steady", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as (base, process_id),
        RawClient(f"{base}/mcp") as client,
    ):
        while "canned__echo" not in await client.tool_names():
            await asyncio.sleep(0.05)
        way = partial(client.call, "canned__echo", {"text": "sixteen bytes ok"})
        await rate(way, FEW_CALLS)
        few = resident_bytes(process_id)
        await rate(way, MANY_CALLS - FEW_CALLS)
        return few, resident_bytes(process_id)
