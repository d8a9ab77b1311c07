"""What tools/list of five thousand tools costs over a static file of the same bytes, in turn.

The goal of 2 is that of a list that is serialised once and then only sent.
"""

import asyncio
import statistics
import tempfile
from functools import partial
from pathlib import Path

import aiohttp

from bench.figures import Figure, median_of_ratios
from bench.loads import in_turn, latency_s
from bench.processes import canned_server, node, static_server
from bench.raw_client import RawClient

TOOLS = 5_000
BATCHES = 15
CALLS = 20


async def measure() -> list[Figure]:
    """Compare the two; neither client looks into the bytes."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        async with (
            canned_server(tools=TOOLS) as url,
            static_server(folder) as static_base,
            node("lister", servers={"canned": {"url": url}}, MESH_DISCOVERY="off") as base,
            RawClient(f"{base}/mcp") as client,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=3)) as session,
        ):
            while len(await client.tool_names()) < TOOLS:
                await asyncio.sleep(0.05)
            body = await client.raw("tools/list")
            Path(folder, "list.json").write_bytes(body)

            async def static() -> None:
                async with session.get(f"{static_base}/files/list.json") as response:
                    assert response.status == 200
                    assert len(await response.read()) == len(body)

            async def listed() -> None:
                assert abs(len(await client.raw("tools/list")) - len(body)) < 10  # The request's number grows.

            for way in (static, listed):
                await latency_s(way, CALLS)
            times = await in_turn([static, listed], partial(latency_s, calls=CALLS), BATCHES)
    return [
        Figure(f"a static file of {len(body) / 1e6:.2f} MB, p50", statistics.median(times[0]) * 1000, "ms"),
        Figure("tools/list of 5,000 tools from a node, p50", statistics.median(times[1]) * 1000, "ms"),
        Figure("tools/list of 5,000 tools over a static file, p50", median_of_ratios(times[1], times[0]), "x", 2.0),
    ]
