"""A node's calls a second over those of FastMCP's `create_proxy`, in front of one and the same server, in turn.

The server answers from canned parts, so that what stands in front of it is measured. The proxy is so much slower that
its batches have fewer calls. Goal: with 32 callers a node does at least 100 times its calls.
"""

import asyncio
import statistics
from collections.abc import Sequence
from functools import partial

from bench.figures import Figure, ratio
from bench.loads import CALLERS, Upstream, latency_s, rate
from bench.processes import canned_server, node, proxy_server
from bench.raw_client import RawClient

BATCHES = 5
PROXY_CALLS = 32
# A node makes so many times the proxy's calls in a batch, so that both take long enough to be measured.
NODE_CALLS = PROXY_CALLS * 50
GOAL = 100
TEXT = "sixteen bytes ok"


async def measure() -> list[Figure]:
    """Compare at one caller and at 32."""
    async with (
        canned_server() as url,
        proxy_server(url) as proxy_url,
        node("beside-proxy", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as base,
        RawClient(f"{base}/mcp") as hop_client,
        RawClient(proxy_url) as proxy_client,
    ):
        while "canned__echo" not in await hop_client.tool_names():
            await asyncio.sleep(0.05)
        ways = (
            (partial(hop_client.call, "canned__echo", {"text": TEXT}), NODE_CALLS),
            (partial(proxy_client.call, "echo", {"text": TEXT}), PROXY_CALLS),
        )
        for way, calls in ways:
            await latency_s(way, calls)
        alone = await _in_turn(ways, 1)
        crowd = await _in_turn(ways, CALLERS)
    return [
        Figure("create_proxy, calls/s at 1 caller", statistics.median(alone[1]), "/s"),
        # One caller waits for three processes in turn, so this compares latencies; throughput is what many get.
        ratio("node's calls/s over create_proxy's, 1 caller", *alone, more_is_better=True),
        ratio("node's calls/s over create_proxy's, 32 callers", *crowd, GOAL, more_is_better=True),
    ]


async def _in_turn(ways: Sequence[tuple[Upstream, int]], callers: int) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in ways]
    for _ in range(BATCHES):
        for (way, calls), taken in zip(ways, samples, strict=True):
            taken.append(await rate(way, calls, callers))
    return samples
