"""Many peers in few processes (`bench.stub_nodes`), for tests of what hundreds of them do to one real node.

Each proves who it is, answers probes and lists, and has one tool of a fleet. The one rule: the test that starts them
here ends them with its context, by their own ids.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from tests.chaos.namespace import Machine
from tests.e2e.processes import NodeProcess, environment_of, spawn_copy
from tests.e2e.running import ONE_MESH, RunningNode
from tests.waiting import eventually

TOOL = "echo__echo"


@asynccontextmanager
async def stub_peers(
    folder: Path, ports: list[int], *, first: int = 0, machine: Machine | None = None
) -> AsyncIterator[NodeProcess]:
    """Run one process that is a node on each of these ports; they are called n<first> and so on.

    `machine`: where they run; this one by default.
    """
    words = ("bench.stub_nodes", ",".join(map(str, ports)), ONE_MESH, "0", str(first), _host(machine))
    log_path = folder / f"stubs-{first}.log"
    process = spawn_copy(words, log_path, environment_of({}), network="" if machine is None else machine.name)

    async def serves() -> bool:
        if process.returncode is not None:
            raise RuntimeError(f"stubs ended with {process.returncode}: {log_path.read_text()}")
        async with aiohttp.ClientSession() as http, http.get(f"http://{_host(machine)}:{ports[-1]}/healthz") as answer:
            return answer.status == 200

    try:
        await eventually(serves)
        yield process
    finally:
        process.kill_and_reap()


def listed(path: Path, ports: list[int], machine: Machine | None = None) -> Path:
    """Write a file that lists the nodes on these ports, for MESH_PEER_FILES."""
    targets = [f"{_host(machine)}:{port}" for port in ports]
    path.write_bytes(orjson.dumps([{"targets": targets, "labels": {}}]))
    return path


def _host(machine: Machine | None) -> str:
    return "127.0.0.1" if machine is None else machine.far


async def links(node: RunningNode) -> dict[str, int]:
    """How many links of a node are in each state."""
    code, text = await node.request("GET", "/metrics")
    assert code == 200, text
    found = [line for line in text.splitlines() if line.startswith("mesh_links{")]
    return {line.partition('state="')[2].partition('"')[0]: int(float(line.rpartition(" ")[2])) for line in found}
