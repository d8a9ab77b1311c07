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

from agent.client.http.sse import SseParser
from agent.lossless_json.unread import LOOKED_AT_VALUES_MAX
from agent.lossless_json.writable import LEVELS_MAX
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from agent.server.request import BODY_BYTES_MAX
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import headers, request

# A minute at a tenth of a core.
pytestmark = pytest.mark.timeout(180)

VERSION = "2025-11-25"
MANY = 400_000  # More values than fit into what a node looks at.
# The deepest of these arguments take seconds where the machine is busy.
CALL_TIMEOUT_S = 60.0
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
            tmp_path,
            ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE),
            hops=hops,
            call_timeout_s=CALL_TIMEOUT_S,
            search_mode=search_mode,
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


ROW = b'{"id" : 1.50,"name":"\\u00e9 \\ud83d\\ude00","big":12345678901234567890123,"more":1E400,"in":[{},[],null,-0]}'
# More bytes of each than a node looks at.
KINDS = {
    "records": b'{"rows":[%s]}' % b",".join([ROW] * 7_000),
    "whole numbers": b'{"rows":[%s]}' % b",".join([b"1"] * 350_000),
    "small objects": b'{"rows":[%s]}' % b",".join([b'{"a":1}'] * 90_000),
    "deep": b'{"rows":[%s]}' % b",".join([b"[" * 240 + b"1" + b"]" * 240] * 1_500),
    "members": b"{%s}" % b",".join(b'"%06x":[%d]' % (number, number) for number in range(45_000)),
    "a text": b'{"text":"%s"}' % ("\\ud83d\\ude00\\n" * 20_000 + "\u00e9\u6f22" * 200_000).encode(),
    "members of one name": b'{"a":1,"a":[%s],"a":2}' % b",".join([b"1"] * 300_000),
    "spaces": b'{"a":%s[1]}' % (b"\t " * 500_000),
}


async def digested(request: Seen) -> tuple[bytes, bool]:
    """The same server, which tells what its arguments were as bytes."""
    if request.body.get("method") != "tools/call":
        return await answer(request)
    arguments = request.raw.partition(b'"arguments":')[2].partition(b',"_meta"')[0].removesuffix(b"}}")
    return rpc_result(request, {"content": [], "structuredContent": {"digest": digest(arguments)}}), True


def digest(arguments: bytes) -> str:
    return hashlib.sha256(arguments).hexdigest()


def message_of(message: Json, arguments: bytes) -> bytes:
    """The message with these arguments."""
    params = {**message["params"], "arguments": orjson.Fragment(arguments)}
    return orjson.dumps({**message, "params": params})


async def answer_to(http: aiohttp.ClientSession, url: str, body: bytes, told: Json) -> tuple[int, Json]:
    async with http.post(url, data=io.BytesIO(body), headers=told) as response:
        if response.content_type == "text/event-stream":  # On a busy machine a call in a session may take its time.
            *_, last = SseParser(BODY_BYTES_MAX).feed(await response.read())
            return response.status, json.loads(last)
        return response.status, await response.json()


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_arrive_byte_for_byte_over_every_hop(era: Era, tmp_path: Path) -> None:
    async with calling(era, 2, tmp_path, digested) as (http, url, message, told):
        for kind, arguments in KINDS.items():
            status, answered = await answer_to(http, url, message_of(message, arguments), told)
            assert status == 200, (kind, answered)
            assert answered["result"]["structuredContent"] == {"digest": digest(arguments)}, kind


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_of_several_lines_arrive_on_one(era: Era, tmp_path: Path) -> None:
    arguments = json.dumps({"rows": [{"id": 1, "name": "a\nb"}] * 20_000}, indent=1).replace("\n", "\r\n").encode()
    async with calling(era, 1, tmp_path, digested) as (http, url, message, told):
        _, answered = await answer_to(http, url, message_of(message, arguments), told)
        one_line = arguments.replace(b"\r", b" ").replace(b"\n", b" ")
        assert answered["result"]["structuredContent"] == {"digest": digest(one_line)}


LARGE = b'{"rows":[%s],"more":' % b",".join([b'{"a":[1,2]}'] * 40_000)
BROKEN = {
    "another bracket": b'{"a":[1,2,3}',
    "two ends": b"1}}}}",
    "a comma before the end": b"[1,2,]",
    "no number": b"NaN",
    "a leading zero": b"01",
    "no UTF-8": b'"\xff"',
    "a surrogate as UTF-8": b'"\xed\xa0\x80"',
    "half a pair in a name": b'{"\\ud83d":1}',
    "a control character": b'"\x01"',
    "a line break in a text": b'"\n"',
    "nothing but a zero byte": b"\x00",
    "too deep": b"[" * 1_022 + b"]" * 1_022,
}


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_that_are_no_json_are_refused_as_small_ones_are(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        for kind, broken in BROKEN.items():
            refusals = []
            for begin in (b'{"more":', LARGE):
                status, answered = await answer_to(http, url, message_of(message, begin + broken + b"}"), told)
                refusals.append((status, answered["error"]["code"], answered["error"]["message"].partition(": ")[0]))
            assert refusals == [(400, -32700, "Parse error")] * 2, kind


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_that_are_no_object_are_refused_as_small_ones_are_and_deep_ones_unread(
    era: Era, tmp_path: Path
) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        for small, large in (
            (b"[1]", b"[%s]" % b",".join([b"1"] * 200_000)),
            (b'"a"', b'"%s"' % (b"a" * 300_000)),
        ):
            refusals = [await answer_to(http, url, message_of(message, one), told) for one in (small, large)]
            assert refusals[0] == refusals[1]
            assert "error" in refusals[0][1]
        deep = LARGE + b"[" * 600 + b"]" * 600 + b"}"
        status, answered = await answer_to(http, url, message_of(message, deep), told)
        assert (status, answered["error"]["code"]) == (400, -32700)
        assert f"nested more than {LEVELS_MAX} levels deep" in answered["error"]["message"]


@pytest.mark.parametrize("era", Era)
async def test_a_large_list_of_messages_is_no_message_whatever_it_holds(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        for one in (b"[%s]" % message_of(message, LARGE + b"1}"), b"[" * 1_000_000):
            status, answered = await answer_to(http, url, one, told)
            assert (status, answered["error"]["code"], answered["id"]) == (400, -32600, None)
            assert answered["error"]["message"].startswith("The body must be one JSON-RPC 2.0")


async def told_back(request: Seen) -> tuple[bytes, bool]:
    """The same server, which tells what stood beside its arguments."""
    if request.body.get("method") != "tools/call":
        return await answer(request)
    params = request.body["params"]
    meta = params["_meta"]
    told = {
        kind: digest(
            orjson.dumps([more, {name: held[name] for name in held if name.startswith("m") and name[1:].isdigit()}])
        )
        for kind, held, more in (("params", params, params["more"]), ("meta", meta, meta["example.org/more"]))
    }
    return rpc_result(request, {"content": [], "structuredContent": told}), True


@pytest.mark.parametrize("era", Era)
async def test_any_number_of_values_may_stand_beside_the_arguments_where_no_node_looks(
    era: Era, tmp_path: Path
) -> None:
    crowd = {f"m{number}": [1, {}] for number in range(MANY // 8)}
    async with calling(era, 2, tmp_path, told_back) as (http, url, message, told):
        params = message["params"] | {"more": [1] * MANY, **crowd}
        params["_meta"] = {**params.get("_meta", {}), "example.org/more": [1] * MANY, **crowd}
        body = orjson.dumps({**message, **crowd, "params": params})
        status, answered = await answer_to(http, url, body, told)
        assert status == 200, answered
        assert answered["result"]["structuredContent"] == {
            "params": digest(orjson.dumps([[1] * MANY, crowd])),
            "meta": digest(orjson.dumps([[1] * MANY, crowd])),
        }


@pytest.mark.parametrize("era", Era)
async def test_what_a_node_has_to_look_at_has_a_limit(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        for task, limit in (([1] * LOOKED_AT_VALUES_MAX, f"{LOOKED_AT_VALUES_MAX} values"), ("x" * 2**20, "bytes")):
            message["params"]["task"] = task
            status, answered = await answer_to(http, url, b" " * 300_000 + orjson.dumps(message), told)
            assert status == 413
            assert answered["error"]["message"].startswith("The body cannot be read: params.task: ")
            assert limit in answered["error"]["message"]


@pytest.mark.parametrize("era", Era)
@pytest.mark.parametrize("more", [b'"x"', b"9e15"])
async def test_what_the_first_node_left_unread_the_second_one_leaves_too(era: Era, more: bytes, tmp_path: Path) -> None:
    async with calling(era, 2, tmp_path, digested) as (http, url, message, told):
        arguments = KINDS["whole numbers"]
        # As much beside them as a client may send, which the first node writes anew, and adds to.
        room = (64 << 10) - (len(message_of(message, arguments)) - len(arguments)) - 100
        beside = orjson.Fragment(b"[%s]" % b",".join([more] * (room // (len(more) + 1))))
        message["params"]["_meta"] = {**message["params"].get("_meta", {}), "example.org/more": beside}
        status, answered = await answer_to(http, url, message_of(message, arguments), told)
        assert status == 200, answered
        assert answered["result"]["structuredContent"] == {"digest": digest(arguments)}


@pytest.mark.parametrize("era", Era)
async def test_of_arguments_that_stand_twice_the_first_go_nowhere(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path, digested) as (http, url, message, told):
        last = b'{"a":1}'
        for first, second in ((KINDS["a text"], last), (last, KINDS["whole numbers"])):
            for name in (b'"arguments":', b'"argum\\u0065nts":'):
                params = orjson.dumps({**message["params"], "arguments": orjson.Fragment(first)})
                twice = orjson.Fragment(params[:-1] + b"," + name + second + b"}")
                _, answered = await answer_to(http, url, orjson.dumps({**message, "params": twice}), told)
                assert answered["result"]["structuredContent"] == {"digest": digest(second)}


@pytest.mark.parametrize("era", Era)
async def test_a_tool_of_the_nodes_own_reads_large_arguments_within_limits(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path) as (http, url, message, told):
        message["params"]["name"] = "list_mcp_servers"
        if era is Era.MODERN:
            told["Mcp-Name"] = "list_mcp_servers"
        few, many = (
            b'{"rows":[%s],"text":"%s"}' % (b",".join([b"1"] * count), b"x" * 300_000)
            for count in (10_000, LOOKED_AT_VALUES_MAX)
        )
        _, answered = await answer_to(http, url, message_of(message, few), told)
        assert answered["result"]["isError"] is True  # The tool takes no rows.
        _, answered = await answer_to(http, url, message_of(message, many), told)
        assert answered["error"]["code"] == -32602
        assert f"more than {LOOKED_AT_VALUES_MAX} values" in answered["error"]["message"]


@pytest.mark.parametrize("era", Era)
async def test_the_tool_that_calls_others_hands_on_large_arguments_byte_for_byte(era: Era, tmp_path: Path) -> None:
    async with calling(era, 1, tmp_path, digested, search_mode=True) as (http, url, message, told):
        message["params"]["name"] = "call_tool"
        if era is Era.MODERN:
            told["Mcp-Name"] = "call_tool"
        for kind, arguments in KINDS.items():
            asked = b'{"name":"kit__take","arguments":%s}' % arguments
            status, answered = await answer_to(http, url, message_of(message, asked), told)
            assert (status, "result" in answered) == (200, True), (kind, answered)
            assert answered["result"]["structuredContent"] == {"digest": digest(arguments)}, kind
