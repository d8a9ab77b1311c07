"""The largest request that a client may send reaches its server, whatever nodes on the way add to it."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from agent.server.request import BODY_BYTES_MAX, VALUES_MAX
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import headers, request

VERSION = "2025-11-25"


async def answer(request: Seen) -> tuple[bytes, bool]:
    """A server without a limit that tells how much it was sent."""
    match request.body.get("method"):
        case "server/discover":
            return discovered(request), True
        case "tools/list":
            return rpc_result(request, {"tools": [{"name": "take", "inputSchema": {"type": "object"}}]}), True
        case "tools/call":
            size = len(request.body["params"]["arguments"]["text"])
            return rpc_result(request, {"content": [], "structuredContent": {"size": size}}), True
        case _:
            return rpc_error(request, 404, -32601, "Method not found"), True


def of_size(message: Json, size: int) -> tuple[bytes, int]:
    """The message with a text that makes it so many bytes, and how long the text is."""
    text_len = size - len(json.dumps(message))
    message["params"]["arguments"]["text"] = "x" * text_len
    return json.dumps(message).encode(), text_len


@asynccontextmanager
async def calling(era: Era, hops: int, tmp_path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str, Json, Json]]:
    """A client before so many nodes: where it calls, and the message and headers of its call."""
    async with (
        scripted(answer) as script,
        front_of(tmp_path, ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE), hops=hops) as node,
        aiohttp.ClientSession(headers={**ACCEPT, "Content-Type": "application/json"}) as http,
    ):
        params: Json = {"name": "kit__take", "arguments": {"text": ""}}
        message, told = request("tools/call", params), dict(headers("tools/call", "kit__take"))
        if era is Era.LEGACY:
            async with http.post(node.url, json=initialize_request(VERSION)) as response:
                told = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], "MCP-Protocol-Version": VERSION}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        yield http, node.url, message, told


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", Era)
async def test_a_call_of_four_mebibytes_arrives_over_every_hop_and_a_larger_one_is_refused_at_the_first(
    era: Era, hops: int, tmp_path: Path
) -> None:
    async with calling(era, hops, tmp_path) as (http, url, message, told):
        body, text_len = of_size(message, BODY_BYTES_MAX)
        async with http.post(url, data=io.BytesIO(body), headers=told) as response:
            answered = await response.json()
        assert answered["result"]["structuredContent"] == {"size": text_len}
        async with http.post(url, data=io.BytesIO(body + b" "), headers=told) as response:
            assert response.status == 413


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", Era)
async def test_a_call_of_as_many_values_as_are_read_arrives_over_every_hop_and_one_of_more_is_refused_at_the_first(
    era: Era, hops: int, tmp_path: Path
) -> None:
    async with calling(era, hops, tmp_path) as (http, url, message, told):
        arguments = message["params"]["arguments"]
        arguments["text"] = []
        body = orjson.dumps(message)
        count = VALUES_MAX - sum(body.count(mark) for mark in (b",", b"[", b"{")) + 1
        for added, status in ((0, 200), (1, 413)):
            arguments["text"] = [1] * (count + added)
            async with http.post(url, data=io.BytesIO(orjson.dumps(message)), headers=told) as response:
                assert response.status == status
                answered = await response.json()
            if status == 413:
                assert f"more than {VALUES_MAX} values" in answered["error"]["message"]
            else:
                assert answered["result"]["structuredContent"] == {"size": count}
