"""A server's result reaches a client of 2026-07-28 byte for byte, and can break nothing around itself."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from agent.client.http.sse import SseParser
from agent.model import HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.hosting import Seen, discovered, http, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, running_node
from tests.integration.stateless_requests import headers, request

EXACT = b'{"content":[],"resultType":"complete","n":[1.0,1e2,123456789012345678901234567890,0.1000],"a":"\\u00e4\\/"}'


@asynccontextmanager
async def node_before(body_of: object, folder: Path, kind: str = "application/json") -> AsyncIterator[RunningNode]:
    """A node with a server that answers a call with `body_of(request id)` as it stands."""

    async def answer(seen: Seen) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover":
                return discovered(seen), True
            case "tools/list":
                return rpc_result(seen, {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                return http(200, body_of(seen.body["id"]), kind), True  # type: ignore[operator]  # bytes of an ID
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    async with scripted(answer) as script:
        server = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[server]) as node:
            await node.connected("kit")
            yield node


async def answered(node: RunningNode) -> tuple[str, bytes]:
    """The content type and the bytes of an answer to a call."""
    body = json.dumps(request("tools/call", {"name": "kit__do", "arguments": {}})).encode()
    sent = {**dict(headers("tools/call", "kit__do")), "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(node.url, data=body, headers=sent) as response:
        return response.content_type, await response.read()


@pytest.mark.parametrize(
    "layout",
    [
        b'{"jsonrpc":"2.0","id":%d,"result":%s}',
        b'{"jsonrpc": "2.0", "id": %d, "result": %s}\n',
        b'{"result":%(result)s,"jsonrpc":"2.0","id":%(id)d}',
    ],
)
async def test_a_result_passes_byte_for_byte(layout: bytes, tmp_path: Path) -> None:
    def body(request_id: int) -> bytes:
        return layout % ({b"id": request_id, b"result": EXACT} if b"(id)" in layout else (request_id, EXACT))

    async with node_before(body, tmp_path) as node:
        assert (await answered(node))[1] == b'{"jsonrpc":"2.0","id":1,"result":' + EXACT + b"}"


async def test_what_the_era_demands_is_added_in_front(tmp_path: Path) -> None:
    async with node_before(lambda i: b'{"jsonrpc":"2.0","id":%d,"result":{"n":1.0}}' % i, tmp_path) as node:
        assert (await answered(node))[1] == b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","n":1.0}}'


async def test_an_empty_result_gets_what_the_era_demands(tmp_path: Path) -> None:
    async with node_before(lambda i: b'{"jsonrpc":"2.0","id":%d,"result":{}}' % i, tmp_path) as node:
        assert (await answered(node))[1] == b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}'


@pytest.mark.parametrize(
    "smuggled",
    [b'{},"id":99,"result":{"resultType":"complete"}', b'{},"error":{"code":1,"message":"x"}', b'{"a":1},"b":{}'],
)
async def test_a_server_cannot_smuggle_members_into_our_envelope(smuggled: bytes, tmp_path: Path) -> None:
    async with node_before(lambda i: b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (i, smuggled), tmp_path) as node:
        _, content = await answered(node)
        members = json.loads(content, object_pairs_hook=lambda pairs: pairs)
        assert [name for name, _ in members][:2] == ["jsonrpc", "id"]
        assert dict(members)["id"] == 1
        assert len(members) == 3


async def test_a_line_break_in_a_result_does_not_end_our_event(tmp_path: Path) -> None:
    def stream(request_id: int) -> bytes:
        note = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}'
        result = b'{"content":[],\ndata: "resultType":"complete",\ndata: "n":1.0}'
        answer = b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (request_id, result)
        return b"data: " + note + b"\n\ndata: " + answer + b"\n\n"

    async with node_before(stream, tmp_path, "text/event-stream") as node:
        kind, content = await answered(node)
    assert kind == "text/event-stream"
    last = SseParser(1 << 20).feed(content)[-1]
    assert last == b'{"jsonrpc":"2.0","id":1,"result":{"content":[], "resultType":"complete", "n":1.0}}'
