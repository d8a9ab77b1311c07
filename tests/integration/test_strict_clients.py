"""The strictest clients of each era, run for real, at a node whose server lists what they would refuse."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp_types.jsonrpc import JSONRPCResponse, jsonrpc_message_adapter
from mcp_types.methods import parse_server_result

from agent.client.protocol import Request
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from agent.routing.claims import REFUSALS_MAX
from agent.server.lists import LISTS
from tests.conformance.node_tools import NodeTools, node_tools, why_not
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.hostile_lists import LEFT_OUT, LISTED, PAGES, PARTED_TOOLS, STRAY, random_pages
from tests.integration.servers.hosting import Seen, http, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, client, running_node, served

SCRIPT = Path(__file__).parent / "servers" / "strict_lists.mjs"
CLIENT_TIMEOUT_S = 60
RANDOM_COUNT = 300
STRUCTURED: dict[str, Any] = {
    "array-output": [1, 2],
    "choice-output": {"a": 1},
    "good": {"a": "x"},
    "no-schema": [3],
    "empty-schema": None,
}


@pytest.fixture(scope="module")
def tools() -> NodeTools:
    """Node and the locked programs, the TypeScript SDK's clients among them."""
    found = node_tools()
    if found is None:
        pytest.skip(f"NO NODE PROGRAMS ({why_not()}); `python -m tests.conformance.node_tools` installs them")
    return found


async def hostile(request: Seen, pages: Mapping[str, bytes] = PAGES) -> tuple[bytes, bool]:
    """A stateless server that lists what no server should, and answers calls with structured content."""
    match request.body.get("method"):
        case "server/discover":
            capabilities: Json = {"tools": {}, "prompts": {}, "resources": {}}
            said = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"}
            return rpc_result(request, said), True
        case str(method) if method in pages:
            return http(200, b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (request.body["id"], pages[method])), True
        case "tools/call":
            structured = STRUCTURED.get(request.body["params"]["name"], {})
            result = {"resultType": "complete", "content": [], "structuredContent": structured}
            return rpc_result(request, result), True
        case _:
            return rpc_error(request, 200, -32601, "unknown"), True


@contextlib.asynccontextmanager
async def a_node(folder: Path) -> AsyncIterator[RunningNode]:
    """A node with the hostile server and a good one."""
    async with scripted(hostile) as script, served(make_server()) as kit_url:
        bad = ServerSpec("bad", HttpTarget(script.url), ServerScope.SERVICE)
        kit = ServerSpec("kit", HttpTarget(kit_url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[bad, kit]) as node:
            await node.connected("bad", "kit")
            await node.when(lambda: "bad__good" in node.tool_names() and "kit__echo" in node.tool_names())
            yield node


def names_of(key: str, entries: list[Json]) -> set[str]:
    """The names that the hostile server gave what is listed of it."""
    if key == "resources":
        return {entry["uri"].replace("n://bad/", "n://") for entry in entries if entry["uri"].startswith("n://")}
    return {entry["name"].removeprefix("bad__") for entry in entries if entry["name"].startswith("bad__")}


def check(found: dict[str, list[Json]]) -> None:
    """All that can be mended is there, and what is another server's too."""
    assert {key: names_of(key, found[key]) for key in LISTED} == LISTED
    assert any(tool["name"] == "kit__echo" for tool in found["tools"])


async def told_by(tools: NodeTools, kind: str, url: str) -> dict[str, Json]:
    """What one of the TypeScript clients read, or why it refused, by list."""
    command = (str(tools.node), str(SCRIPT), str(tools.modules), kind, url)
    program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(CLIENT_TIMEOUT_S):
        out, _ = await program.communicate()
    told: dict[str, Json] = json.loads(out)
    return told


KINDS = pytest.mark.parametrize("kind", ["sdk-1", "client-2", "client-2-modern"])


@KINDS
async def test_no_random_fault_makes_a_typescript_client_refuse_a_list(
    tools: NodeTools, kind: str, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    async with (
        scripted(partial(hostile, pages=random_pages(seed, RANDOM_COUNT))) as script,
        running_node("one", tmp_path, servers=[ServerSpec("bad", HttpTarget(script.url), ServerScope.SERVICE)]) as node,
    ):
        await node.connected("bad")
        await node.when(node.tool_names)
        told = await told_by(tools, kind, node.url)
        count = len(node.tool_names())
    assert [(key, part["refused"]) for key, part in told.items() if "refused" in part] == [], f"seed {seed}"
    shown = [tool for tool in told["tools"]["entries"] if tool["name"].startswith("bad__")]
    assert len(shown) == count > RANDOM_COUNT / 2
    assert told["tools"].get("uncompiled", []) == [], f"seed {seed}"
    assert uncompiled(shown) == {}, f"seed {seed}"


def uncompiled(tools: list[Json]) -> dict[str, str]:
    """What Python's SDK says of output schemas with the result of a call, by tool."""
    faults = {}
    for tool in tools:
        if (schema := tool.get("outputSchema")) is not None:
            try:
                jsonschema.validators.validator_for(schema).check_schema(schema)
            except jsonschema.exceptions.SchemaError as exc:
                faults[tool["name"]] = exc.message
    return faults


@KINDS
async def test_typescript_clients_read_every_list_though_a_server_lists_what_they_refuse(
    tools: NodeTools, kind: str, tmp_path: Path
) -> None:
    async with a_node(tmp_path) as node:
        told = await told_by(tools, kind, node.url)
    assert [(key, part["refused"]) for key, part in told.items() if "refused" in part] == []
    check({key: part["entries"] for key, part in told.items()})
    shown = {tool["name"] for tool in told["tools"]["entries"] if "outputSchema" in tool}
    assert "bad__good" in shown
    assert ("bad__array-output" in shown) is (kind == "client-2-modern")
    assert shown.isdisjoint(f"bad__{name}" for name in PARTED_TOOLS)
    assert told["tools"].get("uncompiled", []) == []
    assert uncompiled(told["tools"]["entries"]) == {}


async def test_pythons_client_of_sessions_reads_every_list(tmp_path: Path) -> None:
    async with (
        a_node(tmp_path) as node,
        streamable_http_client(node.url) as (reading, writing, *_),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        found = {
            "tools": (await session.list_tools()).tools,
            "prompts": (await session.list_prompts()).prompts,
            "resources": (await session.list_resources()).resources,
        }
    check({key: [entry.model_dump(by_alias=True, mode="json") for entry in part] for key, part in found.items()})


@pytest.mark.parametrize("era", list(Era))
async def test_every_list_is_what_pythons_models_of_each_version_take(era: Era, tmp_path: Path) -> None:
    versions = ("2026-07-28",) if era is Era.MODERN else ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
    async with a_node(tmp_path) as node, client(node.url, era) as mcp:
        for method, (key, _) in LISTS.items():
            page = await mcp.request(Request.within(method, {}, timeout_s=20))
            line = b'{"jsonrpc":"2.0","id":1,"result":%b}' % bytes(page.raw)  # type: ignore[attr-defined]  # our client gives a `RawObject`
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            assert isinstance(message, JSONRPCResponse)
            for version in versions:
                parse_server_result(method, version, message.result)
            if key in LISTED:
                assert names_of(key, page[key]) == LISTED[key]


async def test_what_is_left_out_is_said_with_its_reason_and_is_no_conflict(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        _, body = await node.rest("GET", "/status")
        status = body["data"]
        assert status["conflicts"] == []
        assert {left["backend"] for left in status["left_out"]} == {"server:bad"}
        _, body = await node.rest("GET", "/servers")
        bad = next(server for server in body["data"]["servers"] if server["name"] == "bad")
        named = [left["name"] for left in bad["left_out"]]
        numbers = {f"number {place}" for place in range(1, len(STRAY) + 1)}
        assert {*named[:REFUSALS_MAX]} <= {*LEFT_OUT, *PARTED_TOOLS, *numbers}
        count = len(LEFT_OUT) + len(PARTED_TOOLS) + len(STRAY) * len(LISTED)
        assert named[REFUSALS_MAX:] == [f"{count - REFUSALS_MAX} more entries"]
        assert all(left["why"] for left in bad["left_out"])


async def structured(node: RunningNode, era: Era) -> dict[str, Json]:
    async with client(node.url, era) as mcp:
        return {
            name: await mcp.request(
                Request.within("tools/call", {"name": f"bad__{name}", "arguments": {}}, timeout_s=20)
            )
            for name in STRUCTURED
        }


async def test_structured_results_of_any_kind_go_to_stateless_clients_as_they_are(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        found = await structured(node, Era.MODERN)
    assert {name: result["structuredContent"] for name, result in found.items()} == STRUCTURED


async def test_sessions_get_objects_alone_as_structured_results_and_the_rest_as_text(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        found = await structured(node, Era.LEGACY)
    assert found["good"]["structuredContent"] == STRUCTURED["good"]
    for name in STRUCTURED.keys() - {"good"}:
        assert "structuredContent" not in found[name]
        parse_server_result("tools/call", "2025-11-25", dict(found[name]))
    assert [orjson.loads(part["text"]) for part in found["array-output"]["content"]] == [STRUCTURED["array-output"]]
    assert found["empty-schema"]["content"] == []
