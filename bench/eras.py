"""What a client of 2025-11-25 pays over one of 2026-07-28 for the same call through the same node, in turn.

Both clients are our own and equally bare, so that the difference is the node's.
"""

import asyncio
import statistics
from functools import partial

from bench.figures import Figure, ratio
from bench.loads import in_turn, latency_s, rate
from bench.processes import canned_server, node
from bench.raw_client import RawClient
from bench.raw_legacy_client import RawLegacyClient

BATCHES = 9
CALLS = 150
CALLS_AT_ONCE = 400
TEXT = "sixteen bytes ok"
GOAL = 1.5


async def measure() -> list[Figure]:
    """Compare the two fronts."""
    async with (
        canned_server() as url,
        node("eras", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as base,
        RawClient(f"{base}/mcp") as modern,
    ):
        while "canned__echo" not in await modern.tool_names():
            await asyncio.sleep(0.05)
        async with RawLegacyClient(f"{base}/mcp") as legacy:
            ways = [partial(client.call, "canned__echo", {"text": TEXT}) for client in (modern, legacy)]
            for way in ways:
                await latency_s(way, CALLS)
            times = await in_turn(ways, partial(latency_s, calls=CALLS), BATCHES)
            rates = await in_turn(ways, partial(rate, calls=CALLS_AT_ONCE), BATCHES)
    return [
        Figure("modern front, p50 at 1 caller", statistics.median(times[0]) * 1000, "ms"),
        Figure("legacy front, p50 at 1 caller", statistics.median(times[1]) * 1000, "ms"),
        ratio("legacy front over modern front, p50 at 1 caller", times[1], times[0], GOAL),
        ratio("modern calls/s over legacy calls/s at 32 callers", *rates, GOAL),
    ]
