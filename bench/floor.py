"""What a node's hop costs over the least that a hop can cost, to the same canned server, in turn.

Goals: p50 at one caller at most 1.3 times the byte hop's; at 32 callers, and with 64 KiB, at least 0.75 of its calls a
second (so its rate over ours at most 1.33).
"""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.figures import Figure, median_of_ratios
from bench.processes import byte_hop, canned_server, node
from bench.raw_client import RawClient

BATCHES = 9
CALLS = 200
CALLERS = 32
SMALL = "sixteen bytes ok"
LARGE = "x" * 65_536
RATE_GOAL = 1 / 0.75

Measured = Callable[[RawClient, str, str], Awaitable[float]]


async def measure() -> list[Figure]:
    """Compare the two hops."""
    async with _ways() as ways:
        for client, name in ways:
            await _sequential(client, name, SMALL)
        latency = await _compare(ways, _sequential, SMALL)
        rate = await _compare(ways, _concurrent, SMALL)
        large = await _compare(ways, _concurrent, LARGE)
    return [
        Figure("byte hop, p50 at 1 caller", statistics.median(latency[0]) * 1000, "ms"),
        Figure("node's hop, p50 at 1 caller", statistics.median(latency[1]) * 1000, "ms"),
        Figure("node's hop over byte hop, p50 at 1 caller", median_of_ratios(latency[1], latency[0]), "x", 1.3),
        Figure("byte hop's calls/s over node's at 32 callers", median_of_ratios(rate[0], rate[1]), "x", RATE_GOAL),
        Figure("byte hop's calls/s over node's, 64 KiB", median_of_ratios(large[0], large[1]), "x", RATE_GOAL),
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


async def _compare(ways: list[tuple[RawClient, str]], measured: Measured, text: str) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(BATCHES):
        for way, (client, name) in enumerate(ways):
            samples[way].append(await measured(client, name, text))
    return samples


async def _sequential(client: RawClient, name: str, text: str) -> float:
    samples = []
    for _ in range(CALLS):
        started_s = time.perf_counter()
        await client.call(name, {"text": text})
        samples.append(time.perf_counter() - started_s)
    return statistics.median(samples)


async def _concurrent(client: RawClient, name: str, text: str) -> float:
    """Calls per second."""
    calls = CALLS * 3
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await client.call(name, {"text": text})

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(), name=f"caller {number}")
    return calls / (time.perf_counter() - started_s)
