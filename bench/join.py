"""How fast a join is seen: from the registration in Consul until another node's tools/list shows the tool.

One node stands by without discovery; its registration is written and removed by hand, so that the clock starts exactly
when Consul has the registration. The observer hears of it by its subscription and then lists, as a client would.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from bench.figures import Figure, percentile
from bench.processes import node
from bench.raw_client import RawClient
from tests.consul_binary import consul_binary
from tests.consul_process import running_consul

JOINS = 100
STEP_TIMEOUT_S = 10.0
TOOL = "joiner__dice__roll"


async def measure() -> list[Figure]:
    """Join and leave a hundred times."""
    binary = consul_binary()
    if binary is None:
        print("join is not measured: there is no Consul here (python -m tests.debian_binary says why)", file=sys.stderr)
        return []
    # Consul syncs every write to disk; in memory, a noisy disk of this machine is no part of the figure.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mesh-bench-", dir=memory) as folder:
        return await _measure(binary, Path(folder))


async def _measure(binary: Path, folder: Path) -> list[Figure]:
    servers = {"dice": {"command": sys.executable, "args": ["-m", "agent.examples.dice"]}}
    async with (
        running_consul(binary, folder) as consul,
        node("joiner", servers=servers, MESH_DISCOVERY="off") as joiner,
        node("observer", CONSUL_HTTP_ADDR=consul.url) as observer,
        RawClient(f"{observer}/mcp") as client,
        aiohttp.ClientSession() as session,
    ):
        registration = await _registration(session, joiner)
        samples = []
        async with client.listen() as stream:
            changes = stream.content
            for _ in range(JOINS):
                started_s = time.perf_counter()
                await _put(session, f"{consul.url}/v1/agent/service/register", registration)
                await _until(client, changes, present=True)
                samples.append((time.perf_counter() - started_s) * 1000)
                await _put(session, f"{consul.url}/v1/agent/service/deregister/{registration['ID']}", None)
                await _until(client, changes, present=False)
                # Notices are at most one in 250 ms; a lone join is what is measured.
                await asyncio.sleep(0.3)
    return [
        Figure("registered in Consul to listed by another node, p50", percentile(samples, 0.5), "ms", 50),
        Figure("registered in Consul to listed by another node, p99", percentile(samples, 0.99), "ms", 250),
    ]


async def _registration(session: aiohttp.ClientSession, base: str) -> dict[str, Any]:
    async with session.get(f"{base}/api/v1/mcp/status") as response:
        own = orjson.loads(await response.read())["data"]["self"]
    meta = {"node_id": own["node_id"], "name": own["name"], "scheme": "http", "mcp_path": "/mcp", "epoch": "1"}
    port = int(base.rpartition(":")[2])
    return {"ID": "joiner", "Name": "mcp-node", "Address": "127.0.0.1", "Port": port, "Meta": meta}


async def _put(session: aiohttp.ClientSession, url: str, body: object) -> None:
    async with session.put(url, data=None if body is None else orjson.dumps(body)) as response:
        assert response.status == 200, await response.text()


async def _until(client: RawClient, changes: aiohttp.StreamReader, *, present: bool) -> None:
    async with asyncio.timeout(STEP_TIMEOUT_S):
        while True:
            line = await changes.readline()
            if b"tools/list_changed" in line and (TOOL in await client.tool_names()) is present:
                return
