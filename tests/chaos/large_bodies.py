"""A real node with servers of all kinds, for bodies of 4 MB in either direction; a client that sends such bodies.

Used by `tests/chaos/test_body_memory.py`. The one rule: neither the servers nor the client read what is large, so that
a body takes no longer than the node does.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import aiohttp
import orjson
from aiohttp import web

from agent.model import Json
from bench.churn import BODY_BYTES
from bench.processes import node_process
from tests.e2e.running import START_TIMEOUT_S
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import ENVELOPE, PREFIX, headers
from tests.waiting import eventually

CHILD = Path(__file__).parents[1] / "integration" / "servers" / "large_child.py"
PROPERTIES: Json = {
    "n": {"type": "integer", "x-mcp-header": "N"},
    "inner": {"type": "object", "properties": {"m": {"type": "string", "x-mcp-header": "M"}}},
}
TOOLS: Json = {name: {"type": "object"} for name in ("take", "give", "tell", "ask")}
TOOLS["headed"] = {"type": "object", "properties": PROPERTIES}
META = orjson.dumps(ENVELOPE | {f"{PREFIX}clientCapabilities": {"sampling": {}}})
SESSION, BATCHES = "2025-11-25", "2025-03-26"
_ID = re.compile(rb'"id":([0-9]+)')
_METHOD = re.compile(rb'"method":"([a-z/]+)"')
_NAME = re.compile(rb'"name":"([a-z]+)"')
_EVENTS = {"Content-Type": "text/event-stream"}


def filled(item: bytes, bytes_len: int = BODY_BYTES - 1_024) -> bytes:
    """A list of as many as fit."""
    return b"[%s]" % b",".join([item] * ((bytes_len - 2) // (len(item) + 1)))


@cache
def lists() -> bytes:
    """As many empty lists as fit; not made by every worker that collects this."""
    return filled(b"[]")


@dataclass
class Servers:
    """One of 2026-07-28, and one with sessions that asks its caller; each tells how many bytes it was sent."""

    answered: "asyncio.Future[int]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def modern(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        request_id, method = _ID.search(raw), _METHOD.search(raw)
        if request_id is None or method is None:
            return web.Response(status=202)
        result: bytes = orjson.dumps(
            {"resultType": "complete", "content": [], "structuredContent": {"bytes": len(raw)}}
        )
        match method[1].decode():
            case "server/discover":
                capabilities = {"tools": {}, "resources": {"subscribe": True}}
                found = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"}
                result = orjson.dumps(found)
            case "tools/list":
                hint = {"readOnlyHint": True}
                tools = [{"name": name, "inputSchema": schema, "annotations": hint} for name, schema in TOOLS.items()]
                result = orjson.dumps({"tools": tools, "resultType": "complete"})
            case "resources/templates/list":
                result = b'{"resourceTemplates":[{"uriTemplate":"kit://{+x}","name":"x"}],"resultType":"complete"}'
            case "tools/call" if (name := _NAME.search(raw)) is not None and name[1] == b"give":
                result = b'{"resultType":"complete","content":[],"structuredContent":{"rows":%s}}' % lists()
            case "tools/call" if name is not None and name[1] == b"ask":
                asked = b'{"a":{"method":"sampling/createMessage","params":{"messages":[],"x":%s}}}' % lists()
                result = b'{"resultType":"input_required","requestState":"s","inputRequests":%s}' % asked
            case "tools/call" if name is not None and name[1] == b"tell":
                told = b'{"level":"info","data":%s}' % lists()
                note = b'{"jsonrpc":"2.0","method":"notifications/message","params":%s}' % told
                events = b"data: %s\n\ndata: %s\n\n" % (note, response(request_id[1], result))
                return web.Response(body=events, headers=_EVENTS)
            case "tools/call":
                pass
            case _:
                return web.json_response({"jsonrpc": "2.0", "id": int(request_id[1]), "error": {"code": -32601}})
        return web.Response(body=response(request_id[1], result), content_type="application/json")

    async def asking(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        if request.method != "POST":
            return web.Response(status=405)
        if b'"method"' not in raw[:200]:
            if b'"result"' in raw[:200]:
                self.answered.set_result(len(raw))
            return web.Response(status=202)
        message = orjson.loads(raw)
        match message["method"]:
            case "initialize":
                opened = {"protocolVersion": SESSION, "capabilities": {"tools": {}}}
                opened["serverInfo"] = {"name": "asking", "version": "1"}
                answer = response(b"%d" % message["id"], orjson.dumps(opened))
                kept = {"Mcp-Session-Id": f"{id(answer)}"}
                return web.Response(body=answer, content_type="application/json", headers=kept)
            case "tools/list":
                tools = [{"name": "ask", "inputSchema": {"type": "object"}}]
                answer = response(b"%d" % message["id"], orjson.dumps({"tools": tools}))
                return web.Response(body=answer, content_type="application/json")
            case "tools/call":
                return await self._ask(request, message["id"])
            case _:
                return web.Response(status=202)

    async def _ask(self, request: web.Request, request_id: int) -> web.StreamResponse:
        self.answered = asyncio.get_running_loop().create_future()
        stream = web.StreamResponse(headers=_EVENTS)
        await stream.prepare(request)
        asked = {"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage"}
        asked["params"] = {"messages": [], "maxTokens": 1}
        await stream.write(b"data: %s\n\n" % orjson.dumps(asked))
        told = orjson.dumps({"content": [], "structuredContent": {"bytes": await self.answered}})
        await stream.write(b"data: %s\n\n" % response(b"%d" % request_id, told))
        return stream


def response(request_id: bytes, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (request_id, result)


@dataclass
class Client:
    """A client of both eras. `process_id`: of the node's process."""

    http: aiohttp.ClientSession
    url: str
    process_id: int
    sessions: dict[str, dict[str, str]] = field(default_factory=dict)

    async def open(self, version: str) -> None:
        asked = initialize_request(version)
        asked["params"]["capabilities"] = {"sampling": {}}
        async with self.http.post(self.url, json=asked, headers=ACCEPT) as answer:
            session_id = answer.headers["Mcp-Session-Id"]
        told = {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": version, "Content-Type": "application/json"}
        self.sessions[version] = {**ACCEPT, **told}

    async def sent(self, body: bytes, told: dict[str, str]) -> bytes:
        """The answer's message, unread; of several events, the last one."""
        async with self.http.post(self.url, data=body, headers=told) as answer:
            text = await answer.read()
        return text[text.rindex(b"data: ") + 6 :] if text.startswith((b"data: ", b"event: ")) else text

    async def modern(self, method: str, name: str | None, params: bytes, in_meta: bytes = b"", **told: str) -> bytes:
        """The answer to a request. `params`, `in_meta`: members with a comma behind, and before."""
        meta = META[:-1] + in_meta + b"}"
        body = b'{"jsonrpc":"2.0","id":1,"method":"%s","params":{%s"_meta":%s}}' % (method.encode(), params, meta)
        return await self.sent(body, dict(headers(method, name)) | told | {"Content-Type": "application/json"})

    async def first_event(self, body: bytes, told: dict[str, str]) -> bytes:
        """The first event of an answer, which is left then."""
        async with self.http.post(self.url, data=body, headers=told) as answer:
            async for line in answer.content:
                if line.startswith((b"data: ", b"{")):
                    return line.removeprefix(b"data: ")
        raise AssertionError("it said nothing")

    async def answering(self, result: bytes) -> bytes:
        """What a session's call gets whose server asks the client, and is answered so."""
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"asking__ask"}}'
        said = b""
        async with self.http.post(self.url, data=body, headers=self.sessions[SESSION]) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    said = line.removeprefix(b"data: ")
                    if (asked := orjson.loads(said)).get("method") == "sampling/createMessage":
                        await self.sent(response(b"%d" % asked["id"], result), self.sessions[SESSION])
        return said


@asynccontextmanager
async def client_of_a_node() -> AsyncIterator[Client]:
    """A client of a node that has all of these servers, one of them a fleet's."""
    servers, app = Servers(), web.Application(client_max_size=2**24)
    app.router.add_post("/kit", servers.modern)
    app.router.add_route("*", "/asking", servers.asking)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        configured: Json = {
            "kit": {"url": f"{base}/kit"},
            "disk": {"url": f"{base}/kit", "mesh": {"scope": "fleet"}},
            "asking": {"url": f"{base}/asking"},
            "pipe": {"command": sys.executable, "args": [str(CHILD)], "mesh": {"scope": "service"}},
        }
        async with (
            aiohttp.ClientSession(read_bufsize=2**23) as http,
            node_process("front", servers=configured, start_timeout_s=START_TIMEOUT_S, MESH_DISCOVERY="off") as front,
        ):
            node, process_id = front
            client = Client(http, f"{node}/mcp", process_id)

            async def lists_all() -> bool:
                listed = await client.modern("tools/list", None, b"")
                return all(
                    b'"%s"' % name in listed for name in (b"kit__take", b"disk__take", b"asking__ask", b"pipe__give")
                )

            await eventually(lists_all)
            await client.open(SESSION)
            await client.open(BATCHES)
            yield client
    finally:
        await runner.cleanup()
