"""What a call at `/mcp/s/NAME` costs over the same call at `/mcp` of the same node, in turn, with other servers beside.

The goal is that a client which sees one server as itself pays nothing for it; noise of the machine is some percent.
"""

import asyncio
import statistics
from functools import partial

from bench.figures import Figure, ratio
from bench.loads import Upstream, in_turn, latency_s, rate
from bench.processes import canned_servers, cpu_s, node_process
from bench.raw_client import RawClient

SERVERS = 20
BATCHES = 15
CALLS = 200
CALLS_AT_ONCE = 800
TEXT = "sixteen bytes ok"
GOAL = 1.05


async def measure() -> list[Figure]:
    """Compare the two: times, rates, and the node's processor time for each call."""
    async with canned_servers(SERVERS) as urls:
        servers = {f"echo{number}": {"url": url} for number, url in enumerate(urls)}
        async with (
            node_process("single", servers=servers, MESH_DISCOVERY="off") as (base, process_id),
            RawClient(f"{base}/mcp") as whole,
            RawClient(f"{base}/mcp/s/echo7") as single,
        ):
            while sum(name.endswith("__echo") for name in await whole.tool_names()) < SERVERS:
                await asyncio.sleep(0.05)
            ways = [
                partial(whole.call, "echo7__echo", {"text": TEXT}),
                partial(single.call, "echo", {"text": TEXT}),
            ]
            for way in ways:
                await latency_s(way, CALLS)
            times = await in_turn(ways, partial(latency_s, calls=CALLS), BATCHES)
            rates = await in_turn(ways, partial(rate, calls=CALLS_AT_ONCE), BATCHES)

            async def used_s(way: Upstream) -> float:
                before_s = cpu_s(process_id)
                await rate(way, CALLS_AT_ONCE)
                return cpu_s(process_id) - before_s

            used = await in_turn(ways, used_s, BATCHES)
    return [
        Figure("a call at /mcp of 20 servers, p50 at 1 caller", statistics.median(times[0]) * 1000, "ms"),
        ratio("/mcp/s/NAME over /mcp, p50 at 1 caller", times[1], times[0], GOAL),
        ratio("/mcp calls/s over /mcp/s/NAME calls/s at 32 callers", *rates, GOAL),
        ratio("/mcp/s/NAME over /mcp, the node's processor time", used[1], used[0], GOAL),
    ]
