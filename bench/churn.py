"""What joins and leaves leave behind in a node's memory.

A round is 2,000 joins and as many leaves: the file that lists the peers names the one half of some stub nodes, then the
other one. The first round fills the node's caches and has a line of its own. Linux only, where `/proc` tells it.
`tests/chaos/test_memory.py` measures the same.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import orjson

from bench.figures import Figure
from bench.processes import node_process, resident_bytes, stub_nodes

JOINS, STUBS, ROUNDS = 2_000, 200, 3
GROWTH_GOAL_MB = 3.0


async def measure() -> list[Figure]:
    """The growth in each round."""
    first, *grown = await churned()
    figures = [Figure(f"growth in round 1 of {JOINS:,} joins and leaves, which fills caches", first, "MB")]
    return figures + [
        Figure(f"growth in round {number} of {JOINS:,} joins and leaves", mb, "MB", GROWTH_GOAL_MB)
        for number, mb in enumerate(grown, 2)
    ]


async def churned(stubs: int = STUBS, rounds: int = ROUNDS, joins: int = JOINS) -> list[float]:
    """By how many MB the memory of a node grew in each round of so many joins and leaves, with so many stub nodes."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        listed = Path(folder, "peers.json")
        async with stub_nodes(stubs // 2, 0) as first, stub_nodes(stubs // 2, 0) as second:
            _list(listed, first)
            settings = {"MESH_DISCOVERY": "off", "MESH_PEER_FILES": str(listed), "MESH_LOG_LEVEL": "error"}
            async with node_process("front", **settings) as (base, process_id):
                await _linked(base, first)
                held = [resident_bytes(process_id) / 2**20]
                for _ in range(rounds):
                    for _ in range(joins // stubs):
                        for half in (second, first):
                            _list(listed, half)
                            await _linked(base, half)
                    held.append(resident_bytes(process_id) / 2**20)
    return [after - before for before, after in itertools.pairwise(held)]


def _list(path: Path, urls: Sequence[str]) -> None:
    targets = [url.removeprefix("http://").removesuffix("/mcp") for url in urls]
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps([{"targets": targets, "labels": {}}]))
    new.replace(path)


async def _linked(base: str, urls: Sequence[str]) -> None:
    """Wait until these are linked, and no others are known."""
    wanted = dict.fromkeys(urls, True)
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{base}/api/v1/mcp/peers") as response:
                peers = orjson.loads(await response.read())["data"]["peers"]
            if {peer["url"]: peer["connected"] for peer in peers} == wanted:
                return
            await asyncio.sleep(0.2)
