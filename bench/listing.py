"""What tools/list of five thousand tools, page after page, costs over static files of the same bytes, in turn.

The goal is that of a list that is serialised once and then only sent: no worse than the file.
"""

import asyncio
import statistics
import tempfile
from functools import partial
from pathlib import Path

import aiohttp

from bench.figures import Figure, ratio
from bench.loads import in_turn, latency_s
from bench.processes import canned_server, node, static_server
from bench.raw_client import RawClient, next_cursor

TOOLS = 5_000
# No worse than the files, as far as runs differ.
GOAL = 1.05
BATCHES = 15
CALLS = 20


async def measure() -> list[Figure]:
    """Compare the two; both clients look into the bytes for the cursor of the next page alone."""
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
            pages = await client.pages("tools/list")
            size = sum(map(len, pages))
            for number, page in enumerate(pages):
                Path(folder, f"{number}.json").write_bytes(page)

            async def static() -> None:
                for number, page in enumerate(pages):
                    async with session.get(f"{static_base}/files/{number}.json") as response:
                        assert response.status == 200
                        read = await response.read()
                        assert len(read) == len(page)
                        next_cursor(read)  # As of the node's, which takes longer than to serve it.

            async def listed() -> None:
                found = await client.pages("tools/list")
                assert len(found) == len(pages)
                assert abs(sum(map(len, found)) - size) < 10 * len(pages)  # The requests' numbers grow.

            for way in (static, listed):
                await latency_s(way, CALLS)
            times = await in_turn([static, listed], partial(latency_s, calls=CALLS), BATCHES)
    return [
        Figure(f"{len(pages)} static files of {size / 1e6:.2f} MB, p50", statistics.median(times[0]) * 1000, "ms"),
        Figure("tools/list of 5,000 tools from a node, p50", statistics.median(times[1]) * 1000, "ms"),
        ratio("tools/list of 5,000 tools over static files, p50", times[1], times[0], GOAL),
    ]
