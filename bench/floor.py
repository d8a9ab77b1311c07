"""What a node's hop costs over the least that a hop can cost, to the same canned server, in turn.

Goals: p50 at one caller at most 1.3 times the byte hop's; at 32 callers, and with 64 KiB, at least 0.75 of its calls a
second (so its rate over ours at most 1.33).
"""

import asyncio
import statistics
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from bench.figures import Figure, ratio
from bench.loads import in_turn, latency_s, rate
from bench.processes import byte_hop, canned_server, node
from bench.raw_client import RawClient

BATCHES = 9
CALLS = 200
CALLS_AT_ONCE = 600
SMALL = "sixteen bytes ok"
LARGE = "x" * 65_536
RATE_GOAL = 1 / 0.75


async def measure() -> list[Figure]:
    """Compare the two hops."""
    async with _ways() as clients:
        small = [partial(client.call, name, {"text": SMALL}) for client, name in clients]
        large = [partial(client.call, name, {"text": LARGE}) for client, name in clients]
        for way in small:
            await latency_s(way, CALLS)
        times = await in_turn(small, partial(latency_s, calls=CALLS), BATCHES)
        rates = await in_turn(small, partial(rate, calls=CALLS_AT_ONCE), BATCHES)
        large_rates = await in_turn(large, partial(rate, calls=CALLS_AT_ONCE), BATCHES)
    return [
        Figure("byte hop, p50 at 1 caller", statistics.median(times[0]) * 1000, "ms"),
        Figure("node's hop, p50 at 1 caller", statistics.median(times[1]) * 1000, "ms"),
        ratio("node's hop over byte hop, p50 at 1 caller", times[1], times[0], 1.3),
        ratio("byte hop's calls/s over node's at 32 callers", rates[0], rates[1], RATE_GOAL),
        ratio("byte hop's calls/s over node's, 64 KiB", *large_rates, RATE_GOAL),
    ]


@asynccontextmanager
async def _ways() -> AsyncGenerator[list[tuple[RawClient, str]], None]:
    async with (
        canned_server() as url,
        byte_hop(url) as hop_url,
        node("floor", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as base,
        RawClient(hop_url) as least,
        RawClient(f"{base}/mcp") as ours,
    ):
        while "canned__echo" not in await ours.tool_names():
            await asyncio.sleep(0.05)
        yield [(least, "echo"), (ours, "canned__echo")]
