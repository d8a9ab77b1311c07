"""What one hop costs: an echo of a FastMCP server called directly, and through a node, in turn.

Batches alternate, so that both ways see the same machine; a figure is the median of the batches' ratios.
"""

import asyncio
import statistics
from functools import partial

from bench.figures import Figure, ratio
from bench.loads import in_turn, latency_s, rate
from bench.processes import echo_server, node
from bench.raw_client import RawClient

BATCHES = 15
CALLS = 60
CALLS_AT_ONCE = 240
TEXT = "sixteen bytes ok"


async def measure() -> list[Figure]:
    """Run the comparison at 1 and at 32 callers."""
    async with (
        echo_server() as direct_url,
        node("bench-hop", servers={"echo": {"url": direct_url}}, MESH_DISCOVERY="off") as base,
        RawClient(direct_url) as direct_client,
        RawClient(f"{base}/mcp") as hop_client,
    ):
        while "echo__echo" not in await hop_client.tool_names():
            await asyncio.sleep(0.05)
        direct = partial(direct_client.call, "echo", {"text": TEXT})
        hop = partial(hop_client.call, "echo__echo", {"text": TEXT})
        for way in (direct, hop):
            await latency_s(way, CALLS)
        times = await in_turn([direct, hop], partial(latency_s, calls=CALLS), BATCHES)
        rates = await in_turn([direct, hop], partial(rate, calls=CALLS_AT_ONCE), BATCHES)
    return [
        Figure("direct call, p50 at 1 caller", statistics.median(times[0]) * 1000, "ms"),
        Figure("call through one node, p50 at 1 caller", statistics.median(times[1]) * 1000, "ms"),
        ratio("one hop over a direct call, p50 at 1 caller", times[1], times[0]),
        ratio("direct calls over hop calls per second at 32 callers", rates[0], rates[1]),
    ]
