"""One endpoint over real sockets, for what a list of requests and answers does not show: time, size and departures.

Its management tools stand for whatever takes its time, as a test decides it. The one rule: what a client of 2026-07-28
sees here it sees from a node.
"""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastmcp import Client

from agent.dispatch.dispatcher import Dispatch
from agent.metrics import Metrics
from agent.model import Json, NodeIdentity
from agent.rest.envelope import envelope_middleware
from agent.routing.table import RouteKind, RouteTable
from agent.server.endpoint import Endpoint, build_endpoint
from agent.server.response import Answer
from agent.server.sessions.sealed_id import seal_keys
from agent.subscriptions.resources import ClientUpdates
from tests.integration.stateless_requests import BOTH, ENVELOPE, VERSION, Sent, call, listen, post

BODY_BYTES_MAX = 4 * 1024 * 1024


class NodeStatus:
    """Answers when the test lets it, and notes how far its only slow question got."""

    def __init__(self) -> None:
        self.started, self.release = asyncio.Event(), asyncio.Event()
        self.cancelled, self.finished = asyncio.Event(), asyncio.Event()

    async def reload(self, server_name: str) -> Json:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.finished.set()
        return {"server_name": server_name, "success": True}

    async def reload_all(self) -> list[Json]:
        return []

    async def ask(self, node: str, tool: str, arguments: Json) -> Json:
        raise AssertionError((node, tool, arguments))

    def servers(self) -> list[Json]:
        return []

    def functions(self, server_name: str) -> Json:
        return {"server_name": server_name}

    def config(self) -> Json:
        return {}

    def health(self) -> Json:
        return {}


class Scene:
    """A running endpoint, and a client of its own for each request."""

    def __init__(self, endpoint: Endpoint, node_status: NodeStatus, runner: web.AppRunner) -> None:
        self.endpoint, self.node_status, self.runner = endpoint, node_status, runner
        self.port: int = runner.addresses[0][1]

    def url(self, path: str = "/mcp") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @asynccontextmanager
    async def open(self, sent: Sent) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer as it comes."""
        method, headers, body = sent
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url(), json=body, headers=headers) as told,
        ):
            yield told

    async def send(self, sent: Sent) -> tuple[int, str]:
        async with self.open(sent) as told:
            return told.status, await told.text()


RELOAD = call("reload_mcp_server", {"server_name": "kit"})
LISTEN = listen({"toolsListChanged": True})


@asynccontextmanager
async def scene(*, drain_s: float = 5.0) -> AsyncIterator[Scene]:
    node_status, metrics, identity = NodeStatus(), Metrics("test"), NodeIdentity("node-id", "one")
    endpoint = build_endpoint(
        "/mcp",
        identity=identity,
        node_status=node_status,
        routes=RouteTable,
        dispatch=Dispatch(
            node_id=identity.node_id,
            link=lambda _: None,
            recorder=metrics,
            call_timeout_s=10.0,
            rng=random.Random(1),
        ),
        list_changed=metrics.list_changed,
        session_event=metrics.session_event,
        session_keys=lambda: seal_keys((b"secret",), "mcp-node"),
        updates=ClientUpdates.of_node(identity.node_id, lambda _: None, metrics),
    )
    app = web.Application(middlewares=[envelope_middleware])
    endpoint.add_to(app)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=drain_s)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Scene(endpoint, node_status, runner)
    finally:
        await runner.cleanup()


async def until_line(told: aiohttp.ClientResponse, word: str) -> str:
    async with asyncio.timeout(5):
        async for line in told.content:
            if word in line.decode():
                return line.decode()
    raise AssertionError(f"the stream ended without {word!r}")


@pytest.mark.parametrize("mode", ["auto", VERSION])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_fastmcps_client_calls_a_tool_of_ours(mode: str, path: str) -> None:
    async with scene() as now, Client(now.url(path), mode=mode) as client:
        result = await client.call_tool("get_mcp_server_functions", {"server_name": "kit"})
    assert result.data == {"server_name": "kit"}


async def test_a_listening_client_hears_that_the_tools_changed() -> None:
    async with scene() as now, now.open(LISTEN) as told, asyncio.TaskGroup() as group:
        telling = group.create_task(now.endpoint.notices.run(), name="notices")
        assert told.content_type == "text/event-stream"
        await until_line(told, "acknowledged")
        now.endpoint.notices.changed({RouteKind.PROMPT})
        now.endpoint.notices.changed({RouteKind.TOOL})
        assert "notifications/tools/list_changed" in await until_line(told, "list_changed")
        telling.cancel()


async def test_a_client_that_leaves_cancels_its_call_of_a_tool_of_ours() -> None:
    async with scene() as now, asyncio.timeout(10), asyncio.TaskGroup() as group:
        calling = group.create_task(now.send(RELOAD), name="call")
        await now.node_status.started.wait()
        calling.cancel()
        await now.node_status.cancelled.wait()
        assert not now.node_status.finished.is_set()


async def test_a_listening_client_that_leaves_leaves_nothing_behind() -> None:
    async with scene() as now:
        async with now.open(LISTEN) as told:
            await until_line(told, "acknowledged")
            assert repr(now.endpoint.streams) == "<ListenStreams 1 open>"
        async with asyncio.timeout(5):
            while repr(now.endpoint.streams) != "<ListenStreams 0 open>":
                await now.send(post("tools/list"))


async def test_shutdown_ends_listening_in_time_without_a_result() -> None:
    async with scene(drain_s=20) as now, now.open(LISTEN) as told:
        await until_line(told, "acknowledged")
        async with asyncio.timeout(5):  # Far less than the drain time.
            await now.runner.cleanup()
            assert b"result" not in await told.read()
    assert repr(now.endpoint.streams) == "<ListenStreams 0 open, closing>"


async def test_streams_that_are_closed_before_the_shutdown_end_and_no_other_begins() -> None:
    async with scene() as now, now.open(LISTEN) as told:
        await until_line(told, "acknowledged")
        now.endpoint.close_streams()
        async with asyncio.timeout(5):
            await told.read()
        status, text = await now.send(LISTEN)
        assert (status, json.loads(text)["error"]["code"], json.loads(text)["id"]) == (503, -32603, 1)
        assert (await now.send(post("tools/list")))[0] == 200


async def test_a_call_in_flight_is_answered_at_shutdown() -> None:
    async with scene() as now, asyncio.TaskGroup() as group:
        calling = group.create_task(now.send(RELOAD), name="call")
        await now.node_status.started.wait()
        stopping = group.create_task(now.runner.cleanup(), name="stop")
        while "closing" not in repr(now.endpoint.streams):
            await asyncio.wait([stopping], timeout=0.01)
        now.node_status.release.set()
        status, text = await calling
        assert (status, json.loads(text)["result"]["structuredContent"]["success"]) == (200, True)


async def test_a_call_that_outlives_the_drain_time_does_not_hold_the_node() -> None:
    async with scene(drain_s=0.1) as now, asyncio.timeout(10), asyncio.TaskGroup() as group:
        calling = group.create_task(cut_off(now), name="call")
        await now.node_status.started.wait()
        await now.runner.cleanup()
        await calling
        assert now.node_status.cancelled.is_set()


async def cut_off(now: Scene) -> None:
    with pytest.raises(aiohttp.ClientError):
        await now.send(RELOAD)


@pytest.mark.parametrize("sent", [RELOAD, LISTEN], ids=["a call", "listening"])
async def test_a_slow_answer_is_kept_alive(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.server.response.PING_EVERY_S", 0.02)
    async with scene() as now, now.open(sent) as told:
        for _ in range(3):
            assert await until_line(told, "ping") == ": ping\r\n"
        if sent is RELOAD:
            now.node_status.release.set()
            assert '"success":true' in await until_line(told, "structuredContent")


@pytest.mark.parametrize(
    ("head", "body", "served_as"),
    [
        (post("tools/list")[1], post("tools/list")[2], 200),
        (post("server/discover")[1], post("server/discover")[2], 200),
        ([("Accept", BOTH)], {"jsonrpc": "2.0", "id": 1, "method": "ping"}, 400),
    ],
    ids=["a list", "a discovery", "without a session"],
)
async def test_a_request_may_have_four_mebibytes_and_no_byte_more(
    head: list[tuple[str, str]], body: Json, served_as: int
) -> None:
    whole = json.dumps(body).ljust(BODY_BYTES_MAX).encode()
    statuses = []
    async with scene() as now, aiohttp.ClientSession() as http:
        for sent in (whole, whole + b" "):
            # Once with an announced length, once in pieces that announce none.
            for data in (io.BytesIO(sent), in_pieces(sent)):
                typed = {**dict(head), "Content-Type": "application/json"}
                async with http.post(now.url(), data=data, headers=typed) as told:
                    statuses.append(told.status)
    assert statuses == [served_as, served_as, 413, 413]


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


async def test_a_compressed_body_is_measured_unpacked_and_read() -> None:
    _, headers, body = post("tools/list")
    typed = {**dict(headers), "Content-Type": "application/json"}
    async with scene() as now, aiohttp.ClientSession() as http:
        for data, status in ((json.dumps(body).encode(), 200), (b" " * (BODY_BYTES_MAX + 1), 413)):
            async with http.post(now.url(), data=in_pieces(data), headers=typed, compress="gzip") as told:
                assert told.status == status
                if status == 200:
                    assert len((await told.json())["result"]["tools"]) == 5


async def test_numbers_beyond_64_bits_are_no_trouble_to_what_we_answer_ourselves() -> None:
    meta = {**ENVELOPE, "mine": 10**30, "also": [10**40]}
    async with scene() as now:
        for sent in (call("list_mcp_servers", {}, _meta=meta), post("server/discover", {"_meta": meta})):
            assert (await now.send(sent))[0] == 200
        wanted = listen({"toolsListChanged": True}, _meta=meta)
        wanted[2]["id"] = 10**30
        async with now.open(wanted) as told:
            assert f'"io.modelcontextprotocol/subscriptionId":{10**30}' in await until_line(told, "acknowledged")


async def test_what_is_nested_too_deeply_for_a_tool_of_ours_is_refused() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    async with scene() as now:
        status, text = await now.send(call("list_mcp_servers", deep))
    assert (status, json.loads(text)["error"]["message"]) == (400, "params: nested too deeply")


@pytest.mark.parametrize("large", [False, True], ids=["events", "one large result"])
async def test_a_client_that_reads_nothing_is_dropped_and_its_call_cancelled(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.server.response.WRITE_TIMEOUT_S", 0.2)
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def flood(request: web.Request) -> web.StreamResponse:
        told = Answer(request, 1)
        try:
            for _ in range(0 if large else 1000):
                await told.notify("notifications/message", {"data": "x" * 65536})
            return await told.result(b"[" + b" " * (64 << 20) + b"]")
        except BaseException as exc:
            ended.set_result(type(exc).__name__)
            raise

    app = web.Application()
    app.router.add_get("/", flood)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with asyncio.timeout(20):
            _reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1], limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await ended == "CancelledError"
            writer.close()
    finally:
        await runner.cleanup()
