"""Headers that repeat arguments: the server gets those that it asks for, from both fronts, and unknown ones."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import RpcError
from agent.model import HEADER_BYTES_MAX, Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.hops import front_before
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, client, running_node
from tests.integration.stateless_requests import headers, request

HEADER_MISMATCH = -32020
PROPERTIES: Json = {
    "n": {"type": "integer", "x-mcp-header": "N"},
    "s": {"type": "string", "x-mcp-header": "S"},
    "inner": {"type": "object", "properties": {"m": {"type": "integer", "x-mcp-header": "M"}}},
}
LARGE = [2**53, 2**63, 2**64, -(2**70), 10**300]


@dataclass
class Scene:
    """A client of a node that has the server, and what the server was asked."""

    mcp: McpClient
    node: RunningNode
    calls: list[Seen] = field(default_factory=list)

    async def call(self, arguments: str, **headers: str) -> Json:
        """Call with the arguments as they are written."""
        params: Json = {"name": "kit__count", "arguments": orjson.Fragment(arguments)}
        sent = {f"Mcp-Param-{name}": value for name, value in headers.items()}
        return await self.mcp.request(Request.within("tools/call", params, timeout_s=5, headers=sent))

    def headers(self) -> dict[str, str]:
        """Those of the last call that repeat arguments."""
        seen = self.calls[-1].headers
        return {name: value for name, value in seen.items() if name.startswith("mcp-param-")}


@asynccontextmanager
async def scene(era: Era, folder: Path) -> AsyncIterator[Scene]:
    calls: list[Seen] = []

    async def answer(request: Seen) -> tuple[bytes, bool]:
        match request.body.get("method"):
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                schema = {"type": "object", "properties": PROPERTIES}
                return rpc_result(request, {"tools": [{"name": "count", "inputSchema": schema}]}), True
            case "tools/call":
                calls.append(request)
                return rpc_result(request, {"content": []}), True
            case _:
                return rpc_error(request, 404, -32601, "Method not found"), True

    async with scripted(answer) as script:
        spec = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec]) as node:
            await node.connected("kit")
            async with client(node.url, era) as mcp:
                yield Scene(mcp, node, calls)


@pytest.mark.parametrize("era", Era)
async def test_large_integers_are_repeated_digit_by_digit(era: Era, tmp_path: Path) -> None:
    async with scene(era, tmp_path) as now:
        for n in LARGE:
            # A session's client knows no such headers.
            told = {"N": str(n), "M": str(-n)} if era is Era.MODERN else {}
            await now.call(f'{{"n":{n},"inner":{{"m":{-n}}}}}', **told)
            assert now.headers() == {"mcp-param-n": str(n), "mcp-param-m": str(-n)}


@pytest.mark.parametrize("told", [{}, {"N": str(2**70 + 1)}, {"N": "1.1805916207174113e21"}])
async def test_a_header_that_differs_from_a_large_integer_or_is_missing_is_refused_as_with_small_ones(
    told: dict[str, str], tmp_path: Path
) -> None:
    async with scene(Era.MODERN, tmp_path) as now:
        for n in (2**70, 7):
            with pytest.raises(RpcError) as caught:
                await now.call(f'{{"n":{n}}}', **told)
            assert caught.value.code == HEADER_MISMATCH, n
        assert now.calls == []


async def test_what_headers_cannot_repeat_is_refused_and_nothing_is_held_against_the_server(tmp_path: Path) -> None:
    async with (
        scene(Era.LEGACY, tmp_path) as now,
        front_before(tmp_path, now.node) as front,
        client(front.url, Era.LEGACY) as mcp,
    ):
        for mcp_client in (now.mcp, mcp):
            for _ in range(6):
                params = {"name": "kit__count", "arguments": {"s": "x" * (HEADER_BYTES_MAX + 1)}}
                with pytest.raises(RpcError, match="longer than 32768 bytes") as caught:
                    await mcp_client.request(Request.within("tools/call", params, timeout_s=5))
                assert caught.value.code == -32602
            await mcp_client.request(
                Request.within("tools/call", {**params, "arguments": {"s": "x" * 6000}}, timeout_s=5)
            )
        assert [len(call.headers["mcp-param-s"]) for call in now.calls] == [6000, 6000]
        # Of a client's own headers none is too long by itself.
        told = [(f"Mcp-Param-{number}", "x" * 7000) for number in range(5)]
        status, answer = await posted(front.url, ("Mcp-Param-N", "7"), *told)
        assert (status, answer["error"]["code"]) == (400, -32602)


async def posted(url: str, *told: tuple[str, str]) -> tuple[int, Json]:
    """Call with these headers besides; the status and the answer."""
    call = request("tools/call", {"name": "kit__count", "arguments": {"n": 7}})
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=call, headers=CIMultiDict([*headers("tools/call", "kit__count"), *told])) as response,
    ):
        return response.status, await response.json()


async def test_a_header_that_no_schema_knows_goes_on_through_every_node(tmp_path: Path) -> None:
    async with scene(Era.MODERN, tmp_path) as now, front_before(tmp_path, now.node) as front:
        for url in (now.node.url, front.url):
            status, answer = await posted(url, ("Mcp-Param-N", "7"), ("Mcp-Param-Shard", "west"), ("X-Shard", "west"))
            assert (status, "result" in answer) == (200, True)
            assert now.headers() == {"mcp-param-n": "7", "mcp-param-shard": "west"}
            assert "x-shard" not in now.calls[-1].headers
            # Twice may be once in two parts.
            status, _ = await posted(url, ("Mcp-Param-N", "7"), ("Mcp-Param-Shard", "a"), ("Mcp-Param-Shard", "b"))
            assert (status, now.headers()) == (200, {"mcp-param-n": "7", "mcp-param-shard": "a, b"})


async def test_a_header_that_repeats_an_argument_twice_is_refused_as_two_readers_may_differ(tmp_path: Path) -> None:
    async with scene(Era.MODERN, tmp_path) as now:
        for first, last in (("7", "8"), ("8", "7"), ("7", "7")):
            status, answer = await posted(now.node.url, ("Mcp-Param-N", first), ("Mcp-Param-N", last))
            assert (status, answer.get("error", {}).get("code")) == (400, HEADER_MISMATCH), (first, last, answer)
        assert now.calls == []
