"""Search mode and MCP Apps: a model neither sees nor calls what is for pages alone; results name a tool's page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.apps.app import FastMCPApp
from fastmcp.server.providers.addressing import hashed_backend_name

from agent.client.protocol import McpClient, Request
from agent.errors import RpcError
from agent.model import Era, Json
from tests.integration.servers.clock_server import service
from tests.integration.servers.hops import front_of
from tests.integration.servers.nodes import RunningNode, client, served

eras = pytest.mark.parametrize("era", list(Era))
hops = pytest.mark.parametrize("hops", [1, 2])
PAGE = "ui://clock/page.html"


def clock_server() -> FastMCP:
    server: FastMCP = FastMCP("clock")

    @server.tool(meta={"ui": {"resourceUri": PAGE, "visibility": ["model", "app"]}})
    def get_time() -> str:
        """Tell the time."""
        return "twelve"

    @server.tool(meta={"ui/resourceUri": PAGE})
    def date() -> str:
        """Tell the date."""
        return "today"

    @server.tool
    def zones() -> str:
        """Tell the time zones."""
        return "utc"

    app = FastMCPApp("Alarms")

    @app.tool()
    def save_time() -> str:
        """Save the time of an alarm."""
        return "saved"

    server.add_provider(app)
    return server


@asynccontextmanager
async def searched(folder: Path, hops: int) -> AsyncIterator[RunningNode]:
    async with (
        served(clock_server()) as url,
        front_of(folder, service("wall", url), hops=hops, search_mode=True) as node,
    ):
        yield node


async def call(mcp: McpClient, name: str, /, **arguments: Any) -> Json:
    return await mcp.request(Request.within("tools/call", {"name": name, "arguments": arguments}, timeout_s=20))


@eras
@hops
async def test_tools_for_pages_alone_are_not_found_by_a_model(era: Era, hops: int, tmp_path: Path) -> None:
    async with searched(tmp_path, hops) as node, client(node.url, era) as mcp:
        assert "wall__save_time" in node.tool_names()
        found = (await call(mcp, "search_tools", query="time"))["structuredContent"]
        assert sorted(tool["name"] for tool in found["tools"]) == ["wall__get_time", "wall__zones"]
        assert (await call(mcp, "describe_tool", name="wall__save_time"))["isError"]
        for name in ("wall__save_time", "save_time", hashed_backend_name("Alarms", "save_time")):
            with pytest.raises(RpcError, match=f"Unknown tool: '{name}'"):
                await call(mcp, "call_tool", name=name)
        # A page has the name from its server, and calls without search.
        assert (await call(mcp, "wall__save_time"))["content"][0]["text"] == "saved"


@eras
@hops
async def test_what_call_tool_returns_names_the_page_of_the_tool(era: Era, hops: int, tmp_path: Path) -> None:
    async with searched(tmp_path, hops) as node, client(node.url, era) as mcp:
        result = await call(mcp, "call_tool", name="wall__get_time")
        assert result["content"][0]["text"] == "twelve"
        assert result["_meta"]["ui"]["resourceUri"] == "ui://wall/clock/page.html"
        flat = await call(mcp, "call_tool", name="wall__date")
        assert flat["_meta"]["ui"]["resourceUri"] == "ui://wall/clock/page.html", "also of the older form"
        without = await call(mcp, "call_tool", name="wall__zones")
        assert "ui" not in without.get("_meta", {})
        direct = await call(mcp, "wall__get_time")
        assert "ui" not in direct.get("_meta", {})
