"""The short way of stateless requests and the long one through ASGI and the SDK: the same request, the same answer.

Every request is sent to a real node twice, once to its endpoint and once straight to the bridge behind it. The one
rule: whatever a client sends, it cannot tell which way was taken.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastmcp import FastMCP
from multidict import CIMultiDict

from agent.client.http.sse import SseParser
from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from agent.rest.envelope import envelope_middleware
from agent.server.response import Answer
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.nodes import RunningNode, running_node, served
from tests.integration.servers.task_server import task_server

VERSION = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
BOTH = "application/json, text/event-stream"


def request(method: str, params: Any = None, **more: Any) -> Json:
    """A regular request of the stateless era; `params` that are an object get the envelope."""
    message: Json = {"jsonrpc": "2.0", "id": 1, "method": method} | more
    if isinstance(params, dict):
        params = {**params, "_meta": {**ENVELOPE, **params.get("_meta", {})}}
    if params is not None:
        message["params"] = params
    return message


TAKES_TASKS: Json = {
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}
}


def headers(method: str, name: str | None = None, **more: str) -> list[tuple[str, str]]:
    found = {"Accept": BOTH, "MCP-Protocol-Version": VERSION, "Mcp-Method": method}
    if name is not None:
        found["Mcp-Name"] = name
    found |= {key.replace("_", "-"): value for key, value in more.items()}
    return list(found.items())


ECHO = {"name": "kit__echo", "arguments": {"text": "hi"}}

REGULAR: dict[str, tuple[list[tuple[str, str]], Any]] = {
    "tools": (headers("tools/list"), request("tools/list", {})),
    "prompts": (headers("prompts/list"), request("prompts/list", {})),
    "resources": (headers("resources/list"), request("resources/list", {})),
    "templates": (headers("resources/templates/list"), request("resources/templates/list", {})),
    "a call": (headers("tools/call", "kit__echo"), request("tools/call", ECHO)),
    "a call with a text for an id": (headers("tools/call", "kit__echo"), request("tools/call", ECHO, id="x-1")),
    "a call with a large answer": (
        headers("tools/call", "kit__echo"),
        request("tools/call", {"name": "kit__echo", "arguments": {"text": "0123456789" * 60_000}}),
    ),
    "our own tool": (
        headers("tools/call", "get_available_mcp_servers"),
        request("tools/call", {"name": "get_available_mcp_servers", "arguments": {}}),
    ),
    "our own resource": (headers("resources/read", "health://x"), request("resources/read", {"uri": "health://x"})),
    "a tool that fails": (
        headers("tools/call", "kit__echo"),
        request("tools/call", {"name": "kit__echo", "arguments": {"wrong": 1}}),
    ),
}

IRREGULAR: dict[str, tuple[list[tuple[str, str]], Any]] = {
    "a cursor": (headers("tools/list"), request("tools/list", {"cursor": "2"})),
    "an unknown tool": (headers("tools/call", "kit__no"), request("tools/call", {"name": "kit__no"})),
    "an unknown resource": (headers("resources/read", "a://b/c"), request("resources/read", {"uri": "a://b/c"})),
    "no name": (headers("tools/call"), request("tools/call", {"arguments": {}})),
    "a name of another type": (headers("tools/call", "7"), request("tools/call", {"name": 7})),
    "arguments that are a list": (
        headers("tools/call", "kit__echo"),
        request("tools/call", {"name": "kit__echo", "arguments": []}),
    ),
    "another name in the header": (headers("tools/call", "kit__fill"), request("tools/call", ECHO)),
    "no name in the header": (headers("tools/call"), request("tools/call", ECHO)),
    "another method in the header": (headers("tools/list"), request("tools/call", ECHO)),
    "no method in the header": (headers("tools/list")[:-1], request("tools/list", {})),
    "another version in the header": (
        headers("tools/list", MCP_Protocol_Version="2027-01-01"),
        request("tools/list", {}),
    ),
    "a version from the future": (
        headers("tools/list", MCP_Protocol_Version="2027-01-01"),
        request("tools/list", {"_meta": {"io.modelcontextprotocol/protocolVersion": "2027-01-01"}}),
    ),
    "no envelope": (headers("tools/list"), {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}),
    "no params": (headers("tools/list"), request("tools/list")),
    "params that are a list": (headers("tools/list"), request("tools/list", [1])),
    "an envelope of nonsense": (
        headers("tools/list"),
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": "x"}},
    ),
    "a null id": (headers("tools/list"), request("tools/list", {}, id=None)),
    "a fractional id": (headers("tools/list"), request("tools/list", {}, id=1.5)),
    "a true id": (headers("tools/list"), request("tools/list", {}, id=True)),
    "another JSON-RPC": (headers("tools/list"), request("tools/list", {}, jsonrpc="1.0")),
    "a batch": (headers("tools/list"), [request("tools/list", {})]),
    "a doubled header": ([*headers("tools/list"), ("Mcp-Method", "tools/list")], request("tools/list", {})),
    "only JSON accepted": (headers("tools/list", Accept="application/json"), request("tools/list", {})),
    "everything accepted": (headers("tools/list", Accept="*/*"), request("tools/list", {})),
    "nothing acceptable": (headers("tools/list", Accept="image/png"), request("tools/list", {})),
    "a wrong content type": (headers("tools/list", Content_Type="text/plain"), request("tools/list", {})),
    "a header that repeats no argument": (
        headers("tools/call", "kit__echo", Mcp_Param_Region="eu"),
        request("tools/call", ECHO),
    ),
    "no JSON": (headers("tools/list"), b"{"),
    "an empty body": (headers("tools/list"), b""),
    "a text that UTF-8 cannot carry": (headers("tools/list"), b'{"jsonrpc":"2.0","id":1,"method":"\xff"}'),
    "a very deep body": (headers("tools/list"), b"[" * 5000 + b"]" * 5000),
    "a task of nobody": (headers("tasks/get", "1"), request("tasks/get", {"taskId": "1", "_meta": TAKES_TASKS})),
    "a task that is gone": (
        headers("tasks/get", "mesh1/peer/x/1"),
        request("tasks/get", {"taskId": "mesh1/peer/x/1", "_meta": TAKES_TASKS}),
    ),
    "another task in the header": (
        headers("tasks/get", "mesh1/peer/x/1"),
        request("tasks/get", {"taskId": "mesh1/peer/x/2", "_meta": TAKES_TASKS}),
    ),
    "no task": (headers("tasks/cancel"), request("tasks/cancel", {"_meta": TAKES_TASKS})),
    "a task of a client that takes none": (headers("tasks/update", "1"), request("tasks/update", {"taskId": "1"})),
    "an unknown method": (headers("tools/nothing"), request("tools/nothing", {})),
}


@asynccontextmanager
async def both_ways(folder: Path, server: FastMCP | None = None) -> AsyncIterator[tuple[RunningNode, str, str]]:
    """A node with one server; its endpoint's URL, and one that leads straight to the bridge."""
    async with served(server or make_server()) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec]) as node:
            await node.connected("kit")
            app = web.Application(middlewares=[envelope_middleware])
            app.router.add_route("*", "/mcp", node.endpoints[0].bridge.handle)
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                yield node, node.url, f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
            finally:
                await runner.cleanup()


async def answer(url: str, sent_headers: list[tuple[str, str]], body: Any) -> tuple[int, Json | None]:
    """Status and message, whether it came as JSON or as the last event of a stream."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if "Content-Type" not in dict(sent_headers):
        sent_headers = [*sent_headers, ("Content-Type", "application/json")]
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=data, headers=CIMultiDict(sent_headers)) as response,
    ):
        content = await response.read()
        if response.content_type == "text/event-stream":
            content = SseParser(1 << 20).feed(content)[-1]
        if response.content_type not in ("application/json", "text/event-stream"):
            return response.status, {"text": content.decode()}
        return response.status, json.loads(content) if content else None


def essence(message: Json | None) -> Json | None:
    """What a client acts on. Words of error messages differ, and a stamp of the server's name may stand in `_meta`."""
    if message is None:
        return None
    kept = {key: value for key, value in message.items() if key != "jsonrpc"}
    if isinstance(kept.get("error"), dict):
        kept["error"] = {"code": kept["error"]["code"]}
    if isinstance(kept.get("result"), dict):
        kept["result"] = {key: value for key, value in kept["result"].items() if key != "_meta"}
    return kept


@pytest.mark.parametrize("case", REGULAR)
async def test_a_regular_request_is_answered_alike_on_both_ways(case: str, tmp_path: Path) -> None:
    async with both_ways(tmp_path) as (_, short, long):
        sent_headers, body = REGULAR[case]
        status, message = await answer(short, sent_headers, body)
        reference_status, reference = await answer(long, sent_headers, body)
        assert (status, essence(message)) == (reference_status, essence(reference))
        assert message is not None
        assert message["id"] == body["id"]


async def test_an_irregular_request_is_answered_alike_on_both_ways(tmp_path: Path) -> None:
    different = {}
    async with both_ways(tmp_path) as (_, short, long):
        for case, (sent_headers, body) in IRREGULAR.items():
            status, message = await answer(short, sent_headers, body)
            reference_status, reference = await answer(long, sent_headers, body)
            found, wanted = (status, essence(message)), (reference_status, essence(reference))
            if found != wanted:
                different[case] = (found, wanted)
    assert different == {}


@pytest.mark.parametrize(
    ("sent_headers", "body", "served_as"),
    [
        (headers("tools/list"), request("tools/list", {}), 200),
        (headers("server/discover"), request("server/discover", {}), 200),
        ([("Accept", BOTH)], {"jsonrpc": "2.0", "id": 1, "method": "ping"}, 400),
    ],
    ids=["the short way", "the long way", "without a session"],
)
async def test_a_request_may_have_four_mebibytes_and_no_byte_more(
    sent_headers: list[tuple[str, str]], body: Json, served_as: int, tmp_path: Path
) -> None:
    whole = json.dumps(body).ljust(4 * 1024 * 1024).encode()
    statuses = []
    async with both_ways(tmp_path) as (_, short, _), aiohttp.ClientSession() as http:
        for sent in (whole, whole + b" "):
            typed = CIMultiDict([*sent_headers, ("Content-Type", "application/json")])
            async with http.post(short, data=io.BytesIO(sent), headers=typed) as told:
                statuses.append(told.status)
    assert statuses == [served_as, 413]


async def test_requests_about_a_task_are_answered_alike_on_both_ways(tmp_path: Path) -> None:
    server, tasks = task_server("here")
    async with both_ways(tmp_path, server) as (node, short, long):
        answers = []
        for url in (short, long):
            name = "kit__works"
            made = request("tools/call", {"name": name, "arguments": {"task_id": "job"}, "_meta": TAKES_TASKS})
            answers.append([essence((await answer(url, headers("tools/call", name), made))[1])])
            task_id = f"mesh1/server/{node.identity.node_id}/kit/job"
            for method in ("tasks/get", "tasks/cancel", "tasks/get"):
                asked = request(method, {"taskId": task_id, "_meta": TAKES_TASKS})
                status, message = await answer(url, headers(method, task_id), asked)
                assert status == 200
                answers[-1].append(essence(message))
        assert answers[0] == answers[1]
        assert [method for method, _ in tasks.asked] == ["tasks/get", "tasks/cancel", "tasks/get"] * 2


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
