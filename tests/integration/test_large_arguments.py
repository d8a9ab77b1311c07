"""Large arguments that stay unread: where a node has to look into them, or sends them twice, no server is deceived."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from agent.client.protocol import Request
from agent.errors import RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from agent.server.request import READ_WHOLE_BYTES_MAX
from tests.integration.servers.hops import front_before
from tests.integration.servers.hosting import Script, Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, client, running_node
from tests.integration.test_param_headers import HEADER_MISMATCH, scene

ROWS = ",".join(['{"a":[1.50,2]}'] * 25_000)


def arguments_sent(seen: Seen) -> bytes:
    return seen.raw.partition(b'"arguments":')[2]


@pytest.mark.parametrize("era", Era)
async def test_headers_repeat_what_the_server_reads_also_of_large_arguments(era: Era, tmp_path: Path) -> None:
    async with scene(era, tmp_path) as now:
        told = {"N": "7", "M": "8"} if era is Era.MODERN else {}
        await now.call(f'{{"n":1,"rows":[{ROWS}],"inner":{{"m":5,"m":8}},"n":7}}', **told)
        assert len(now.calls[-1].raw) > READ_WHOLE_BYTES_MAX
        assert now.headers() == {"mcp-param-n": "7", "mcp-param-m": "8"}
        # A server that takes the first of two members with one name gets no other one than the header says.
        assert arguments_sent(now.calls[-1]).count(b'"n":') == 1
        assert arguments_sent(now.calls[-1]).count(b'"m":') == 1


async def test_a_header_that_differs_from_large_arguments_is_refused(tmp_path: Path) -> None:
    async with scene(Era.MODERN, tmp_path) as now:
        with pytest.raises(RpcError) as caught:
            await now.call(f'{{"n":7,"rows":[{ROWS}],"n":8}}', N="7")
        assert caught.value.code == HEADER_MISMATCH
        assert now.calls == []


@pytest.mark.parametrize("era", Era)
async def test_any_number_of_values_may_stand_beside_arguments_that_headers_repeat(era: Era, tmp_path: Path) -> None:
    async with scene(era, tmp_path) as now:
        arguments = f'{{"n":7,"rows" : [{",".join(["1"] * 400_000)}]}}'
        await now.call(arguments, **({"N": "7"} if era is Era.MODERN else {}))
        assert now.headers() == {"mcp-param-n": "7"}
        assert arguments_sent(now.calls[-1]) == arguments.encode() + b"}}"


@asynccontextmanager
async def replicas(folder: Path) -> AsyncIterator[tuple[RunningNode, list[Script]]]:
    """A node before two with a replica of a server each: the first that is called breaks its connection."""
    broken: list[Seen] = []

    async def answer(seen: Seen) -> tuple[bytes | None, bool]:
        match seen.body.get("method"):
            case "server/discover":
                return discovered(seen), True
            case "tools/list":
                tool = {"name": "take", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
                return rpc_result(seen, {"tools": [tool]}), True
            case "tools/call" if not broken:
                broken.append(seen)
                return None, False
            case "tools/call":
                digest = hashlib.sha256(arguments_sent(seen)).hexdigest()
                return rpc_result(seen, {"content": [], "structuredContent": {"digest": digest}}), True
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    async with scripted(answer) as first, scripted(answer) as second:
        specs = [ServerSpec("kit", HttpTarget(one.url), ServerScope.SERVICE) for one in (first, second)]
        async with (
            running_node("n0", folder / "n0", servers=[specs[0]]) as one,
            running_node("n1", folder / "n1", servers=[specs[1]]) as other,
        ):
            await one.connected("kit")
            await other.connected("kit")
            async with front_before(folder, one, other) as front:
                yield front, [first, second]


@pytest.mark.parametrize("era", Era)
async def test_large_arguments_go_to_another_replica_as_they_went_to_the_first(era: Era, tmp_path: Path) -> None:
    arguments = f'{{"rows" : [{ROWS}], "a":1, "a":2}}'.encode()
    async with replicas(tmp_path) as (front, scripts), client(front.url, era) as mcp:
        params: Json = {"name": "kit__take", "arguments": orjson.Fragment(arguments)}
        result = await mcp.request(Request.within("tools/call", params, timeout_s=20))
        sent = [arguments_sent(seen) for script in scripts for seen in script.seen if b'"tools/call"' in seen.raw]
    assert sent == [arguments + b"}}"] * 2
    assert result["structuredContent"] == {"digest": hashlib.sha256(arguments + b"}}").hexdigest()}
