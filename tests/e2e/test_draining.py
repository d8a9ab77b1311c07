"""SIGTERM under load: a node says goodbye, finishes what it has begun, and no call fails because of it."""

import asyncio
import contextlib
import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from agent.app.drain import LEAVE_GRACE_S
from tests.e2e.meshes import CatalogKind, RunningKit
from tests.e2e.running import ERAS, RunningNode, StartNode
from tests.e2e.servers_files import example, replace_file, write_servers
from tests.e2e.steady_calls import steady_calls
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# The promise is 30 s; half a second of it is grace, the rest is for calls, and ours end when we say so.
STOPPED_WITHIN_S = 20.0


async def has_begun(gate: Path) -> bool:
    return await asyncio.to_thread(gate.with_name(f"{gate.name}.begun").exists)


async def is_unready(node: RunningNode) -> bool:
    """Whether it says so; on a busy machine its mcp_client may be closed before anybody has asked."""
    try:
        status, _ = await node.request("GET", "/readyz")
    except aiohttp.ClientConnectorError:
        return True
    return status == 503


async def has_closed_its_port(node: RunningNode) -> bool:
    try:
        await node.request("GET", "/readyz")
    except aiohttp.ClientConnectorError:
        return True
    return False


async def has_passed(since_s: float, seconds: float) -> bool:
    return time.monotonic() >= since_s + seconds


async def is_forgotten(node: RunningNode, peer: str) -> bool:
    return peer not in await node.peers()


async def hold(node: RunningNode, era: str, gate: Path, *, leaving: bool) -> Any:
    """One call that ends when its gate is there. A node that leaves may be gone when its client says goodbye."""
    result = None
    try:
        async with node.client(era) as client:
            await client.list_tools()  # Else the client asks for the schema after the call.
            result = await client.call_tool("kit__hold", {"gate": str(gate)})
    except (httpx2.TransportError, MCPError, RuntimeError):  # The last is how FastMCP says that its session has ended.
        if result is None or not leaving:
            raise
    return result


async def test_node_leaves_in_order_and_its_calls_in_flight_complete(
    catalog: CatalogKind, kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    settings = catalog.fresh()
    dice = {"dice": example("dice", "service")}
    # First the one that stays: on the embedded catalog it is the one that serves it.
    stays = await start("stays", tmp_path / "stays", servers=dice, **settings)
    leaves = await start("leaves", tmp_path / "leaves", servers={**dice, "kit": {"url": kit.url}}, **settings)
    await eventually(partial(stays.offers, "kit__hold", "dice__roll"))
    await eventually(partial(leaves.sees, "stays"))
    gates = [tmp_path / f"{node.name}-{era}" for node in (stays, leaves) for era in ERAS]
    async with asyncio.TaskGroup() as group, steady_calls(stays, "dice__roll") as tally:
        held = [
            group.create_task(
                hold(node, era, tmp_path / f"{node.name}-{era}", leaving=node is leaves), name=f"hold {node.name} {era}"
            )
            for node in (stays, leaves)
            for era in ERAS
        ]
        for gate in gates:
            await eventually(partial(has_begun, gate))
        await tally.grows()
        leaves.process.terminate()
        await eventually(partial(is_unready, leaves))
        await eventually(partial(is_forgotten, stays, "leaves"))
        await eventually(partial(has_closed_its_port, leaves))
        await tally.grows()
        assert leaves.process.returncode is None
        for gate in gates:
            gate.touch()
        for call in held:
            assert (await call).content[0].text == "released"
        async with asyncio.timeout(STOPPED_WITHIN_S):
            assert await leaves.process.wait() == 0
        await tally.grows()
    assert tally.failures == []
    assert [record["event"] for record in leaves.events() if record["logger"] == "agent.app.node"] == [
        "node ready",
        "node draining",
        "node stopped",
    ]
    assert leaves.events("deregistered")
    departed = (await stays.status())["departed"]
    assert [(one["name"], one["state"], one["last_error"]) for one in departed] == [("leaves", "left", None)]


async def test_several_nodes_end_at_once_well_before_the_limit(
    catalog: CatalogKind, start: StartNode, tmp_path: Path
) -> None:
    settings = catalog.fresh()
    nodes = await all_of(
        start(name, tmp_path / name, servers={"clock": example("clock")}, **settings) for name in ("a", "b", "c")
    )
    for node in nodes:
        await eventually(partial(node.sees, *({"a", "b", "c"} - {node.name})))
    async with contextlib.AsyncExitStack() as stack:
        # Goodbyes that no peer hears.
        stack.enter_context(contextlib.suppress(httpx2.TransportError, MCPError, RuntimeError))
        for node in nodes:
            for era in ERAS:
                await stack.enter_async_context(node.client(era))
        for node in nodes:
            node.process.terminate()
        async with asyncio.timeout(STOPPED_WITHIN_S):
            codes = await all_of(node.process.wait() for node in nodes)
    assert codes == [0, 0, 0]


async def test_second_interrupt_ends_the_drain_at_once_with_the_exit_code_of_an_interrupt(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    servers = {"kit": {"url": kit.url}, "clock": example("clock")}
    node = await start("hasty", tmp_path / "hasty", servers=servers, MESH_DISCOVERY="off")
    await eventually(partial(node.offers, "kit__hold", "hasty__clock__now"))
    gate = tmp_path / "gate"
    async with asyncio.TaskGroup() as group:

        async def held() -> None:
            with contextlib.suppress(httpx2.TransportError, MCPError, RuntimeError):
                await hold(node, "auto", gate, leaving=True)
                raise AssertionError("the call was cut off")

        group.create_task(held(), name="held")
        await eventually(partial(has_begun, gate))
        node.process.send_signal(signal.SIGINT)
        node.process.send_signal(signal.SIGTERM)  # Supervisors repeat themselves; that means nothing.
        await eventually(partial(has_closed_its_port, node))
        assert node.process.returncode is None
        node.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(STOPPED_WITHIN_S):
            assert await node.process.wait() == 128 + signal.SIGINT
    assert node.events("interrupted, the drain ends now")
    assert [record for record in node.events() if record["level"] in ("error", "critical")] == []
    assert "Traceback" not in node.log()


async def test_what_is_written_while_a_node_drains_ends_none_of_its_calls(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    token = replace_file(tmp_path / "token", b"the-first-secret-of-the-mesh\n")
    settings = {"MESH_DISCOVERY": "off", "MESH_PEER_TOKEN": "", "MESH_PEER_TOKEN_FILE": str(token)}
    node = await start("node", tmp_path / "node", servers={"kit": {"url": kit.url}}, **settings)
    await eventually(partial(node.offers, "kit__hold"))
    gate = tmp_path / "gate"

    async def has_looked() -> bool:
        return bool(node.events("token file read again"))

    async with asyncio.TaskGroup() as group:
        held = group.create_task(hold(node, "auto", gate, leaving=True), name="held")
        await eventually(partial(has_begun, gate))
        node.process.terminate()
        await eventually(partial(has_closed_its_port, node))
        write_servers(tmp_path / "node", {})
        node.process.send_signal(signal.SIGHUP)
        replace_file(token, b"the-second-secret-of-the-mesh\n")  # Which is looked at after the servers.
        await eventually(has_looked)
        gate.touch()
        assert (await held).content[0].text == "released"
    async with asyncio.timeout(STOPPED_WITHIN_S):
        assert await node.process.wait() == 0


@pytest.mark.parametrize("length", [300_000, 100_000])
async def test_a_request_whose_body_is_on_its_way_when_a_node_stops_is_answered(
    length: int, start: StartNode, tmp_path: Path
) -> None:
    node = await start("node", tmp_path / "node", MESH_DISCOVERY="off")
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "slow", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"_meta": meta, "pad": "x" * length}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nAccept: application/json, text/event-stream\r\n"
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        writer.write(head.encode() + body[: length // 2])
        await writer.drain()
        for _ in range(3):  # Those bytes have come then, and have been taken up.
            await node.request("GET", "/healthz")
        node.process.send_signal(signal.SIGTERM)
        await eventually(partial(has_closed_its_port, node))
        stopping_since_s = time.monotonic()
        writer.write(body[length // 2 : -10_000])
        await eventually(partial(has_passed, stopping_since_s, 2 * LEAVE_GRACE_S))  # Now it waits for requests alone.
        writer.write(body[-10_000:])
        async with asyncio.timeout(STOPPED_WITHIN_S):
            answer = await reader.read()
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
    assert b"\r\nConnection: close\r\n" in answer
    assert await node.process.wait() == 0
