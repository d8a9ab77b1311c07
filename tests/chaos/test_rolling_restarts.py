"""A rolling restart of nodes, of a stdio server and of an HTTP server with sessions, under steady calls of six clients.

Real processes: three nodes with a replica of each server, clients behind a balancer that passes over a node that takes
no connection. The one rule: no call fails, none is answered with "Unknown tool", and no session is lost.
"""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.balanced_callers import calling
from tests.e2e.by_hand import modern_request
from tests.e2e.processes import NodeProcess, environment_of, spawn_copy
from tests.e2e.running import RunningNode, StartNode, running_nodes, stop_node
from tests.integration.servers import pid_server
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAMES = ("a", "b", "c")
TOOLS = ("kit__pid", "web__pid")
# One replica of many, by its own name: no other can answer for it.
ALONE = "a__kit__pid"
# Between two steps: enough that every client has called every tool through every node.
CALLS = 60


@dataclass
class Servers:
    """The HTTP servers, one for each node."""

    folder: Path
    ports: dict[str, int]
    processes: dict[str, NodeProcess]

    def start(self, name: str) -> None:
        argv = ("tests.chaos.session_server", str(self.ports[name]))
        self.processes[name] = spawn_copy(argv, self.folder / f"web-{name}.log", environment_of({}))

    async def stop(self, name: str) -> None:
        self.processes[name].terminate()
        await self.processes[name].wait()


@asynccontextmanager
async def http_servers(folder: Path) -> AsyncGenerator[Servers, None]:
    servers = Servers(folder, {name: free_port() for name in NAMES}, {})
    try:
        for name in NAMES:
            servers.start(name)
        yield servers
    finally:
        for process in servers.processes.values():
            process.kill_and_reap()


async def has_replicas(node: RunningNode) -> bool:
    """Whether it sees both servers, and the others."""
    assert await node.sees(*(set(NAMES) - {node.name}))
    assert await node.offers(*TOOLS)
    peers = await node.peers()
    assert all(peer["function_count"] == 5 + len(TOOLS) for peer in peers.values()), peers
    servers = await node.servers()
    return bool(servers["kit"]["connected"] and servers["web"]["connected"])


@asynccontextmanager
async def mesh(folder: Path, servers: Servers, start: StartNode) -> AsyncGenerator[list[RunningNode], None]:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port()), "MESH_LOG_FORMAT": "json"}
    child = {"command": sys.executable, "args": [str(pid_server.__file__)], "mesh": {"scope": "service"}}

    def own(name: str) -> dict[str, object]:
        return {"kit": child, "web": {"url": f"http://127.0.0.1:{servers.ports[name]}/mcp"}}

    first = await start(NAMES[0], folder / NAMES[0], servers=own(NAMES[0]), **settings)
    nodes = [first, *await all_of(start(name, folder / name, servers=own(name), **settings) for name in NAMES[1:])]
    for node in nodes:
        await eventually(partial(has_replicas, node))
    yield nodes


async def child_of(node: RunningNode) -> int:
    """The process ID of its stdio server."""
    params = {"name": "kit__pid", "arguments": {}}
    result = await modern_request(f"{node.url}/local", "tools/call", params)
    return int(result["content"][0]["text"])


async def has_another_child(node: RunningNode, process_id: int) -> bool:
    return await child_of(node) != process_id


async def is_connected(node: RunningNode, server: str) -> bool:
    return bool((await node.servers())[server]["connected"])


async def test_no_call_fails_and_no_session_is_lost_while_all_is_restarted_in_turn(tmp_path: Path) -> None:
    async with (
        http_servers(tmp_path) as servers,
        running_nodes() as start,
        mesh(tmp_path, servers, start) as nodes,
        calling(nodes, TOOLS) as tally,
    ):
        await tally.grows(CALLS)
        for number, node in enumerate(nodes):
            assert await stop_node(node) == 0
            nodes[number] = await start(node)
            await tally.grows(CALLS)
        async with calling(nodes, [ALONE]) as alone:
            for node in nodes:
                pid = await eventually(partial(child_of, node))
                os.kill(pid, signal.SIGKILL)
                await tally.grows(CALLS)
                await alone.grows(CALLS)
                await eventually(partial(has_another_child, node, pid))
        for name in NAMES:
            await servers.stop(name)
            await tally.grows(CALLS)
            servers.start(name)
            await eventually(partial(is_connected, nodes[NAMES.index(name)], "web"))
            await tally.grows(CALLS)
    failed = [*tally.failures, *alone.failures]
    starved = tally.starved + alone.starved
    measured(
        f"failed {len(failed)} of {tally.done + alone.done} calls while 3 nodes, 3 children and 3 servers restarted;"
        f" {starved} were made again on a node that had no core"
    )
    assert failed == []
