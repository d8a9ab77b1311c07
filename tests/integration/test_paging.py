"""Lists of many pages: between two nodes, and for the FastMCP client of either era while backends come and go."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastmcp import Client
from mcp.shared.exceptions import MCPError

from agent.client.protocol import Request
from agent.control.contributions import LARGE
from agent.model import Era, HttpTarget, Json, NodeIdentity, ServerScope, ServerSpec
from agent.routing import build as routes
from agent.routing.claims import read_contribution
from agent.routing.table import Contribution, Imported
from agent.server.pages import PageLimits
from tests.integration.servers.hosting import Seen, discovered, http, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node

MANAGEMENT_TOOLS = 5
SMALL = PageLimits(entries_max=20)

eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{number:05}" for number in range(count)]


@asynccontextmanager
async def server_of(tools: Sequence[str]) -> AsyncIterator[str]:
    """A server that lists these tools in one page and announces no changes; gives its URL."""
    schema: Json = {"type": "object"}
    listed = {"resultType": "complete", "tools": [{"name": name, "inputSchema": schema} for name in tools]}

    async def answer(request: Seen) -> tuple[bytes, bool]:
        match request.body["method"]:
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                return rpc_result(request, listed), True
            case _:
                return http(404), True

    async with scripted(answer) as script:
        yield script.url


def server(name: str, url: str, scope: ServerScope = ServerScope.SERVICE) -> ServerSpec:
    return ServerSpec(name, HttpTarget(url), scope)


async def rest(page: Callable[[str | None], Awaitable[tuple[list[str], str | None]]], cursor: str | None) -> list[str]:
    found: list[str] = []
    while cursor is not None:
        listed, cursor = await page(cursor)
        found += listed
    return found


async def settled(node: RunningNode, *servers: ServerSpec) -> None:
    """Give the node these servers and wait until exactly they are listed."""
    node.mesh.take_servers(servers)
    wanted = {spec.name for spec in servers}
    await node.when(lambda: {name.partition("__")[0] for name in node.tool_names()} == wanted)


async def test_a_node_reads_a_peers_list_of_many_pages_whole_and_goes_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, page = names("tool", 2_500), PageLimits(1_000)
    read_in_the_loop: list[int] = []

    def noted(contribution: Contribution, own: NodeIdentity) -> Imported:
        read_in_the_loop.append(len(contribution.offer.tools))
        return read_contribution(contribution, own)

    monkeypatch.setattr(routes, "read_contribution", noted)
    async with (
        server_of(many) as url,
        running_node("two", tmp_path / "two", servers=[server("kit", url)], limits=page) as two,
        running_node("one", tmp_path / "one") as one,
    ):
        await two.when(lambda: len(two.tool_names()) == len(many))
        async with client(two.local_url, Era.MODERN) as mcp:
            first = await mcp.request(Request.within("tools/list", {}, timeout_s=10))
            assert len(first["tools"]) == page.entries_max
            assert "nextCursor" in first
        one.mesh.take_catalog(catalog(instance(two)))
        await one.when(lambda: one.tool_names() == [f"kit__{name}" for name in many])
        assert len(one.view("two").offer.tools) == MANAGEMENT_TOOLS + len(many)
        assert max(read_in_the_loop, default=0) <= LARGE, "a large offer would hold up every call"


@eras
async def test_a_client_that_never_pages_sees_as_much_as_fits_into_a_megabyte(mode: str, tmp_path: Path) -> None:
    many = names("tool", 2_500)
    async with (
        server_of(many) as url,
        running_node("one", tmp_path, servers=[server("kit", url)]) as node,
        Client(node.url, mode=mode) as mcp,
    ):
        await node.when(lambda: len(node.tool_names()) == len(many))
        result = await mcp.list_tools_mcp(cursor=None)
        assert result.next_cursor is None
        assert len(result.tools) == MANAGEMENT_TOOLS + len(many)


@eras
async def test_the_fastmcp_client_sees_everything_once(mode: str, tmp_path: Path) -> None:
    many = names("tool", 230)
    async with (
        server_of(many) as url,
        running_node("one", tmp_path, servers=[server("kit", url)], limits=SMALL) as node,
        Client(node.url, mode=mode) as mcp,
    ):
        await node.connected("kit")
        listed = [tool.name for tool in await mcp.list_tools()]
        assert len(listed) == MANAGEMENT_TOOLS + len(many)
        assert listed[MANAGEMENT_TOOLS:] == [f"kit__{name}" for name in many]


@eras
async def test_a_client_amid_paging_sees_one_list_though_backends_join_and_leave(mode: str, tmp_path: Path) -> None:
    async with (
        server_of(names("tool", 90)) as old,
        server_of(names("tool", 30)) as new,
        running_node("one", tmp_path, servers=[server("kit", old)], limits=SMALL) as node,
        Client(node.url, mode=mode) as mcp,
    ):
        await node.connected("kit")

        async def page(cursor: str | None) -> tuple[list[str], str | None]:
            result = await mcp.list_tools_mcp(cursor=cursor)
            return [tool.name for tool in result.tools], result.next_cursor

        first, cursor = await page(None)
        kit = [f"kit__{name}" for name in names("tool", 90)]
        await settled(node, server("kit", old), server("app", new))
        assert (first + await rest(page, cursor))[MANAGEMENT_TOOLS:] == kit
        joined = [tool.name for tool in await mcp.list_tools()][MANAGEMENT_TOOLS:]
        assert joined == [f"app__{name}" for name in names("tool", 30)] + kit
        await settled(node, server("app", new))
        assert (first + await rest(page, cursor))[MANAGEMENT_TOOLS:] == kit
        left = [tool.name for tool in await mcp.list_tools()][MANAGEMENT_TOOLS:]
        assert left == [f"app__{name}" for name in names("tool", 30)]


@eras
async def test_a_cursor_of_another_node_is_good_where_the_same_is_listed_and_refused_elsewhere(
    mode: str, tmp_path: Path
) -> None:
    async with (
        server_of(names("tool", 50)) as url,
        running_node("one", tmp_path / "one", servers=[server("kit", url)], limits=SMALL) as one,
        running_node("two", tmp_path / "two", limits=SMALL) as two,
        Client(one.url, mode=mode) as mcp,
        Client(two.url, mode=mode) as other,
    ):
        await one.connected("kit")
        cursor = (await mcp.list_tools_mcp()).next_cursor
        with pytest.raises(MCPError, match="list again without a cursor") as caught:
            await other.list_tools_mcp(cursor=cursor)
        assert caught.value.error.code == -32602
        await settled(two, server("kit", url))
        pages = [await known.list_tools_mcp(cursor=cursor) for known in (mcp, other)]
        here, there = ([tool.name for tool in page.tools] for page in pages)
        assert here == there == [f"kit__{name}" for name in names("tool", 50)][15:35]
