"""Nodes that show names of different lengths: each lists by its own limit, and all names lead to the tool everywhere.

Real nodes in the test's own process. The one rule: what one node shows its clients says nothing about what another
node calls the same tool.
"""

import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fastmcp import FastMCP

from agent.client.protocol import Request
from agent.model import Era, HttpTarget, ServerScope, ServerSpec
from agent.routing.names import public_name, shown_name
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served

NODE, SERVER = "production-frankfurt-node-1", "github-enterprise-server"
TOOLS = ("create_pull_request_review", "delete_pull_request_review")
SHORT = 48
# What strict clients demand (Claude, OpenAI).
STRICT = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


def long_named() -> FastMCP:
    """A server whose tools answer with their own names."""
    server: FastMCP = FastMCP("long")

    def add(name: str) -> None:
        def tool() -> str:
            return name

        server.tool(tool, name=name)

    for name in TOOLS:
        add(name)
    return server


async def answer_of(node: RunningNode, era: Era, name: str) -> str:
    async with client(node.url, era) as mcp:
        result = await mcp.request(Request.within("tools/call", {"name": name, "arguments": {}}, timeout_s=15))
    return str(result["content"][0]["text"])


def names_of(len_max: int) -> dict[str, str]:
    """What clients of a node with that limit see, by the tool's own name."""
    return {tool: shown_name(NODE, SERVER, tool, len_max=len_max) for tool in TOOLS}


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("limits", [(64, SHORT), (SHORT, 64), (SHORT, SHORT)])
async def test_nodes_with_different_limits_serve_each_others_tools(
    limits: tuple[int, int], era: Era, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(served(long_named()))
        spec = ServerSpec(SERVER, HttpTarget(url), ServerScope.NODE)
        home = await stack.enter_async_context(
            running_node(NODE, tmp_path / "home", servers=[spec], name_len_max=limits[0])
        )
        await home.connected(SERVER)
        front = await stack.enter_async_context(running_node("front", tmp_path / "front", name_len_max=limits[1]))
        front.mesh.take_catalog(catalog(instance(home)))
        await front.when(lambda: set(front.tool_names()) == set(names_of(limits[1]).values()))
        assert set(home.tool_names()) == set(names_of(limits[0]).values())
        assert front.mesh.routes.conflicts == home.mesh.routes.conflicts == ()
        for node, len_max in zip((home, front), limits, strict=True):
            assert all(STRICT.match(name) and len(name) <= len_max for name in node.tool_names())
            for tool, name in names_of(len_max).items():
                assert await answer_of(node, era, name) == tool
                assert await answer_of(node, era, public_name(NODE, SERVER, tool)) == tool, "the name between nodes"


async def test_a_gateway_with_another_limit_is_believed_and_called(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(served(long_named()))
        spec = ServerSpec(SERVER, HttpTarget(url), ServerScope.NODE)
        home = await stack.enter_async_context(running_node(NODE, tmp_path / "home", servers=[spec]))
        await home.connected(SERVER)
        gateway = await stack.enter_async_context(running_node("gateway", tmp_path / "gateway", name_len_max=SHORT))
        gateway.mesh.take_catalog(catalog(instance(home)))
        await gateway.when(lambda: set(gateway.tool_names()) == set(names_of(SHORT).values()))
        front = await stack.enter_async_context(running_node("front", tmp_path / "front"))
        await front.add_peer("gateway", gateway.url, scope="mesh")
        await front.when(lambda: set(front.tool_names()) == set(names_of(64).values()))
        for tool, name in names_of(64).items():
            assert await answer_of(front, Era.MODERN, name) == tool
