"""What one hop costs: an echo called directly, and the same echo through a node, in turn.

Batches alternate, so that both ways see the same machine; the figure is the median of the batches' ratios.
"""

import asyncio
import statistics
import time

from bench.figures import Figure, median_of_ratios
from bench.processes import echo_server, node
from bench.raw_client import RawClient

BATCHES = 15
CALLS = 60
CALLERS = 32
TEXT = "sixteen bytes ok"


async def measure() -> list[Figure]:
    """Run the comparison at 1 and at 32 callers."""
    async with (
        echo_server() as direct_url,
        node("bench-hop", servers={"echo": {"url": direct_url}}, MESH_DISCOVERY="off") as base,
        RawClient(direct_url) as direct,
        RawClient(f"{base}/mcp") as hop,
    ):
        while "echo__echo" not in await hop.tool_names():
            await asyncio.sleep(0.05)
        ways = ((direct, "echo"), (hop, "echo__echo"))
        for client, name in ways:
            await _sequential(client, name)
        medians: tuple[list[float], list[float]] = ([], [])
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(BATCHES):
            for way, (client, name) in enumerate(ways):
                medians[way].append(await _sequential(client, name))
                rates[way].append(await _concurrent(client, name))
    return [
        Figure("direct call, p50 at 1 caller", statistics.median(medians[0]) * 1000, "ms"),
        Figure("call through one node, p50 at 1 caller", statistics.median(medians[1]) * 1000, "ms"),
        Figure("one hop over a direct call, p50 at 1 caller", median_of_ratios(medians[1], medians[0]), "x"),
        Figure("direct calls over hop calls per second at 32 callers", median_of_ratios(rates[0], rates[1]), "x"),
    ]


async def _sequential(client: RawClient, name: str) -> float:
    samples = []
    for _ in range(CALLS):
        started_s = time.perf_counter()
        await client.call(name, {"text": TEXT})
        samples.append(time.perf_counter() - started_s)
    return statistics.median(samples)


async def _concurrent(client: RawClient, name: str) -> float:
    """Calls per second."""
    left = iter(range(CALLS * 4))

    async def caller() -> None:
        for _ in left:
            await client.call(name, {"text": TEXT})

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(), name=f"caller {number}")
    return CALLS * 4 / (time.perf_counter() - started_s)
