"""Search mode: a few tools that stand for all of the mesh, in both protocol eras."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError

from tests.e2e.running import MANAGEMENT_TOOLS, StartNode
from tests.e2e.servers_files import example
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SEARCH_TOOLS = {"search_tools", "describe_tool", "call_tool"}


def client_of(url: str, mode: str, headers: dict[str, str] | None = None) -> Client[Any]:
    return Client(StreamableHttpTransport(url, headers=headers), mode=mode)


async def test_clients_search_describe_and_call_what_lives_on_another_node(start: StartNode, tmp_path: Path) -> None:
    discovery = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    servers = {"dice": example("dice", "service"), "clock": example("clock")}
    await start("owner", tmp_path / "owner", servers=servers, **discovery)
    asked = await start("asked", tmp_path / "asked", MESH_TOOL_MODE="search", **discovery)
    await eventually(partial(asked.sees, "owner"))
    # A link may be older than what its node's servers offer: the dice and the clock, beside the management tools.
    await eventually(partial(asked.counts, {"owner": 3 + len(MANAGEMENT_TOOLS)}))

    for mode in ("auto", "legacy"):
        async with client_of(asked.url, mode) as client:
            assert {tool.name for tool in await client.list_tools()} == set(MANAGEMENT_TOOLS) | SEARCH_TOOLS
            found = (await client.call_tool("search_tools", {"query": "roll some dice", "limit": 3})).data
            assert found["tools"][0]["name"] == "dice__roll", found
            described = (await client.call_tool("describe_tool", {"name": "dice__roll"})).data
            assert "sides" in described["inputSchema"]["properties"]
            arguments = {"name": "dice__roll", "arguments": {"sides": 6, "count": 2, "seed": 7}}
            rolled = await client.call_tool("call_tool", arguments)
            direct = await client.call_tool("dice__roll", arguments["arguments"])
            assert rolled.content == direct.content
            own = await client.call_tool("call_tool", {"name": "get_available_mcp_servers"})
            assert "owner" in str(own.content)
            described = (await client.call_tool("describe_tool", {"name": "get_mcp_server_functions"})).data
            assert "node" in described["inputSchema"]["properties"]
            with pytest.raises(ToolError, match="no tool named 'nope'"):
                await client.call_tool("describe_tool", {"name": "nope"})

        async with client_of(f"{asked.url}?tools=full", mode) as client:
            names = {tool.name for tool in await client.list_tools()}
            assert "dice__roll" in names
            assert not names & SEARCH_TOOLS


async def test_a_client_asks_for_search_mode_by_url_or_header(start: StartNode, tmp_path: Path) -> None:
    node = await start("alone", tmp_path / "alone", servers={"dice": example("dice", "service")}, MESH_DISCOVERY="off")
    await eventually(partial(node.offers, "dice__roll"))
    expected = set(MANAGEMENT_TOOLS) | SEARCH_TOOLS
    for mode in ("auto", "legacy"):
        async with client_of(f"{node.url}?tools=search", mode) as client:
            assert {tool.name for tool in await client.list_tools()} == expected
        async with client_of(node.url, mode, {"Mesh-Tools": "search"}) as client:
            assert {tool.name for tool in await client.list_tools()} == expected
        async with client_of(f"{node.base}/mcp/local?tools=search", mode) as client:
            names = {tool.name for tool in await client.list_tools()}
            assert names == set(MANAGEMENT_TOOLS) | {"dice__roll"}
