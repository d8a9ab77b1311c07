"""The largest request that a client may send reaches its server, whatever nodes on the way add to it."""

import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from agent.server.request import BODY_BYTES_MAX
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import headers, request

VERSION = "2025-11-25"
Answers = Callable[[Seen], Awaitable[tuple[bytes, bool]]]


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
async def calling(
    era: Era, hops: int, tmp_path: Path, answer: Answers = answer, *, search_mode: bool | None = None
) -> AsyncIterator[tuple[aiohttp.ClientSession, str, Json, Json]]:
    """A client before so many nodes: where it calls, and the message and headers of its call."""
    async with (
        scripted(answer) as script,
        front_of(
            tmp_path, ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE), hops=hops, search_mode=search_mode
        ) as node,
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


ROW = b'{"id" : 1.50,"name":"\\u00e9 \\ud83d","big":12345678901234567890123,"more":1E400,"in":[{},[],null,-0]}'
KINDS = {
    "rows": b'{"rows":[%s]}' % b",".join([ROW] * 4_000),
    "whole numbers": b'{"rows":[%s]}' % b",".join([b"1"] * 300_000),
    "empty objects": b'{"rows":[%s]}' % b",".join([b"{}"] * 200_000),
    "deep": b'{"rows":[%s]}' % b",".join([b"[" * 200 + b"1" + b"]" * 200] * 1_000),
    "arguments": b"{%s}" % b",".join(b'"%06x":[%d]' % (number, number) for number in range(40_000)),
    "a text": b'{"text":"%s"}' % ("\\ud83d\\ude00\\n" * 20_000 + "\u00e9\u6f22" * 20_000).encode(),
}


async def counted(request: Seen) -> tuple[bytes, bool]:
    """The same server, which tells what its arguments were as bytes."""
    if request.body.get("method") != "tools/call":
        return await answer(request)
    arguments = request.raw.partition(b'"arguments":')[2]
    digest = hashlib.sha256(arguments[: arguments.rindex(b',"_meta"')]).hexdigest()
    return rpc_result(request, {"content": [], "structuredContent": {"digest": digest}}), True


def message_of(message: Json, arguments: bytes) -> bytes:
    """The message with these arguments, at its end."""
    message["params"]["arguments"] = orjson.Fragment(arguments)
    return orjson.dumps(message)


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", Era)
async def test_large_arguments_arrive_byte_for_byte_over_every_hop(era: Era, hops: int, tmp_path: Path) -> None:
    async with calling(era, hops, tmp_path, counted) as (http, url, message, told):
        for kind, arguments in KINDS.items():
            async with http.post(url, data=io.BytesIO(message_of(message, arguments)), headers=told) as response:
                answered = await response.json()
            assert "result" in answered, (kind, answered)
            assert answered["result"]["structuredContent"] == {"digest": hashlib.sha256(arguments).hexdigest()}, kind


LARGE = b'{"rows":[%s],"more":' % b",".join([b'{"a":[1,2]}'] * 20_000)
BROKEN = {
    "another bracket": b'{"a":[1,2,3}',
    "two ends": b"1}}}}",
    "no end": b'{"a":[1,2,3',
    "a comma before the end": b"[1,2,]",
    "NaN": b"NaN",
    "a leading zero": b"01",
    "no UTF-8": b'"\xff"',
    "a surrogate as UTF-8": b'"\xed\xa0\x80"',
    "half a pair in a name": b'{"\\ud83d":1}',
    "a control character": b'"\x01"',
    "no escape": b'"\\x"',
    "too deep": b"[" * 1_022 + b"]" * 1_022,
}


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_that_are_no_json_are_refused_as_small_ones_are(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        for kind, broken in BROKEN.items():
            refusals = []
            for begin in (b'{"more":', LARGE):
                body = message_of(message, begin + broken + b"}")
                async with http.post(url, data=io.BytesIO(body), headers=told) as response:
                    error = (await response.json()).get("error") or {}
                    words, _, place = error.get("message", "").partition(": line ")
                    refusals.append((response.status, error.get("code"), words, bool(place)))
            assert refusals[0] == refusals[1], kind
            assert refusals[0][:2] == (400, -32700), kind


@pytest.mark.parametrize("era", Era)
async def test_what_is_too_deep_to_be_sent_is_refused_in_large_arguments_too(era: Era, tmp_path: Path) -> None:
    deep = b"[" * 600 + b"]" * 600
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        errors = []
        for body in (b'{"more":%s}' % deep, LARGE + deep + b"}", b'{"rows":[%s]}' % b",".join([deep] * 300)):
            async with http.post(url, data=io.BytesIO(message_of(message, body)), headers=told) as response:
                errors.append((response.status, (await response.json())["error"]["message"]))
        assert len(set(errors)) == 1
        assert "cannot be sent as JSON" in errors[0][1]


@pytest.mark.parametrize("era", Era)
async def test_too_many_members_beside_the_arguments_are_refused(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        message["params"] |= {f"n{number}": number for number in range(20_000)}
        async with http.post(url, data=io.BytesIO(orjson.dumps(message)), headers=told) as response:
            assert response.status == 413
            assert "members" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("era", Era)
async def test_a_tool_of_the_nodes_own_reads_no_megabytes(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        if era is Era.MODERN:
            told["Mcp-Name"] = "list_mcp_servers"
        message["params"] |= {"name": "list_mcp_servers", "arguments": {"rows": [1] * 300_000}}
        async with http.post(url, data=io.BytesIO(orjson.dumps(message)), headers=told) as response:
            error = (await response.json())["error"]
        assert error["code"] == -32602
        assert "does not read" in error["message"]


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_arrive_byte_for_byte_through_the_tool_that_calls_others(
    era: Era, tmp_path: Path
) -> None:
    async with calling(era, 1, tmp_path, counted, search_mode=True) as (http, url, message, told):
        if era is Era.MODERN:
            told["Mcp-Name"] = "call_tool"
        message["params"]["name"] = "call_tool"
        for kind, arguments in KINDS.items():
            body = message_of(message, b'{"name":"kit__take","arguments":%s}' % arguments)
            async with http.post(url, data=io.BytesIO(body), headers=told) as response:
                answered = await response.json()
            assert "result" in answered, (kind, answered)
            assert answered["result"]["structuredContent"] == {"digest": hashlib.sha256(arguments).hexdigest()}, kind


async def test_large_arguments_arrive_byte_for_byte_in_a_batch(tmp_path: Path) -> None:
    async with calling(Era.LEGACY, 1, tmp_path, counted) as (http, url, message, _):
        async with http.post(url, json=initialize_request("2025-03-26")) as response:
            session = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
        messages = [message_of({**message, "id": kind}, arguments) for kind, arguments in KINDS.items()]
        async with http.post(url, data=io.BytesIO(b"[%s]" % b",".join(messages)), headers=session) as response:
            answered = await response.json()
        found = {one["id"]: one["result"]["structuredContent"]["digest"] for one in answered}
        assert found == {kind: hashlib.sha256(arguments).hexdigest() for kind, arguments in KINDS.items()}
