"""Servers that were away are found soon after their return: sooner where they are called.

Two servers over HTTP behind one real node; both end and return together, and one of them is called all along. The one
rule: no catalog says when they are back.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.by_hand import modern_answer
from tests.e2e.running import RunningNode, running_nodes
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.measured import measured
from tests.ports import free_ports
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NAMES = ("called", "idle")
FOUND_CALLED_S = 2.0
FOUND_S = 10.0
# So many dials in vain, and the pauses are as long as they ever get.
ATTEMPTS = 6


async def test_a_server_that_returns_is_found_in_two_seconds_while_it_is_called_and_in_ten_while_not(
    tmp_path: Path,
) -> None:
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    servers = {
        name: {"url": f"http://127.0.0.1:{port}/mcp", "mesh": {"scope": "service"}} for name, port in ports.items()
    }
    async with running_nodes() as start:
        async with AsyncExitStack() as before:
            for port in ports.values():
                await before.enter_async_context(scripted(answer, port=port))
            node = await start("node", tmp_path / "node", servers=servers, MESH_DISCOVERY="off")
            await eventually(partial(node.offers, "called__pid", "idle__pid"))
        async with asyncio.TaskGroup() as group, AsyncExitStack() as again:
            caller = group.create_task(keeps_calling(node), name="keeps calling")
            await call(node, "idle")  # Else its end is seen by the next probe.
            await eventually(partial(was_tried, node, "idle"))
            for port in ports.values():
                await again.enter_async_context(scripted(answer, port=port))
            back_s = time.monotonic()
            found = await all_of(seconds_until_up(node, name, back_s) for name in NAMES)
            caller.cancel()
    measured(f"found after {found[0]:.1f} s while called, after {found[1]:.1f} s while not")
    assert found[0] < FOUND_CALLED_S
    assert found[1] < FOUND_S


async def answer(request: Seen) -> tuple[bytes, bool]:
    match request.body.get("method"):
        case "server/discover":
            return discovered(request), True
        case "tools/list":
            return rpc_result(request, {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}), True
        case "tools/call":
            return rpc_result(request, {"content": []}), True
        case _:
            return rpc_error(request, 404, -32601, "Method not found"), True


async def keeps_calling(node: RunningNode) -> None:
    while True:
        await call(node, "called")


async def call(node: RunningNode, name: str) -> None:
    await modern_answer(node.url, "tools/call", {"name": f"{name}__pid", "arguments": {}})


async def was_tried(node: RunningNode, name: str) -> bool:
    return bool((await node.servers())[name]["attempts"] >= ATTEMPTS)


async def seconds_until_up(node: RunningNode, name: str, since_s: float) -> float:
    async def is_up() -> bool:
        return bool((await node.servers())[name]["connected"])

    await eventually(is_up)
    return time.monotonic() - since_s
