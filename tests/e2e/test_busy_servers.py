"""Servers that do one thing at a time, and a tool that takes longer than any missing pong is forgiven otherwise.

Real nodes and servers, over stdio and HTTP, called on their own node and over two hops, all at once. BUSY_TOOL_S sets
another time for the tool, in seconds (20 and 120 were run by hand). The one rule: while a server works, silence ends
nothing, whether the caller still waits or has left.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import one_at_a_time_server
from tests.e2e.by_hand import modern_request
from tests.e2e.processes import environment_of, spawn
from tests.e2e.running import CLIENT_TIMEOUT_S, RunningNode, StartNode
from tests.integration.servers.raw_session import call, raw_session
from tests.ports import free_ports
from tests.waiting import all_of, eventually

# docs/reliability.md: what answers no probe is down within 12 s.
BUSY_S = float(os.environ.get("BUSY_TOOL_S", "14"))

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120 + BUSY_S)]

COMMAND = {"command": sys.executable, "args": [str(one_at_a_time_server.__file__)], "mesh": {"scope": "service"}}
BEGUN = "WAIT_BEGUN"
# One for each way: what waits for one of them holds up no other.
STDIO, HTTP = ("near_stdio", "far_stdio"), ("near_http", "far_http")


@asynccontextmanager
async def http_servers(folder: Path) -> AsyncGenerator[dict[str, str], None]:
    """The URLs of the servers over HTTP, by name."""
    ports = dict(zip(HTTP, free_ports(len(HTTP)), strict=True))
    processes = [
        spawn(
            ("tests.e2e.one_at_a_time_server", str(port)),
            folder / f"{name}.log",
            environment_of({BEGUN: str(folder / name)}),
        )
        for name, port in ports.items()
    ]
    try:
        yield {name: f"http://127.0.0.1:{port}/mcp" for name, port in ports.items()}
    finally:
        for process in processes:
            process.kill_and_reap()


async def pid_after(node: RunningNode, server: str, seconds: float) -> str:
    """The process ID that a call of this length is answered with."""
    async with node.client("legacy", init_timeout=CLIENT_TIMEOUT_S) as client:
        result = await client.call_tool(f"{server}__wait", {"seconds": seconds}, timeout=CLIENT_TIMEOUT_S + seconds)
    return str(result.content[0].text)


async def leaves(node: RunningNode, server: str, begun: Path) -> None:
    """Call without a session, and close the connection as soon as the server is at work."""
    params = {"name": f"{server}__wait", "arguments": {"seconds": BUSY_S}}
    await given_up(modern_request(node.url, "tools/call", params), begun)


async def cancels(node: RunningNode, server: str, begun: Path) -> None:
    """Call in a session, and cancel the call as soon as the server is at work."""
    async with raw_session(node.url) as session:

        async def ask() -> None:
            async with session.post(call(f"{server}__wait", request_id=5, seconds=BUSY_S)) as response:
                await response.read()

        await given_up(ask(), begun)
        await session.note("notifications/cancelled", {"requestId": 5})


async def given_up(asking: Coroutine[Any, Any, object], begun: Path) -> None:
    """Ask until the server has begun, which this file says."""

    async def has_begun() -> bool:
        assert not task.done(), task
        return await asyncio.to_thread(begun.exists)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(asking, name="given up")
        await eventually(has_begun)
        task.cancel()


async def all_have_been(node: RunningNode, state: str, seen: set[str]) -> bool:
    """Whether each server was in this state at a time, which `seen` keeps; fails at once when one was dialled again."""
    servers = await node.servers()
    if any(server["reconnects"] for server in servers.values()):
        raise RuntimeError(f"one was ended: {servers}")
    seen |= {name for name, server in servers.items() if server["state"] == state}
    assert seen == servers.keys(), seen
    return True


async def test_a_tool_may_take_longer_than_a_hung_server_is_waited_for(start: StartNode, tmp_path: Path) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_ports(1)[0])}
    async with http_servers(tmp_path) as urls:
        servers = dict.fromkeys(STDIO, COMMAND) | {name: {"url": url} for name, url in urls.items()}
        home = await start("home", tmp_path / "home", servers=servers, **settings)
        front = await start("front", tmp_path / "front", **settings)
        tools = [f"{name}__wait" for name in servers]
        for node in (home, front):
            await eventually(partial(node.offers, *tools))
        node_of = {name: front if name.startswith("far") else home for name in servers}
        before = await all_of(pid_after(node, name, 0) for name, node in node_of.items())
        answered = await all_of(pid_after(node, name, BUSY_S) for name, node in node_of.items())
        assert answered == before, "each was answered, by the process that was there"
        assert await all_of(pid_after(node, name, 0) for name, node in node_of.items()) == before
        assert {name: (await home.servers())[name]["reconnects"] for name in servers} == dict.fromkeys(servers, 0)
        assert (await front.peers())["home"]["reconnects"] == 0


async def test_a_server_may_finish_a_call_that_its_client_gave_up(start: StartNode, tmp_path: Path) -> None:
    async with http_servers(tmp_path) as urls:
        servers = {name: COMMAND | {"env": {BEGUN: str(tmp_path / name)}} for name in STDIO}
        servers |= {name: {"url": url} for name, url in urls.items()}
        home = await start("home", tmp_path / "home", servers=servers, MESH_DISCOVERY="off")
        await eventually(partial(home.offers, *(f"{name}__wait" for name in servers)))
        before = await all_of(pid_after(home, name, 0) for name in servers)
        # Of each kind of server, the client of one leaves and that of the other cancels.
        gives_up = dict(zip(servers, (leaves, cancels) * 2, strict=True))
        await all_of(give(home, name, tmp_path / name) for name, give in gives_up.items())
        # Nothing else is called meanwhile: an open call would excuse the silence. On a busy machine they begin one
        # after the other, so that the first may be ready again before the last is suspect.
        await eventually(partial(all_have_been, home, "suspect", set()))
        await eventually(partial(all_have_been, home, "ready", set()))
        assert await all_of(pid_after(home, name, 0) for name in servers) == before
