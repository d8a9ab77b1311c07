"""Schemas pass byte for byte; numbers that no double holds pass unchanged everywhere, half a surrogate pair in results.

Over one node and over two, for fronts and backends of both eras.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.client.http.sse import SseParser
from agent.model import Era, HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.hops import front_before
from tests.integration.servers.hosting import Seen, discovered, http, scripted
from tests.integration.servers.nodes import RunningNode, running_node
from tests.integration.stateless_requests import headers, request

NUMBERS = (
    '[1.0,123456789012345678901234567890,1e400,-9223372036854775809,18446744073709551615,0.1,{"z":1,"a":2},"\\ud83d"]'
)
# Everything that a reader of JSON may write otherwise: white space, escapes, spellings of numbers, doubled members.
ODD = '"description":"\\u00e9\\/", \n"x":[1e5, 0.10,-0],"x":1E2'
# A list with half a pair is refused by Python's clients, so one is shown in another way, beside.
WHOLE = NUMBERS.replace("\\ud83d", "whole")
SCHEMA = f'{{"type":"object","properties":{{"n":{{"default":1.0,"enum":{WHOLE}}}}},{ODD}}}'
HALVED = f'{{"type":"object","enum":{NUMBERS}}}'
TOOL_LIST = f'[{{"name":"do","inputSchema":{SCHEMA}}},{{"name":"halved","inputSchema":{HALVED}}}]'
TOOLS = f'{{"resultType":"complete","tools":{TOOL_LIST}}}'
RESULT = f'{{"content":[],"structuredContent":{{"n":{NUMBERS}}}}}'
ERROR = f'{{"code":-32050,"message":"no","data":{NUMBERS}}}'

both_eras = [Era.MODERN, Era.LEGACY]


def exactly(text: str | bytes) -> Any:
    """JSON with each number as it was spelled, and the members of each object in their order."""
    return json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=list)


@dataclass
class Backend:
    """A server of either era. `calls`: the bodies of tools/call as they came."""

    era: Era
    calls: list[bytes] = field(default_factory=list)

    async def answer(self, seen: Seen) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover" if self.era is Era.MODERN:
                return discovered(seen), True
            case "initialize":
                server_info = '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s"}}'
                return self._response(seen, f'"result":{server_info}'), True
            case "notifications/initialized":
                return http(202), True
            case "tools/list":
                return self._response(seen, f'"result":{TOOLS}'), True
            case "tools/call":
                self.calls.append(seen.raw)
                fails = seen.body["params"]["arguments"].get("fails")
                return self._response(seen, f'"error":{ERROR}' if fails else f'"result":{RESULT}'), True
            case _:
                return http(404 if self.era is Era.MODERN else 405), True

    def _response(self, seen: Seen, outcome: str) -> bytes:
        return http(200, f'{{"jsonrpc":"2.0","id":{json.dumps(seen.body["id"])},{outcome}}}'.encode())


@dataclass
class RawClient:
    """A client that sends and gets bytes, over any number of requests."""

    http: aiohttp.ClientSession
    url: str
    era: Era
    session: dict[str, str] = field(default_factory=dict)

    async def open(self) -> None:
        if self.era is Era.LEGACY:
            server_info = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "c", "version": "1"},
            }
            body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": server_info}).encode()
            async with self._post(body, {}) as response:
                self.session = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
                await response.read()

    async def ask(self, method: str, params: str, name: str = "") -> bytes:
        """`params`: members of an object as text; returns the whole message as it came."""
        message = json.dumps(request(method, {"@": 0})).replace('"@": 0', params)
        modern = dict(headers(method, name) if name else headers(method))
        if self.era is Era.LEGACY:
            message, modern = f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}', {}
        async with self._post(message.encode(), modern) as response:
            content: bytes = await response.read()
            if response.content_type == "text/event-stream":
                content = SseParser(1 << 20).feed(content)[-1]
            return content

    def _post(self, body: bytes, extra: dict[str, str]) -> Any:
        usual = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        return self.http.post(self.url, data=body, headers={**extra, **usual, **self.session})


@dataclass
class Scene:
    mcp: RawClient
    backend: Backend


@contextlib.asynccontextmanager
async def scene(front: Era, behind: Era, hops: int, folder: Path) -> AsyncIterator[Scene]:
    backend = Backend(behind)
    async with contextlib.AsyncExitStack() as stack:
        script = await stack.enter_async_context(scripted(backend.answer))
        kit = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        node: RunningNode = await stack.enter_async_context(running_node("one", folder / "one", servers=[kit]))
        await node.connected("kit")
        if hops > 1:
            node = await stack.enter_async_context(front_before(folder, node))
        await node.when(lambda: node.tool_names() == ["kit__do", "kit__halved"])
        session = await stack.enter_async_context(aiohttp.ClientSession())
        mcp = RawClient(session, node.url, front)
        await mcp.open()
        yield Scene(mcp, backend)


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("behind", both_eras)
@pytest.mark.parametrize("front", both_eras)
async def test_schemas_and_numbers_pass_unchanged(front: Era, behind: Era, hops: int, tmp_path: Path) -> None:
    async with scene(front, behind, hops, tmp_path) as now:
        listed = await now.mcp.ask("tools/list", '"cursor":null')
        # A line break would end the event that a list may come in; a space is the same to JSON.
        assert f'"inputSchema":{SCHEMA},'.replace("\n", " ").encode() in listed
        tools = {dict(tool)["name"]: dict(tool) for tool in dict(dict(exactly(listed))["result"])["tools"]}
        assert tools["kit__halved"]["inputSchema"] == exactly(HALVED.replace("\\ud83d", "\ufffd"))

        arguments = f'{{"n":{NUMBERS}}}'
        answer = await now.mcp.ask("tools/call", f'"name":"kit__do","arguments":{arguments}', "kit__do")
        assert dict(dict(exactly(answer))["result"])["structuredContent"] == exactly(RESULT)[1][1]
        assert dict(dict(exactly(now.backend.calls[-1]))["params"])["arguments"] == exactly(arguments)

        refused = await now.mcp.ask("tools/call", '"name":"kit__do","arguments":{"fails":true}', "kit__do")
        assert dict(exactly(refused))["error"] == exactly(ERROR)
