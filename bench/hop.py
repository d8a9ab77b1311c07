"""What one hop costs: an echo called directly, through a node, and through FastMCP's `create_proxy`, in turn.

Batches alternate, so that all ways see the same machine; a figure is the median of the batches' ratios. The proxy is
so much slower that its batches are shorter. Goal: a node does at least 100 times its calls.
"""

import asyncio
import statistics
from functools import partial

from bench.figures import Figure, median_of_ratios
from bench.loads import in_turn, latency_s, rate
from bench.processes import echo_server, node, proxy_server
from bench.raw_client import RawClient

BATCHES = 15
CALLS = 60
CALLS_AT_ONCE = 240
PROXY_BATCHES = 7
PROXY_CALLS = 16
PROXY_CALLERS = 8
# How many calls a node makes in a batch beside so many of the proxy, so that both take long enough to be measured.
FASTER = 50
TEXT = "sixteen bytes ok"


async def measure() -> list[Figure]:
    """Run the comparison at 1 and at 32 callers, and with the proxy at 1 and at 8."""
    async with (
        echo_server() as direct_url,
        proxy_server(direct_url) as proxy_url,
        node("bench-hop", servers={"echo": {"url": direct_url}}, MESH_DISCOVERY="off") as base,
        RawClient(direct_url) as direct_client,
        RawClient(f"{base}/mcp") as hop_client,
        RawClient(proxy_url) as proxy_client,
    ):
        while "echo__echo" not in await hop_client.tool_names():
            await asyncio.sleep(0.05)
        direct = partial(direct_client.call, "echo", {"text": TEXT})
        hop = partial(hop_client.call, "echo__echo", {"text": TEXT})
        proxy = partial(proxy_client.call, "echo", {"text": TEXT})
        for way in (direct, hop):
            await latency_s(way, CALLS)
        await latency_s(proxy, PROXY_CALLS)
        times = await in_turn([direct, hop], partial(latency_s, calls=CALLS), BATCHES)
        rates = await in_turn([direct, hop], partial(rate, calls=CALLS_AT_ONCE), BATCHES)
        alone: tuple[list[float], list[float]] = ([], [])
        crowd: tuple[list[float], list[float]] = ([], [])
        for _ in range(PROXY_BATCHES):
            for way, (one, more), calls in (
                (hop, (alone[0], crowd[0]), PROXY_CALLS * FASTER),
                (proxy, (alone[1], crowd[1]), PROXY_CALLS),
            ):
                one.append(await rate(way, calls, 1))
                more.append(await rate(way, calls, PROXY_CALLERS))
    return [
        Figure("direct call, p50 at 1 caller", statistics.median(times[0]) * 1000, "ms"),
        Figure("call through one node, p50 at 1 caller", statistics.median(times[1]) * 1000, "ms"),
        Figure("one hop over a direct call, p50 at 1 caller", median_of_ratios(times[1], times[0]), "x"),
        Figure("direct calls over hop calls per second at 32 callers", median_of_ratios(rates[0], rates[1]), "x"),
        Figure(
            "node's calls/s over create_proxy's at 1 caller", median_of_ratios(*alone), "x", 100, more_is_better=True
        ),
        Figure(
            "node's calls/s over create_proxy's at 8 callers", median_of_ratios(*crowd), "x", 100, more_is_better=True
        ),
    ]
