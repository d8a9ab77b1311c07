"""What a server's results link to can be read through nodes, by the very URI that a client was shown."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.prompts import Message
from fastmcp.tools import ToolResult
from mcp_types import EmbeddedResource, ResourceLink, TextResourceContents

from agent.client.protocol import McpClient, Request
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.clock_server import ask, listed, service
from tests.integration.servers.hops import front_before, front_of
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served

PAGE = "ui://kit-app/main.html"


def make_server() -> FastMCP:
    server: FastMCP = FastMCP("kit")

    @server.resource("notes://home")
    def home() -> str:
        return "the home page"

    @server.resource("notes://pages/{number}")
    def page(number: str) -> str:
        return f"page {number}"

    @server.resource(PAGE)
    def app() -> str:
        return "<p>an app</p>"

    @server.resource("https://docs.example.com/guide")
    def guide() -> str:
        return "the guide"

    @server.resource("https://docs.example.com/pages/{number}")
    def web_page(number: str) -> str:
        return f"web page {number}"

    @server.tool
    def link() -> ToolResult:
        uris = ("https://docs.example.com/guide", "https://docs.example.com/pages/3")
        return ToolResult([ResourceLink(name=uri, uri=uri) for uri in uris])

    @server.tool(meta={"ui": {"resourceUri": PAGE}, "ui/resourceUri": PAGE})
    def look() -> ToolResult:
        uris = ("notes://home", "notes://pages/7", "https://example.com/x")
        links = [ResourceLink(name=uri, uri=uri) for uri in uris]
        embedded = EmbeddedResource(resource=TextResourceContents(uri="notes://pages/8", text="page 8"))
        content: list[Any] = [*links, embedded]
        return ToolResult(content, structured_content={"uri": "notes://home"}, meta={"ui": {"resourceUri": PAGE}})

    @server.prompt
    def told() -> list[Message]:
        return [Message(EmbeddedResource(resource=TextResourceContents(uri="notes://pages/9", text="page 9")))]

    return server


@asynccontextmanager
async def node_with(folder: Path, url: str, scope: ServerScope, hops: int) -> AsyncIterator[RunningNode]:
    """The node that a client talks to: the server's own, or one in front of that."""
    async with AsyncExitStack() as stack:
        spec = ServerSpec("kit", HttpTarget(url), scope)
        back = await stack.enter_async_context(running_node("back", folder / "back", servers=[spec]))
        await back.connected("kit")
        if hops == 1:
            yield back
            return
        yield await stack.enter_async_context(front_before(folder, back))


def uris_of(result: Json) -> list[str]:
    return [part.get("uri") or part["resource"]["uri"] for part in result["content"]]


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize(
    ("scope", "namespace"),
    [(ServerScope.SERVICE, "kit"), (ServerScope.SERVICE, "back__kit"), (ServerScope.NODE, "back__kit")],
)
async def test_every_link_of_a_result_can_be_read_as_it_was_shown(
    era: Era, hops: int, scope: ServerScope, namespace: str, tmp_path: Path
) -> None:
    async with (
        served(make_server()) as url,
        node_with(tmp_path, url, scope, hops) as node,
        client(node.url, era) as mcp,
    ):
        result = await mcp.request(
            Request.within("tools/call", {"name": f"{namespace}__look", "arguments": {}}, timeout_s=10)
        )
        home, seventh, web, eighth = uris_of(result)
        assert (home, seventh) == (f"notes://{namespace}/home", f"notes://{namespace}/pages/7")
        assert web == "https://example.com/x"
        assert result["structuredContent"] == {"uri": "notes://home"}
        for uri, text in {home: "the home page", seventh: "page 7", eighth: "page 8"}.items():
            contents = (await mcp.request(Request.within("resources/read", {"uri": uri}, timeout_s=10)))["contents"]
            assert [(part["uri"], part["text"]) for part in contents] == [(uri, text)]
        await _addresses_of_the_web_stay(mcp, namespace)
        shown = result["_meta"]["ui"]["resourceUri"]
        assert shown == f"ui://{namespace}/kit-app/main.html"
        read = await mcp.request(Request.within("resources/read", {"uri": shown}, timeout_s=10))
        assert read["contents"][0]["text"] == "<p>an app</p>"


async def _addresses_of_the_web_stay(mcp: McpClient, namespace: str) -> None:
    """They are listed and linked alike, and what was linked can be read."""
    called = await mcp.request(
        Request.within("tools/call", {"name": f"{namespace}__link", "arguments": {}}, timeout_s=10)
    )
    guide, third = uris_of(called)
    assert (guide, third) == ("https://docs.example.com/guide", "https://docs.example.com/pages/3")
    resources = (await mcp.request(Request.within("resources/list", {}, timeout_s=10)))["resources"]
    assert [entry["uri"] for entry in resources if entry["uri"].startswith("https:")] == [guide]
    templates = (await mcp.request(Request.within("resources/templates/list", {}, timeout_s=10)))["resourceTemplates"]
    assert "https://docs.example.com/pages/{number}" in [entry["uriTemplate"] for entry in templates]
    for uri, text in {guide: "the guide", third: "web page 3"}.items():
        contents = (await mcp.request(Request.within("resources/read", {"uri": uri}, timeout_s=10)))["contents"]
        assert [(part["uri"], part["text"]) for part in contents] == [(uri, text)]


@pytest.mark.parametrize("hops", [1, 2])
async def test_an_address_that_two_servers_have_is_each_ones_in_its_own_views(hops: int, tmp_path: Path) -> None:
    other: FastMCP = FastMCP("other")

    @other.resource("https://docs.example.com/guide")
    def guide() -> str:
        return "another guide"

    async with (
        served(make_server()) as one,
        served(other) as two,
        front_of(tmp_path, service("kit", one), service("zoo", two), hops=hops) as node,
    ):
        await node.when(lambda: "zoo" in node.mesh.routes.servers)
        for path, text in (
            ("/mcp", "the guide"),
            ("/mcp?servers=kit", "the guide"),
            ("/mcp?servers=zoo", "another guide"),
            ("/mcp/s/zoo", "another guide"),
        ):
            async with client(f"{node.base}{path}", Era.MODERN) as mcp:
                uris = await listed(mcp, "resources", "uri")
                assert uris.count("https://docs.example.com/guide") == 1
                (part,) = (await ask(mcp, "resources/read", uri="https://docs.example.com/guide"))["contents"]
                assert (part["uri"], part["text"]) == ("https://docs.example.com/guide", text)


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("hops", [1, 2])
async def test_prompts_and_definitions_name_what_can_be_read(era: Era, hops: int, tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        node_with(tmp_path, url, ServerScope.SERVICE, hops) as node,
        client(node.url, era) as mcp,
    ):
        listed = {
            tool["name"]: tool for tool in (await mcp.request(Request.within("tools/list", {}, timeout_s=10)))["tools"]
        }
        meta = listed["kit__look"]["_meta"]
        pages = {
            resource["uri"]
            for resource in (await mcp.request(Request.within("resources/list", {}, timeout_s=10)))["resources"]
        }
        assert meta["ui"]["resourceUri"] == meta["ui/resourceUri"] == "ui://kit/kit-app/main.html"
        assert meta["ui"]["resourceUri"] in pages
        prompt = await mcp.request(Request.within("prompts/get", {"name": "kit__told"}, timeout_s=10))
        uri = prompt["messages"][0]["content"]["resource"]["uri"]
        assert (await mcp.request(Request.within("resources/read", {"uri": uri}, timeout_s=10)))["contents"][0][
            "text"
        ] == "page 9"


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_that_lists_no_resource_is_asked_for_what_it_linked_to(hops: int, tmp_path: Path) -> None:
    async def answer(seen: Seen) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover":
                return discovered(seen), True
            case "tools/list":
                return rpc_result(seen, {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                return rpc_result(
                    seen, {"content": [{"type": "resource_link", "name": "x", "uri": "memo:1?a=b#c"}]}
                ), True
            case "resources/read" if seen.body["params"]["uri"] == "memo:1?a=b#c":
                parts = [{"uri": "memo:1?a=b#c", "text": "one"}, {"uri": "memo:2", "text": "two"}]
                return rpc_result(seen, {"contents": parts}), True
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    async with (
        scripted(answer) as script,
        node_with(tmp_path, script.url, ServerScope.SERVICE, hops) as node,
        client(node.url, Era.MODERN) as mcp,
    ):
        (uri,) = uris_of(await mcp.request(Request.within("tools/call", {"name": "kit__look"}, timeout_s=10)))
        contents = (await mcp.request(Request.within("resources/read", {"uri": uri}, timeout_s=10)))["contents"]
        assert [part["text"] for part in contents] == ["one", "two"]
        assert [part["uri"] for part in contents] == [uri, "memo:kit/2"]


async def test_replicas_of_a_service_with_an_app_do_not_disagree(tmp_path: Path) -> None:
    """Its page has our name on the other node's list and the server's own in what it tells us."""
    async with served(make_server()) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with (
            running_node("one", tmp_path / "one", servers=[spec]) as one,
            running_node("two", tmp_path / "two", servers=[spec]) as two,
        ):
            await one.connected("kit")
            await two.connected("kit")
            one.mesh.take_catalog(catalog(instance(two)))
            await one.when(lambda: len(one.mesh.routes.tools["kit__look"].replicas) == 2)
            assert one.mesh.routes.conflicts == ()
