"""Pairings: how a node greets clients of each era, and what one era's client asks for that only the other one has."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from agent.errors import RpcError
from agent.model import UI_EXTENSION, Era, Json
from tests.integration.pairings.cells import LEGACY_VERSION, Cell, Wire, wire
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import headers, request

MODERN_VERSION = "2026-07-28"
MESH = "mesh-agent/mesh"


@pytest.fixture(params=["own", "peer"])
def url(request: pytest.FixtureRequest, stage: dict[str, str]) -> str:
    """One node's endpoint."""
    return stage[request.param]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=ACCEPT) as session:
        yield session


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, "1999-01-01"])
async def test_initialize_is_answered_in_the_version_that_was_asked_for_or_the_latest(
    url: str, http: aiohttp.ClientSession, version: str
) -> None:
    async with http.post(url, json=initialize_request(version)) as response:
        result = (await response.json())["result"]
        assert response.headers["Mcp-Session-Id"]
    assert result["protocolVersion"] == (version if version in HANDSHAKE_PROTOCOL_VERSIONS else LEGACY_VERSION)
    known = result["capabilities"]
    assert known["experimental"][MESH]["node_id"]
    assert known["extensions"].keys() == {UI_EXTENSION}  # The mesh stands in `experimental`, as extensions are newer.
    assert all(known[feature]["listChanged"] for feature in ("tools", "prompts", "resources"))
    assert known["resources"]["subscribe"] is True
    assert {"completions", "logging"} <= known.keys()


async def test_discover_tells_versions_capabilities_and_the_node(url: str) -> None:
    async with wire(Cell(Era.MODERN, url, "modern-http")) as mcp:
        result = await mcp.ask("server/discover", {})
    assert MODERN_VERSION in result["supportedVersions"]
    known = result["capabilities"]
    assert known["extensions"][MESH]["node_id"]
    assert all(known[feature]["listChanged"] for feature in ("tools", "prompts", "resources"))
    assert known["resources"]["subscribe"] is True
    assert {"completions", "logging"} <= known.keys()


async def refusal(mcp: Wire, method: str, params: Json) -> int:
    with pytest.raises(RpcError) as caught:
        await mcp.ask(method, params)
    return caught.value.code


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ping", {}),
        ("logging/setLevel", {"level": "info"}),
        ("resources/subscribe", {"uri": "pair://modern-http/page/one"}),
        ("resources/unsubscribe", {"uri": "pair://modern-http/page/one"}),
        ("initialize", initialize_request(MODERN_VERSION)["params"]),
        ("tasks/list", {}),
        ("nothing/known", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_stateless_client_is_refused_what_only_sessions_have(url: str, method: str, params: Json) -> None:
    async with wire(Cell(Era.MODERN, url, "modern-http")) as mcp:
        assert await refusal(mcp, method, params) == -32601


@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen", "tasks/update", "nothing/known"])
async def test_a_client_with_a_session_is_refused_what_only_stateless_ones_have(url: str, method: str) -> None:
    async with wire(Cell(Era.LEGACY, url, "modern-http")) as mcp:
        assert await refusal(mcp, method, {"notifications": {}, "taskId": "t"}) == -32601


async def test_headers_that_say_something_else_than_the_body_are_refused(url: str, http: aiohttp.ClientSession) -> None:
    call = request("tools/call", {"name": "modern-http__echo", "arguments": {}})
    for told in (headers("tools/call", "legacy-http__echo"), headers("prompts/get", "modern-http__echo")):
        async with http.post(url, json=call, headers=dict(told)) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, -32020)


async def test_an_unknown_version_is_refused_with_those_that_are_known(url: str, http: aiohttp.ClientSession) -> None:
    version = {"io.modelcontextprotocol/protocolVersion": "2999-01-01"}
    told = dict(headers("server/discover", MCP_Protocol_Version="2999-01-01"))
    async with http.post(url, json=request("server/discover", {"_meta": version}), headers=told) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, -32022)
    assert MODERN_VERSION in error["data"]["supported"]
