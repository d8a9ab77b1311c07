"""What clients of either era see of a node with one real server behind it: lists, calls, errors, progress."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from fastmcp import Context, FastMCP
from mcp.shared.exceptions import MCPError
from pydantic import Field

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import RpcError
from agent.mcp_terms import CLIENT_INFO_META_KEY
from agent.model import MESH_EXTENSION, PROBE_META_KEY, Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.nodes import RunningNode, client, running_node, served

MANAGEMENT = {
    "list_mcp_servers",
    "reload_mcp_server",
    "reload_all_mcp_servers",
    "get_mcp_server_functions",
    "get_available_mcp_servers",
}


@dataclass
class Diary:
    waiting: asyncio.Event
    cancelled: asyncio.Event
    seen: list[Json]


def kit(diary: Diary) -> FastMCP:
    server: FastMCP = FastMCP("kit")

    @server.tool
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @server.tool
    def where(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        return region

    @server.tool
    def refuse() -> str:
        raise ValueError("not today")

    @server.tool
    async def count(to: int, ctx: Context) -> str:
        for step in range(to):
            await ctx.report_progress(step, to)
        return "counted"

    @server.tool
    async def wait() -> str:
        diary.waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            diary.cancelled.set()
            raise
        return "never"

    _add_readable(server)
    return server


def _add_readable(server: FastMCP) -> None:
    @server.prompt
    def greet(who: str) -> str:
        return f"Hello, {who}"

    @server.resource("kit://home")
    def home() -> str:
        return "home"

    @server.resource("kit://pages/{number}")
    def page(number: str) -> str:
        return f"page {number}"


@dataclass
class Scene:
    node: RunningNode
    mcp: McpClient
    diary: Diary
    era: Era

    async def call(self, name: str, **arguments: object) -> Json:
        return await self.mcp.request(
            Request.within("tools/call", {"name": name, "arguments": arguments}, timeout_s=15)
        )


@asynccontextmanager
async def scene(era: Era, folder: Path) -> AsyncIterator[Scene]:
    diary = Diary(asyncio.Event(), asyncio.Event(), [])
    async with served(kit(diary)) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec]) as node:
            await node.connected("kit")
            async with client(node.url, era) as mcp:
                yield Scene(node, mcp, diary, era)


def in_both_eras(test: Callable[[Scene], Awaitable[None]]) -> Callable[[Era, Path], Awaitable[None]]:
    """Run the test once per era; no fixture, because cancel scopes must be left in the task that entered them."""

    @pytest.mark.parametrize("era", [Era.MODERN, Era.LEGACY])
    async def both(era: Era, tmp_path: Path) -> None:
        async with scene(era, tmp_path) as now:
            await test(now)

    both.__name__ = test.__name__
    return both


@in_both_eras
async def test_tools_are_ours_and_the_servers_with_their_definitions_as_they_were(now: Scene) -> None:
    result = await now.mcp.request(Request.within("tools/list", {}, timeout_s=5))
    tools = {tool["name"]: tool for tool in result["tools"]}
    assert tools.keys() > MANAGEMENT
    assert {"kit__add", "kit__refuse", "kit__count", "kit__wait", "kit__where"} == tools.keys() - MANAGEMENT
    assert tools["kit__add"]["inputSchema"]["required"] == ["a"]
    assert ("resultType" in result) is ("ttlMs" in result) is (now.era is Era.MODERN)


@in_both_eras
async def test_a_cursor_that_no_list_gave_is_refused(now: Scene) -> None:
    with pytest.raises(RpcError, match="cursor") as caught:
        await now.mcp.request(Request.within("tools/list", {"cursor": "next"}, timeout_s=5))
    assert caught.value.code == -32602


@in_both_eras
async def test_a_call_is_answered_by_the_server_in_the_clients_era(now: Scene) -> None:
    result = await now.call("kit__add", a=2, b=40)
    assert result["content"] == [{"type": "text", "text": "42"}]
    assert result["structuredContent"] == {"result": 42}
    assert (result.get("resultType") == "complete") is (now.era is Era.MODERN)


@in_both_eras
async def test_the_alias_under_the_nodes_name_resolves_though_it_is_not_listed(now: Scene) -> None:
    assert (await now.call("one__kit__add", a=1))["structuredContent"] == {"result": 2}


@in_both_eras
async def test_a_tools_own_failure_is_a_result_and_not_an_error(now: Scene) -> None:
    result = await now.call("kit__refuse")
    assert result["isError"] is True
    assert "not today" in result["content"][0]["text"]


@in_both_eras
async def test_unknown_names_are_refused_by_name(now: Scene) -> None:
    for method, params in [
        ("tools/call", {"name": "kit__nothing", "arguments": {}}),
        ("prompts/get", {"name": "kit__nothing"}),
        ("resources/read", {"uri": "kit://nobody/x"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "no"}, "argument": {"name": "a", "value": ""}}),
    ]:
        with pytest.raises(RpcError, match="Unknown") as caught:
            await now.mcp.request(Request.within(method, params, timeout_s=5))
        assert caught.value.code == -32602


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("tools/call", {"arguments": {}}, "name"),
        ("tools/call", {"name": "kit__add", "arguments": [1]}, "arguments"),
        ("prompts/get", {"name": 7}, "name"),
        ("resources/read", {"uri": None}, "uri"),
        ("completion/complete", {"ref": "x"}, "ref"),
        ("completion/complete", {"ref": {"type": "ref/resource"}}, "uri"),
        ("tools/call", {"name": "kit__add", "_meta": "x"}, "_meta"),
    ],
)
async def test_params_of_the_wrong_shape_are_refused_with_the_field(
    method: str, params: Json, field: str, tmp_path: Path
) -> None:
    # The modern endpoint compares body and headers before anything of ours sees them; sessions have only us.
    async with scene(Era.LEGACY, tmp_path) as now:
        with pytest.raises(RpcError, match=field) as caught:
            await now.mcp.request(Request.within(method, params, timeout_s=5))
        assert caught.value.code == -32602


@in_both_eras
async def test_prompts_are_listed_and_got_under_the_servers_name(now: Scene) -> None:
    listed = await now.mcp.request(Request.within("prompts/list", {}, timeout_s=5))
    assert [prompt["name"] for prompt in listed["prompts"]] == ["kit__greet"]
    got = await now.mcp.request(
        Request.within("prompts/get", {"name": "kit__greet", "arguments": {"who": "you"}}, timeout_s=5)
    )
    assert got["messages"][0]["content"]["text"] == "Hello, you"


@in_both_eras
async def test_resources_are_read_by_their_name_in_the_mesh_and_named_so_in_the_answer(now: Scene) -> None:
    listed = await now.mcp.request(Request.within("resources/list", {}, timeout_s=5))
    assert {"config://app", "health://system", "kit://kit/home"} == {entry["uri"] for entry in listed["resources"]}
    read = await now.mcp.request(Request.within("resources/read", {"uri": "kit://kit/home"}, timeout_s=5))
    assert read["contents"][0]["uri"] == "kit://kit/home"
    assert read["contents"][0]["text"] == "home"
    assert ("ttlMs" in read) is (now.era is Era.MODERN)


@in_both_eras
async def test_an_expanded_template_is_read_through_its_namespace(now: Scene) -> None:
    listed = await now.mcp.request(Request.within("resources/templates/list", {}, timeout_s=5))
    assert [entry["uriTemplate"] for entry in listed["resourceTemplates"]] == ["kit://kit/pages/{number}"]
    read = await now.mcp.request(Request.within("resources/read", {"uri": "kit://kit/pages/7"}, timeout_s=5))
    assert (read["contents"][0]["uri"], read["contents"][0]["text"]) == ("kit://kit/pages/7", "page 7")


@in_both_eras
async def test_our_own_tools_and_resources_are_answered_by_this_node(now: Scene) -> None:
    servers = (await now.call("list_mcp_servers"))["structuredContent"]
    assert [(server["name"], server["connected"]) for server in servers["servers"]] == [("kit", True)]
    read = await now.mcp.request(Request.within("resources/read", {"uri": "health://system"}, timeout_s=5))
    assert '"healthy"' in read["contents"][0]["text"]


@in_both_eras
async def test_progress_of_the_server_reaches_the_client_in_order_with_its_own_token(now: Scene) -> None:
    seen: list[Json] = []

    async def on_notification(method: str, params: Json) -> None:
        assert method == "notifications/progress"
        seen.append(params)

    params = {"name": "kit__count", "arguments": {"to": 5}, "_meta": {"progressToken": "mine"}}
    result = await now.mcp.request(Request.within("tools/call", params, timeout_s=10, on_notification=on_notification))
    assert result["content"][0]["text"] == "counted"
    assert [(one["progressToken"], one["progress"]) for one in seen] == [("mine", step) for step in range(5)]


@in_both_eras
async def test_a_client_that_gives_up_cancels_the_call_on_the_server(now: Scene) -> None:
    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        call = group.create_task(now.call("kit__wait"), name="call")
        await now.diary.waiting.wait()
        call.cancel()
        await now.diary.cancelled.wait()
    assert repr(now.node.dispatch) == "<Dispatch in_flight=0>"


@in_both_eras
async def test_the_greeting_says_that_we_are_a_mesh_node_and_drops_no_capability(now: Scene) -> None:
    capabilities = now.mcp.server_info.capabilities
    slot = capabilities["extensions" if now.era is Era.MODERN else "experimental"]
    assert slot[MESH_EXTENSION] == {"node_id": now.node.identity.node_id, "name": "one"}
    for capability in ("tools", "prompts", "resources"):
        assert capabilities[capability]["listChanged"] is True
    assert "completions" in capabilities
    assert now.mcp.server_info.instructions is not None


@in_both_eras
async def test_a_server_that_vanishes_takes_its_names_along_and_clients_are_notified(now: Scene) -> None:
    changes: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        listener = group.create_task(now.mcp.listen(changes.put_nowait), name="listen")
        assert await changes.get() == "listening"
        now.node.mesh.take_servers([])
        assert {await changes.get(), await changes.get(), await changes.get()} == {"tools", "prompts", "resources"}
        listener.cancel()
    result = await now.mcp.request(Request.within("tools/list", {}, timeout_s=5))
    assert {tool["name"] for tool in result["tools"]} == MANAGEMENT


async def test_headers_that_repeat_arguments_are_checked_here_and_sent_on(tmp_path: Path) -> None:
    async with scene(Era.MODERN, tmp_path) as now:
        params: Json = {"name": "kit__where", "arguments": {"region": "eu"}}
        good, bad = {"Mcp-Param-Region": "eu"}, {"Mcp-Param-Region": "us"}
        result = await now.mcp.request(Request.within("tools/call", params, timeout_s=5, headers=good))
        assert result["structuredContent"] == {"result": "eu"}
        with pytest.raises(RpcError) as caught:
            await now.mcp.request(Request.within("tools/call", params, timeout_s=5, headers=bad))
        assert caught.value.code == -32020
    async with scene(Era.LEGACY, tmp_path) as now:
        # A session's client knows no such headers; the server behind wants them all the same.
        assert (await now.call("kit__where", region="eu"))["structuredContent"] == {"result": "eu"}


async def test_errors_of_the_backend_pass_unchanged_with_their_data(tmp_path: Path) -> None:
    server: FastMCP = FastMCP("kit")

    async def refuse(ctx: object, call_next: object) -> Json:
        if getattr(ctx, "method", "") == "tools/call":
            raise MCPError(code=-31999, message="my own", data={"why": ["so"]})
        return await call_next(ctx)  # type: ignore[operator,no-any-return]  # the SDK's untyped chain

    @server.tool
    def add() -> int:
        return 1

    server._mcp_server.middleware.insert(0, refuse)
    async with served(server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", tmp_path, servers=[spec]) as node:
            await node.connected("kit")
            for era in Era:
                async with client(node.url, era) as mcp:
                    with pytest.raises(RpcError, match="my own") as caught:
                        await mcp.request(Request.within("tools/call", {"name": "kit__add"}, timeout_s=5))
                    assert (caught.value.code, caught.value.data) == (-31999, {"why": ["so"]})


@pytest.mark.parametrize("era", [Era.MODERN, Era.LEGACY])
async def test_the_line_in_the_log_names_the_server_that_was_asked_and_how_that_ended(
    era: Era, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent.mcp")
    async with scene(era, tmp_path) as now:
        caplog.clear()
        await now.call("kit__add", a=1)
        await now.call("kit__refuse")
        await now.call("reload_mcp_server", unknown=1)
        with pytest.raises(RpcError):
            await now.mcp.request(Request.within("prompts/get", {"name": "kit__greet", "arguments": {}}, timeout_s=5))
        with pytest.raises(RpcError):
            await now.call("kit__nothing")
        lines = [
            tuple(str(getattr(line, key)) for key in ("mcp_name", "backend", "outcome"))
            for line in caplog.records
            if line.message == "MCP request" and getattr(line, "mcp_name", None) is not None
        ]
    assert [(name, backend, outcome.split()[0]) for name, backend, outcome in lines] == [
        ("kit__add", "server:kit", "ok"),
        ("kit__refuse", "server:kit", "tool_error"),
        ("reload_mcp_server", "own", "tool_error"),
        ("kit__greet", "server:kit", "error"),
        ("kit__nothing", "own", "error"),
    ]


async def test_a_links_probe_is_a_debug_line_and_a_clients_own_question_is_not_hidden(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "agent.mcp")
    async with scene(Era.MODERN, tmp_path) as now:
        caplog.clear()
        await now.mcp.probe(5)
        client = {"_meta": {CLIENT_INFO_META_KEY: {"name": "a client", "version": "1"}}}  # And no node.
        await now.mcp.request(Request.within("server/discover", client, timeout_s=5))
        await now.mcp.request(Request.within("tools/list", {"_meta": {PROBE_META_KEY: True}}, timeout_s=5))
        lines = [(line.levelname, getattr(line, "method", "")) for line in caplog.records if line.name == "agent.mcp"]
    assert lines == [("DEBUG", "server/discover"), ("INFO", "server/discover"), ("INFO", "tools/list")]
