"""What joins and leaves, and the largest legal request, leave behind in a node's memory.

A round is 2,000 joins and as many leaves: the file that lists the peers names the one half of some stub nodes, then the
other one, which is new to the node in the first round. Peers that all come once, as an autoscaler's do, have a line of
their own. Linux only, where `/proc` tells it.
`tests/chaos/test_memory.py` measures joins and leaves, `tests/chaos/test_body_memory.py` bodies of all kinds.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from bench.figures import Figure
from bench.processes import canned_server, node_process, resident_bytes, stub_node_process, stub_nodes
from bench.raw_client import RawClient

JOINS, STUBS, ROUNDS = 2_000, 200, 3
GROWTH_GOAL_MB = 3.0
# Of 2,000 peers that are all different, for the ten minutes and the hour that they are remembered.
STRANGERS, STRANGERS_GOAL_MB = 2_000, 20.0
AT_A_TIME = 100
# Under the limit of a body (4 MiB) by more than the envelope takes.
BODY_BYTES = 4 * 2**20 - 4_096
BODY_GOAL_MB = 16.0
BODIES = 5


async def measure() -> list[Figure]:
    """All figures."""
    figures = [
        Figure(f"growth in round {number} of {JOINS:,} joins and leaves", mb, "MB", GROWTH_GOAL_MB)
        for number, mb in enumerate(await churned(), 1)
    ]
    what = f"growth by {STRANGERS:,} different peers that come and leave"
    figures.append(Figure(what, await passed_by(), "MB", STRANGERS_GOAL_MB))
    what = "the largest legal body: peak of memory above what the node held"
    return [*figures, Figure(what, max(await body_peaks()), "MB", BODY_GOAL_MB)]


async def churned(stubs: int = STUBS, rounds: int = ROUNDS, joins: int = JOINS) -> list[float]:
    """By how many MB the memory of a node grew in each round of so many joins and leaves, with so many stub nodes."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        listed = Path(folder, "peers.json")
        async with stub_nodes(stubs // 2, 0) as first, stub_nodes(stubs // 2, 0) as second:
            _list(listed, first)
            async with node_process("front", **_following(listed)) as (base, process_id):
                await _linked(base, first)
                held = [resident_bytes(process_id) / 2**20]
                for _ in range(rounds):
                    for _ in range(joins // stubs):
                        for half in (second, first):
                            _list(listed, half)
                            await _linked(base, half)
                    held.append(resident_bytes(process_id) / 2**20)
    return [after - before for before, after in itertools.pairwise(held)]


async def passed_by(peers: int = STRANGERS, at_a_time: int = AT_A_TIME) -> float:
    """By how many MB the memory of a node grew by so many peers that each came once and left, some at a time."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        listed = Path(folder, "peers.json")
        async with AsyncExitStack() as stubs, stub_nodes(at_a_time, 0) as first:
            _list(listed, first)
            async with node_process("front", **_following(listed)) as (base, process_id):
                await _linked(base, first)
                before = resident_bytes(process_id)
                for number in range(at_a_time, peers + 1, at_a_time):
                    # All of them are there until the end, so that no address comes twice.
                    some, _ = await stubs.enter_async_context(stub_node_process(at_a_time, 0, first=number))
                    _list(listed, some)
                    await _linked(base, some)
                _list(listed, first)
                await _linked(base, first)
                return (resident_bytes(process_id) - before) / 2**20


def _following(listed: Path) -> dict[str, str]:
    """The settings of a node that links what a file lists."""
    return {"MESH_DISCOVERY": "off", "MESH_PEER_FILES": str(listed), "MESH_LOG_LEVEL": "error"}


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


async def body_peaks(values: Iterable[Any] = ("x" * BODY_BYTES,) * BODIES) -> list[float]:
    """How far, in MB, the memory of a node rises, for each of some of the largest legal bodies.

    Above what it held before the first one. `values`: what they are made of, texts or any other values.
    """
    async with (
        canned_server() as url,
        node_process("front", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as (base, process_id),
        RawClient(f"{base}/mcp") as client,
    ):
        while "canned__echo" not in await client.tool_names():
            await asyncio.sleep(0.05)
        await client.call("canned__echo", {"text": "warm"})
        peaks, before = [], resident_bytes(process_id)
        for value in values:
            Path(f"/proc/{process_id}/clear_refs").write_text("5")  # The peak begins anew.
            await client.call("canned__echo", {"text": value})
            peaks.append((_peak_bytes(process_id) - before) / 2**20)
    return peaks


def _peak_bytes(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
