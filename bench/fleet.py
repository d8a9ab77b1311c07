"""What asking a whole fleet costs: one call of a tool of 1 ms on twenty nodes, through a node that has none of them.

The goal is for the node that asks, of twenty that cost next to nothing (`bench.stub_nodes`): those of a fleet are
machines of their own. Twenty real nodes beside, all on this machine, show what that makes of it.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

from bench.figures import Figure, percentile
from bench.processes import canned_server, cpu_s, node, node_process, stub_nodes
from bench.raw_client import RawClient

NODES = 20
CALLS = 200
WARM_CALLS = 20
TOOL_MS = 1
TOOL = "echo__echo"


async def measure() -> list[Figure]:
    """Ask one node, and all of them."""
    async with AsyncExitStack() as stack:
        stubs = await _measured(await stack.enter_async_context(stub_nodes(NODES, TOOL_MS)))
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(canned_server(delay_ms=TOOL_MS))
        servers = {"echo": {"url": url, "mesh": {"scope": "fleet"}}}
        real = [
            await stack.enter_async_context(node(f"n{number}", servers=servers, MESH_DISCOVERY="off"))
            for number in range(NODES)
        ]
        processes = await _measured([f"{base}/mcp" for base in real])
    one_ms, every_ms, used_ms, entries = stubs
    return [
        Figure(f"a tool of {TOOL_MS} ms on one node of a fleet, p50", percentile(one_ms, 0.5), "ms"),
        Figure(f"a tool of {TOOL_MS} ms on all of {NODES} nodes, p50", percentile(every_ms, 0.5), "ms", 30),
        Figure(f"a tool of {TOOL_MS} ms on all of {NODES} nodes, p99", percentile(every_ms, 0.99), "ms"),
        Figure(f"processor time of the node that asks all {NODES}", used_ms, "ms"),
        Figure(f"entries in the list of tools for one tool on {NODES} nodes", entries, "", 1),
        Figure(f"the same on {NODES} real nodes on this machine, p50", percentile(processes[1], 0.5), "ms"),
    ]


async def _measured(urls: list[str]) -> tuple[list[float], list[float], float, int]:
    """Milliseconds of calls of one node and of all; processor time of each of those; entries in the list of tools."""
    peers = ",".join(f"n{number}={url}" for number, url in enumerate(urls))
    settings = {"MESH_DISCOVERY": "off", "MESH_PEERS": peers, "MESH_FLEET_WRITES": TOOL}
    async with node_process("front", **settings) as (front, front_id), RawClient(f"{front}/mcp") as client:
        while await _nodes(client) < len(urls):
            await asyncio.sleep(0.1)
        listed = [name for name in await client.tool_names() if "echo" in name]
        one = await _times_ms(client, "n0")
        before_s = cpu_s(front_id)
        every = await _times_ms(client, "all")
        return one, every, (cpu_s(front_id) - before_s) * 1000 / (CALLS + WARM_CALLS), len(listed)


async def _nodes(client: RawClient) -> int:
    tools = (await client.request("tools/list"))["tools"]
    return max((tool.get("_meta", {}).get("mesh-agent/origin", {}).get("nodes", 0) for tool in tools), default=0)


async def _times_ms(client: RawClient, named: str) -> list[float]:
    call = partial(client.call, TOOL, {"node": named, "text": "sixteen bytes ok"})
    rows = 0
    samples = []
    for number in range(CALLS + WARM_CALLS):
        started_s = time.perf_counter()
        result = await call()
        if number >= WARM_CALLS:  # The first ones open connections.
            samples.append((time.perf_counter() - started_s) * 1000)
        rows = len(result.get("structuredContent", {}).get("results", [1]))
    assert rows == (NODES if named == "all" else 1), rows
    return samples
