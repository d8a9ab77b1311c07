"""Large results of other nodes pass while they come: whole or visibly broken, as slowly as the client reads.

The other nodes are scripts, so that a test holds each byte in its hand. The one rule: a client
never takes a part of a result for the whole.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from agent.client.http.sse import SseParser
from agent.client.streaming import HELD_BYTES_MAX
from agent.model import MESH_EXTENSION, ORIGIN_META_KEY, HttpTarget, Json, ServerScope, ServerSpec
from discovery.model import Instance, InstanceKey
from tests.integration.servers.hosting import Script, Seen, http, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node
from tests.integration.servers.proving import ProvenWriter, Proving, with_proof
from tests.integration.stateless_requests import headers, request
from tests.waiting import eventually

MIB = 1 << 20
Write = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def result_of(size_bytes: int, tail: bytes = b"") -> bytes:
    text = b"0123456789abcdef" * (size_bytes // 16)
    return b'{"resultType":"complete","content":[{"type":"text","text":"' + text + b'"}]' + tail + b"}"


def answer_to(seen: Seen, result: bytes) -> bytes:
    return http(200, b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (seen.body["id"], result))


def chunks_to(seen: Seen, result: bytes) -> bytes:
    """The same in chunks of HTTP, as the TypeScript SDK orders it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    message = b'{"result": %s, "jsonrpc": "2.0", "id": %d}' % (result, seen.body["id"])
    parts = [message[start : start + 99_999] for start in range(0, len(message), 99_999)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def events_to(seen: Seen, result: bytes) -> bytes:
    """The same as a stream that was kept alive before."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: ping\r\n\r\n"
    message = b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (seen.body["id"], result)
    return head + b"event: message\r\ndata: " + message + b"\r\n\r\n"


AnswerTo = Callable[..., bytes]
all_forms = pytest.mark.parametrize("form", [answer_to, chunks_to, events_to], ids=["json", "chunks", "events"])


@dataclass
class ScriptedNode:
    """A node with one service, which writes its answers to calls itself."""

    name: str
    write: Write
    asked: int = 0
    script: Script | None = None
    proving: Proving = field(default_factory=Proving)

    @property
    def node_id(self) -> str:
        return self.proving.key.node_id

    async def answer(self, seen: Seen) -> tuple[bytes | None, bool]:
        if (answer := await self.proving.handshake(seen)) is not None:
            return answer, True
        proof = self.proving.proof(seen)
        answer, keep = await self._answer(seen, proof)
        return with_proof(answer, proof), keep

    async def _answer(self, seen: Seen, proof: bytes) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover":
                card = {"node_id": self.node_id, "name": self.name}
                capabilities = {"tools": {}, "extensions": {MESH_EXTENSION: card}}
                return rpc_result(seen, {"supportedVersions": ["2026-07-28"], "capabilities": capabilities}), True
            case "tools/list":
                return rpc_result(seen, {"tools": [self._tool("look"), self._tool("write")]}), True
            case "tools/call":
                self.asked += 1
                assert self.script is not None
                writer = ProvenWriter(self.script.writers[seen.connection - 1], proof)
                await self.write(seen, cast("asyncio.StreamWriter", writer))
                return b"", False
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    def _tool(self, name: str) -> Json:
        origin = {"node": self.name, "node_id": self.node_id, "server": "kit", "tool": name, "scope": "service"}
        return {
            "name": f"kit__{name}",
            "inputSchema": {"type": "object"},
            "annotations": {"readOnlyHint": name == "look"},
            "_meta": {ORIGIN_META_KEY: {**origin, "via": []}},
        }

    def instance(self) -> Instance:
        assert self.script is not None
        host, _, port = self.script.url.removeprefix("http://").removesuffix("/mcp").partition(":")
        meta = {"node_id": self.node_id, "name": self.name, "scheme": "http", "epoch": "1", "mcp_path": "/mcp"}
        return Instance(InstanceKey("dc1", "m", self.name), host, int(port), meta=meta)


@asynccontextmanager
async def front_of(folder: Path, *peers: ScriptedNode) -> AsyncIterator[RunningNode]:
    async with AsyncExitStack() as stack:
        for peer in peers:
            peer.script = await stack.enter_async_context(scripted(peer.answer))
        front = await stack.enter_async_context(running_node("front", folder))
        front.mesh.take_catalog(catalog(*(peer.instance() for peer in peers)))

        def replicas() -> int:
            route = front.mesh.routes.tools.get("kit__look")
            return 0 if route is None else len(route.replicas)

        await front.when(lambda: replicas() == len(peers))
        yield front


@asynccontextmanager
async def calling(url: str, name: str = "kit__write") -> AsyncIterator[aiohttp.ClientResponse]:
    body = json.dumps(request("tools/call", {"name": name, "arguments": {}})).encode()
    sent = {**dict(headers("tools/call", name)), "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=sent) as response:
        yield response


def outcomes(node: RunningNode) -> dict[str, float]:
    """How calls ended, by the metric."""
    found: dict[str, float] = {}
    for line in node.metrics.render()[0].decode().splitlines():
        if line.startswith("mesh_calls_total"):
            labels, _, count = line.rpartition(" ")
            found[labels.partition('outcome="')[2].partition('"')[0]] = float(count)
    return found


async def settled(node: RunningNode) -> None:
    """Wait until a call is counted and none is under way."""

    async def is_settled() -> bool:
        return bool(outcomes(node)) and repr(node.dispatch) == "<Dispatch in_flight=0>"

    await eventually(is_settled)


@pytest.mark.parametrize(
    ("outcome", "tail"),
    [("ok", b""), ("tool_error", b',"isError":true'), ("ok", b',"structuredContent":{"isError":true,"n":1.0}')],
)
@pytest.mark.parametrize("size_bytes", [HELD_BYTES_MAX // 2, 3 * MIB])
@all_forms
async def test_a_large_result_arrives_byte_for_byte_and_is_counted_as_it_ended(
    form: AnswerTo, outcome: str, tail: bytes, size_bytes: int, tmp_path: Path
) -> None:
    result = result_of(size_bytes, tail)

    async def write(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(form(seen, result))
        await writer.drain()

    async with front_of(tmp_path, ScriptedNode("one", write)) as front, calling(front.url) as response:
        assert await response.read() == b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"
        await settled(front)
        assert outcomes(front) == {outcome: 1.0}


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "kept alive"])
async def test_a_large_result_passes_two_real_nodes(
    slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, pinged = result_of(3 * MIB, b',"n":123456789012345678901234567890'), asyncio.Event()
    if slow:
        monkeypatch.setattr("agent.server.response.PING_EVERY_S", 0.01)
    else:
        pinged.set()

    async def answer(seen: Seen) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover":
                return rpc_result(seen, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}), True
            case "tools/list":
                return rpc_result(seen, {"tools": [{"name": "write", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                await pinged.wait()
                return http(200, b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (seen.body["id"], result)), True
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    async with scripted(answer) as script:
        spec = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        async with (
            running_node("back", tmp_path / "back", servers=[spec]) as back,
            running_node("front", tmp_path / "front") as front,
        ):
            await back.connected("kit")
            front.mesh.take_catalog(catalog(instance(back)))
            await front.when(lambda: "kit__write" in front.mesh.routes.tools)
            async with calling(front.url) as response:
                content = await response.content.readany()
                pinged.set()
                content += await response.read()
            await settled(front)
            await settled(back)
            assert outcomes(front) == outcomes(back) == {"ok": 1.0}
    if slow:
        (content,) = SseParser(8 * MIB).feed(content)
    assert content == b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"


@all_forms
async def test_one_that_breaks_off_early_is_asked_for_again_elsewhere(form: AnswerTo, tmp_path: Path) -> None:
    result = result_of(3 * MIB)

    async def break_off(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(form(seen, result)[: HELD_BYTES_MAX // 2])
        await writer.drain()

    async def write(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_to(seen, result))
        await writer.drain()

    broken = ScriptedNode("one", break_off)
    async with front_of(tmp_path, broken, ScriptedNode("two", write)) as front:
        while not broken.asked:
            async with calling(front.url, "kit__look") as response:
                assert json.loads(await response.read())["result"] == json.loads(result)


@pytest.mark.parametrize("tool", ["look", "write"])
@all_forms
async def test_one_that_breaks_off_late_breaks_the_clients_connection_and_is_never_sent_again(
    form: AnswerTo, tool: str, tmp_path: Path
) -> None:
    async def break_off(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(form(seen, result_of(4 * MIB))[: 3 * MIB])
        await writer.drain()

    peers = ScriptedNode("one", break_off), ScriptedNode("two", break_off)
    async with front_of(tmp_path, *peers) as front:
        async with calling(front.url, f"kit__{tool}") as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert sum(peer.asked for peer in peers) == 1
        await settled(front)
        assert outcomes(front) == {"unknown": 1.0}


COMPLETE, SMUGGLED = b'{"resultType":"complete"', b'},"id":9,"result":{"x":1}'


@pytest.mark.parametrize("late", [False, True])
@all_forms
async def test_a_node_cannot_smuggle_members_into_our_envelope(form: AnswerTo, late: bool, tmp_path: Path) -> None:
    filler = b" " * (2 * MIB)
    body = COMPLETE + filler + SMUGGLED if late else COMPLETE + SMUGGLED[:-1] + filler + b"}"

    async def smuggle(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(form(seen, body))
        await writer.drain()

    async with front_of(tmp_path, ScriptedNode("one", smuggle)) as front, calling(front.url) as response:
        if late:
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        else:
            members = json.loads(await response.read(), object_pairs_hook=list)
            assert members[:2] == [("jsonrpc", "2.0"), ("id", 1)]
            assert [name for name, _ in members[2:]] == ["result" if form is chunks_to else "error"], (
                "once, and read whole"
            )


async def test_what_a_slow_client_does_not_read_is_not_read_from_the_other_node(tmp_path: Path) -> None:
    result = result_of(64 * MIB)
    written, stalled = 0, asyncio.Event()

    async def write(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(high=0)
        view = memoryview(answer_to(seen, result))
        for start in range(0, len(view), MIB):
            writer.write(view[start : start + MIB])
            try:
                async with asyncio.timeout(None if stalled.is_set() else 0.5):
                    await writer.drain()
            except TimeoutError:
                stalled.set()  # A busy machine may say so too early, when even less was written.
                await writer.drain()
            written += 1
        stalled.set()

    async with front_of(tmp_path, ScriptedNode("one", write)) as front, calling(front.url) as response:
        await stalled.wait()
        assert written < 40, "MiB; the kernel's buffers of two connections hold the rest"
        assert len(await response.read()) > 64 * MIB


async def test_an_answer_that_was_kept_alive_carries_a_large_result_as_one_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.server.response.PING_EVERY_S", 0.01)
    result, pinged = result_of(3 * MIB), asyncio.Event()

    async def write(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await pinged.wait()
        view: Any = memoryview(answer_to(seen, result))
        for start in range(0, len(view), MIB // 4):
            writer.write(view[start : start + MIB // 4])
            await writer.drain()

    async with front_of(tmp_path, ScriptedNode("one", write)) as front, calling(front.url) as response:
        content = await response.content.readany()
        pinged.set()
        content += await response.read()
        assert response.content_type == "text/event-stream"
        assert SseParser(8 * MIB).feed(content) == [b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"]


async def test_a_client_that_goes_ends_the_reading_and_blames_no_server(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def write(seen: Seen, writer: asyncio.StreamWriter) -> None:
        view = memoryview(answer_to(seen, result_of(64 * MIB)))
        try:
            for start in range(0, len(view), MIB):
                writer.write(view[start : start + MIB])
                await writer.drain()
        except ConnectionError:
            gone.set()
            raise

    async with front_of(tmp_path, ScriptedNode("one", write)) as front:
        async with calling(front.url) as response:
            await response.content.readany()
        await gone.wait()
        await settled(front)
        assert outcomes(front) == {"cancelled": 1.0}
