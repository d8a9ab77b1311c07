"""Bodies, streams and definitions that are meant to do harm, against a real node that others use meanwhile.

The one rule: the calls of others go on, and the node holds little more memory.
"""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from mcp.client import Client
from mcp.client.subscriptions import listen

from bench.processes import cpu_s
from tests.e2e.by_hand import modern_request
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example, write_servers
from tests.e2e.steady_calls import steady_calls
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import served
from tests.integration.servers.watched_server import Watched
from tests.integration.test_resource_updates import next_uri
from tests.measured import measured
from tests.processor_time import Stopwatch
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 1 << 20
GROWTH_MIB_MAX = 16
# A client's call is held up by no more than this, beyond what the test machine does.
HELD_UP_S = 0.05
# Of the other reader's own update, among thousands that are not for it.
NO_LONGER_S = 2.0
# An eighth of what comes.
NOTES_AT_ONCE, READ_AT_ONCE, NOTES_MAX = 250, 65_536, 10_000
DROPPED = "MCP client reads too slowly, its stream of changes is ended"
JSON_AND_EVENTS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node with the dice; a test may give it one more server."""
    folder = tmp_path_factory.mktemp("hostile-input")
    with nodes_below(folder):
        yield asyncio.run(start_node("node", folder, servers={"dice": example("dice")}, MESH_DISCOVERY="off"))


async def serves_as_well(node: RunningNode, name: str, url: str, tool: str) -> None:
    """Write one more server into its file, and wait until its tool is listed."""
    entry = {"url": url, "mesh": {"scope": "service"}}
    write_servers(Path(node.environment["MESH_SERVERS_FILE"]).parent, {"dice": example("dice"), name: entry})
    await eventually(partial(node.offers, f"{name}__{tool}"))


def peak_mib(node: RunningNode) -> float:
    """The most memory that the node has held since it was last asked."""
    folder = Path(f"/proc/{node.process.pid}")
    (line,) = [line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM:")]
    (folder / "clear_refs").write_text("5")
    return int(line.split()[1]) / 1024


async def in_chunks(*pieces: bytes, endless: bool = False) -> AsyncIterator[bytes]:
    """A body; the last piece comes again and again where it is to have no end."""
    for piece in pieces:
        yield piece
    while endless:
        yield pieces[-1]


async def test_bodies_without_end_or_bottom_and_bombs_are_refused_in_little_memory(node: RunningNode) -> None:
    begun = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":'
    deep, bomb = begun + b"[" * 100_000, gzip.compress(bytes(64 * MIB))
    bodies: dict[str, tuple[Callable[[], AsyncIterator[bytes]], dict[str, str], set[int]]] = {
        "chunks without end": (lambda: in_chunks(begun, b'"' + bytes(65_536), endless=True), {}, {413}),
        "64 MiB": (lambda: in_chunks(begun, *[bytes(MIB)] * 63), {}, {413}),
        "100,000 brackets": (lambda: in_chunks(deep, b"]" * 100_000 + b"}"), {}, {400}),
        "a bomb of 64 MiB": (lambda: in_chunks(bomb), {"Content-Encoding": "gzip"}, {400, 413, 415}),
    }
    grown: dict[str, float] = {}
    async with aiohttp.ClientSession() as http, steady_calls(node, "node__dice__roll", eras=["auto"]) as tally:
        await tally.grows(20)
        for name, (body, headers, codes) in bodies.items():
            peak_mib(node)
            before = peak_mib(node)
            for era in ({}, {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}):
                sent = JSON_AND_EVENTS | headers | era
                try:
                    async with http.post(node.url, data=body(), headers=sent) as answer:
                        assert answer.status in codes, (name, answer.status, await answer.text())
                except aiohttp.ClientConnectionError:
                    # The node closes the connection of a sender that goes on, who then may not read the answer.
                    assert codes == {413}, name
            grown[name] = peak_mib(node) - before
        await tally.grows(20)
    measured(f"memory: {', '.join(f'{name} {mib:.1f} MiB' for name, mib in grown.items())}")
    assert tally.failures == []
    assert max(grown.values()) < GROWTH_MIB_MAX, grown


async def test_a_reader_that_falls_behind_is_dropped_with_a_reason_and_delays_no_other(
    node: RunningNode,
) -> None:
    watched = Watched(legacy=True)
    async with served(watched.server) as url, AsyncExitStack() as stack:
        await serves_as_well(node, "kit", url, "touch")
        mcp = await stack.enter_async_context(Client(node.url))
        other = await stack.enter_async_context(listen(mcp.session, resource_subscriptions=["watch://kit/one"]))
        reader, writer = await slow_listener(node, ["watch://kit/shelf/"])
        stack.push_async_callback(cut_off, writer)
        async with asyncio.timeout(PATIENCE_S):
            await watched.holds("watch://one", "watch://shelf/")
        peak_mib(node)
        before, longest_s, told = peak_mib(node), 0.0, 0
        while not node.events(DROPPED):
            assert told < NOTES_MAX
            for _ in range(NOTES_AT_ONCE):
                await watched.touch(f"watch://shelf/{told}{'x' * 1_900}")
                told += 1
            await reader.readexactly(READ_AT_ONCE)
            watch = Stopwatch(node.process.pid)
            await watched.touch("watch://one")
            assert await next_uri(other, PATIENCE_S) == "watch://kit/one"
            longest_s = max(longest_s, watch())
        grown = peak_mib(node) - before
    measured(f"dropped after {told:,} notes and {grown:.1f} MiB; the other waited {longest_s:.2f} s at most")
    assert grown < GROWTH_MIB_MAX
    assert longest_s < NO_LONGER_S


async def slow_listener(node: RunningNode, uris: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that subscribes, and reads nothing by itself."""
    envelope = {"protocolVersion": "2026-07-28", "clientInfo": {"name": "slow", "version": "1"}}
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in {**envelope, "clientCapabilities": {}}.items()}
    params = {"notifications": {"resourceSubscriptions": uris}, "_meta": meta}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params})
    lines = ["POST /mcp HTTP/1.1", f"Host: 127.0.0.1:{node.port}", f"Content-Length: {len(body)}"]
    headers = {**JSON_AND_EVENTS, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.connect(("127.0.0.1", node.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1_024)
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return reader, writer


async def cut_off(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def nested(levels: int) -> dict[str, Any]:
    """A schema that takes as many steps to read."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"allOf": [schema]}
    return schema


async def test_poisonous_schemas_are_left_out_or_passed_on_unread_and_hold_up_nothing(
    node: RunningNode,
) -> None:
    async with AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(scripted(never))
        string = {"type": "string"}
        schemas = {
            "good": string,
            "deep": nested(100),
            "slow": {**string, "pattern": "^(a+)+$", "default": "a" * 40 + "!"},
            "far": {"$ref": elsewhere.url},
            "wide": {"enum": [f"{number}" for number in range(50_000)]},
        }

        def tool(name: str) -> dict[str, Any]:
            schema = {"type": "object", "properties": {"a": schemas[name]}}
            return {"name": name, "inputSchema": schema, "outputSchema": schema}

        async def answer(request: Seen) -> tuple[bytes, bool]:
            match request.body.get("method"):
                case "server/discover":
                    return discovered(request), True
                case "tools/list":
                    return rpc_result(request, {"tools": [tool(name) for name in schemas]}), True
                case "tools/call":
                    return rpc_result(request, {"content": [{"type": "text", "text": "called"}]}), True
                case _:
                    return rpc_error(request, 404, -32601, "Method not found"), True

        poison = await stack.enter_async_context(scripted(answer))
        tally = await stack.enter_async_context(steady_calls(node, "node__dice__roll", eras=["auto"]))
        await tally.grows(20)
        began_s, used_s = time.monotonic(), cpu_s(node.process.pid)
        await serves_as_well(node, "poison", poison.url, "good")
        took_s = time.monotonic() - began_s
        for name in ("slow", "far", "wide"):
            call = {"name": f"poison__{name}", "arguments": {"a": "a" * 40 + "!"}}
            result = await modern_request(node.url, "tools/call", call)
            assert result["content"][0]["text"] == "called"
        used_s = cpu_s(node.process.pid) - used_s
        await tally.grows(20)
        lag_s = await node.metric("mesh_event_loop_lag_seconds") or 0.0
        assert tally.failures == []
        left = {one["name"]: one["why"] for one in (await node.status())["left_out"]}
        assert left["deep"] == "nested more than 64 levels deep"
        assert "outputSchema" in left["far"]
        assert left.keys() == {"deep", "far"}
        assert not elsewhere.seen
        assert "poison__deep" not in await node.tool_names()
    measured(
        f"listed in {took_s:.1f} s, {used_s:.2f} s of processor time, longest delay of the loop {lag_s * 1000:.0f} ms"
    )
    assert used_s < 2.0


async def never(request: Seen) -> tuple[bytes, bool]:
    raise AssertionError(f"a schema was fetched: {request}")
