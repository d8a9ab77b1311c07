"""A node alone with short names, and a second node that comes and goes: no name of its clients changes.

Real nodes in the test's own process. The one rule: a short name means the server of the node that the client uses.
"""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fastmcp import FastMCP

from agent.client.protocol import Request
from agent.model import Era, HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served


def files_of(place: str) -> FastMCP:
    """A server that says where it is."""
    server: FastMCP = FastMCP("files")

    @server.tool
    def where() -> str:
        return place

    return server


async def where(node: RunningNode, era: Era, name: str) -> str:
    async with client(node.url, era) as mcp:
        result = await mcp.request(Request.within("tools/call", {"name": name, "arguments": {}}, timeout_s=15))
    return str(result["content"][0]["text"])


@pytest.mark.parametrize("era", list(Era))
async def test_a_second_node_renames_nothing_for_clients_of_the_first(era: Era, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        urls = {place: await stack.enter_async_context(served(files_of(place))) for place in ("laptop", "desk")}
        specs = {place: ServerSpec("files", HttpTarget(url), ServerScope.NODE) for place, url in urls.items()}
        laptop = await stack.enter_async_context(
            running_node("laptop", tmp_path / "laptop", servers=[specs["laptop"]], short_names=True)
        )
        await laptop.connected("files")
        assert laptop.tool_names() == ["files__where"]
        assert await where(laptop, era, "files__where") == "laptop"
        async with running_node("desk", tmp_path / "desk", servers=[specs["desk"]], short_names=True) as desk:
            await desk.connected("files")
            laptop.mesh.take_catalog(catalog(instance(desk)))
            await laptop.when(lambda: len(laptop.tool_names()) == 2)
            assert laptop.tool_names() == ["desk__files__where", "files__where"]
            for name, place in (("files__where", "laptop"), ("desk__files__where", "desk")):
                assert await where(laptop, era, name) == place
            assert await where(laptop, era, "laptop__files__where") == "laptop", "the name between nodes"
            assert await where(desk, era, "files__where") == "desk"
        laptop.mesh.take_catalog(catalog())
        await laptop.when(lambda: laptop.tool_names() == ["files__where"])
        assert await where(laptop, era, "files__where") == "laptop"


async def test_a_gateway_with_short_names_lists_long_ones_for_nodes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(served(files_of("laptop")))
        spec = ServerSpec("files", HttpTarget(url), ServerScope.NODE)
        laptop = await stack.enter_async_context(
            running_node("laptop", tmp_path / "laptop", servers=[spec], short_names=True)
        )
        await laptop.connected("files")
        front = await stack.enter_async_context(running_node("front", tmp_path / "front"))
        await front.add_peer("laptop", laptop.url, scope="mesh")
        await front.when(lambda: front.tool_names() == ["laptop__files__where"])
        assert not front.mesh.routes.conflicts
        assert await where(front, Era.MODERN, "laptop__files__where") == "laptop"
