"""What joins and leaves, and the largest legal request, leave behind in a node's memory.

A round is 2,000 joins and as many leaves: the file that lists the peers names the one half of 200 stub nodes, then the
other one. The first two rounds warm the node up. Linux only, where `/proc` tells it.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from bench.figures import Figure
from bench.processes import canned_server, node_process, resident_bytes, stub_nodes
from bench.raw_client import RawClient
from bench.scale import metric

STUBS, SWAPS, ROUNDS = 200, 20, 4
# Until then the allocator has seen the most links that there are at a time: those that leave, and those that join.
WARM_ROUNDS = 2
GROWTH_GOAL_MB = 3.0
# Under the limit of a body (4 MiB) by more than the envelope takes.
BODY_BYTES = 4 * 2**20 - 4_096
BODY_GOAL_MB = 16.0
BODIES = 5


async def measure() -> list[Figure]:
    """Both figures."""
    return [*await _churn(), *await _body()]


async def _churn() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        listed = Path(folder, "peers.json")
        async with stub_nodes(STUBS // 2, 0) as first, stub_nodes(STUBS // 2, 0) as second:
            _list(listed, first)
            settings = {"MESH_DISCOVERY": "off", "MESH_PEER_FILES": str(listed), "MESH_LOG_LEVEL": "error"}
            async with node_process("front", **settings) as (base, process_id):
                held = []
                for _ in range(ROUNDS):
                    for _ in range(SWAPS // 2):
                        for half in (second, first):
                            _list(listed, half)
                            await _linked(base, half)
                    held.append(resident_bytes(process_id) / 2**20)
    grown = [after - before for before, after in itertools.pairwise(held)]
    joins = SWAPS * STUBS // 2
    return [
        Figure(f"growth in round {number} of {joins:,} joins and leaves", mb, "MB", GROWTH_GOAL_MB)
        for number, mb in enumerate(grown[WARM_ROUNDS - 1 :], WARM_ROUNDS + 1)
    ]


def _list(path: Path, urls: Sequence[str]) -> None:
    targets = [url.removeprefix("http://").removesuffix("/mcp") for url in urls]
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps([{"targets": targets, "labels": {}}]))
    new.replace(path)


async def _linked(base: str, urls: Sequence[str]) -> None:
    """Wait until these are linked, and no others are known."""
    ports = {url.rpartition(":")[2].partition("/")[0] for url in urls}
    async with asyncio.timeout(60):
        while True:
            peers = await metric(base, "mesh_peer_up", within=ports)
            if peers == (len(urls), len(urls)):
                return
            await asyncio.sleep(0.2)


async def _body() -> list[Figure]:
    async with (
        canned_server() as url,
        node_process("front", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as (base, process_id),
        RawClient(f"{base}/mcp") as client,
    ):
        while "canned__echo" not in await client.tool_names():
            await asyncio.sleep(0.05)
        await client.call("canned__echo", {"text": "warm"})
        peaks = []
        for _ in range(BODIES):
            before = resident_bytes(process_id)
            Path(f"/proc/{process_id}/clear_refs").write_text("5")  # The peak begins anew.
            await client.call("canned__echo", {"text": "x" * BODY_BYTES})
            peaks.append((_peak_bytes(process_id) - before) / 2**20)
    return [Figure("the largest legal body: peak of memory above what the node held", max(peaks), "MB", BODY_GOAL_MB)]


def _peak_bytes(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
