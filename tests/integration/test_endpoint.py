"""Both endpoints as clients of either era find them: paths, management tools and resources, what REST shows."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from agent.rest import status
from tests.integration.servers import scripted_stdio
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.hosting import Seen, discovered, http, rpc_result, scripted
from tests.integration.servers.nodes import client, running_node, served

SCRIPTED = Path(scripted_stdio.__file__)
eras = pytest.mark.parametrize("era", list(Era))


async def manage(mcp: McpClient, tool: str, **arguments: Any) -> Json:
    return await mcp.request(Request.within("tools/call", {"name": tool, "arguments": arguments}, timeout_s=20))


@eras
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/local", "/mcp/local/"])
async def test_both_endpoints_answer_with_and_without_a_slash(path: str, era: Era, tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, client(node.base + path, era) as mcp:
        listed = await mcp.request(Request.within("tools/list", {}, timeout_s=5))
        assert len(listed["tools"]) == 5


@eras
async def test_the_management_tools_say_what_there_is(era: Era, tmp_path: Path) -> None:
    async with served(make_server()) as url:
        kit = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        off = ServerSpec("off", HttpTarget(url), ServerScope.SERVICE, enabled=False)
        async with running_node("one", tmp_path, servers=[kit, off]) as node, client(node.url, era) as mcp:
            await node.connected("kit")
            listed = (await manage(mcp, "list_mcp_servers"))["structuredContent"]
            assert [(s["name"], s["status"]) for s in listed["servers"]] == [("kit", "connected"), ("off", "disabled")]
            assert listed["count"] == 2
            available = (await manage(mcp, "get_available_mcp_servers"))["structuredContent"]
            assert available == {"servers": ["kit"], "count": 1}
            functions = (await manage(mcp, "get_mcp_server_functions", server_name="kit"))["structuredContent"]
            echo = next(f for f in functions["functions"] if f["name"] == "echo")
            assert echo["mesh_name"] == "kit__echo"
            assert functions["function_count"] == len(functions["functions"]) == len(node.view("kit").offer.tools)


@eras
async def test_reloads_are_waited_for_and_report_how_it_went(era: Era, tmp_path: Path) -> None:
    async with served(make_server()) as url:
        kit = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", tmp_path, servers=[kit]) as node, client(node.url, era) as mcp:
            await node.connected("kit")
            reloaded = (await manage(mcp, "reload_mcp_server", server_name="kit"))["structuredContent"]
            assert (reloaded["success"], reloaded["status"]) == (True, "connected")
            assert reloaded["function_count"] == len(node.view("kit").offer.tools)
            node.servers_file.append(ServerSpec("gone", HttpTarget("http://127.0.0.1:9/mcp"), ServerScope.NODE))
            everything = (await manage(mcp, "reload_all_mcp_servers"))["structuredContent"]
            assert [(s["server_name"], s["success"]) for s in everything["servers"]] == [("kit", True), ("gone", False)]
            assert "refuses the connection" in everything["servers"][1]["message"]
            listed = (await manage(mcp, "list_mcp_servers"))["structuredContent"]["servers"]
            assert "refuses the connection" in next(s["last_error"] for s in listed if s["name"] == "gone")
            # Only operators read where a server is.
            assert "127.0.0.1:9" in node.view("gone").last_error
            assert "127.0.0.1:9" not in f"{everything} {listed}"
            _, body = await node.rest("GET", "/servers")
            assert "127.0.0.1:9" in next(s["last_error"] for s in body["data"]["servers"] if s["name"] == "gone")


async def test_a_reload_waits_as_long_as_the_server_may_take_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "RELOAD_TIMEOUT_S", 2.0)  # The child needs 5 s: it does not answer server/discover.
    command = StdioTarget(sys.executable, (str(SCRIPTED), "silent"))
    async with running_node("one", tmp_path) as node:
        node.servers_file.append(ServerSpec("slow", command, ServerScope.NODE))
        assert (await node.node_status.reload("slow"))["message"] == "Server 'slow' reloaded"


async def test_a_reload_of_a_server_that_does_not_start_tells_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "RELOAD_TIMEOUT_S", 2.0)
    command = StdioTarget(sys.executable, (str(SCRIPTED), "mute"))
    async with running_node("one", tmp_path) as node:
        node.servers_file.append(ServerSpec("mute", command, ServerScope.NODE, start_timeout_s=1.0))
        told = await node.node_status.reload("mute")
        assert told["success"] is False
        assert "did not answer within 1 s" in told["message"]
        monkeypatch.setattr(status, "RELOAD_TIMEOUT_S", 0.0)
        node.servers_file.clear()
        node.servers_file.append(ServerSpec("other", command, ServerScope.NODE, start_timeout_s=0.1))
        assert (await node.node_status.reload("other"))["message"].removeprefix("Server 'other': ")


async def test_a_server_that_was_just_written_into_the_file_can_be_reloaded_by_name(tmp_path: Path) -> None:
    async with served(make_server()) as url, running_node("one", tmp_path) as node:
        node.servers_file.append(ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE))
        assert (await node.node_status.reload("kit"))["success"] is True


@eras
async def test_an_unknown_server_is_a_failed_tool_and_names_those_that_are_known(era: Era, tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, client(node.url, era) as mcp:
        for tool in ("reload_mcp_server", "get_mcp_server_functions"):
            result = await manage(mcp, tool, server_name="who")
            assert result["isError"] is True
            assert "who" in result["content"][0]["text"]
            assert "Known: none" in result["content"][0]["text"]
        missing = await manage(mcp, "reload_mcp_server")
        assert missing["isError"] is True


@eras
async def test_the_two_resources_are_json(era: Era, tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, client(node.url, era) as mcp:
        for uri, member in (("config://app", "port"), ("health://system", "status")):
            read = await mcp.request(Request.within("resources/read", {"uri": uri}, timeout_s=5))
            content = read["contents"][0]
            assert content["uri"] == uri
            assert content["mimeType"] == "application/json"
            assert member in json.loads(content["text"])


async def test_the_rest_api_shows_the_same_servers_as_the_tools(tmp_path: Path) -> None:
    async with served(make_server()) as url:
        kit = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", tmp_path, servers=[kit]) as node, client(node.url, Era.MODERN) as mcp:
            await node.connected("kit")
            status, body = await node.rest("GET", "/servers")
            assert (status, body["success"], body["message"]) == (200, True, "Found 1 MCP server(s)")
            listed = (await manage(mcp, "list_mcp_servers"))["structuredContent"]["servers"]
            shown = [{k: v for k, v in server.items() if k != "functions"} for server in body["data"]["servers"]]
            volatile = {"latency_ms"}
            assert [s.keys() for s in shown] == [s.keys() for s in listed]
            for one, other in zip(shown, listed, strict=True):
                assert {k: v for k, v in one.items() if k not in volatile} == {
                    k: v for k, v in other.items() if k not in volatile
                }
            status, body = await node.rest("GET", "/status")
            assert status == 200
            assert body["data"]["self"]["name"] == "one"
            assert body["data"]["self"]["tools"] == len(node.tool_names())
            assert body["data"]["conflicts"] == body["data"]["findings"] == []


@eras
async def test_the_management_tools_ask_another_node_that_is_named(era: Era, tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        running_node("two", tmp_path / "two", servers=[ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)]) as two,
        running_node("one", tmp_path / "one") as one,
        client(one.url, era) as mcp,
        client(one.local_url, era) as local,
    ):
        await two.connected("kit")
        status, _ = await one.add_peer("other", two.url)
        assert status == 201
        # What a node serves itself is one number, on every node.
        _, body = await two.rest("GET", "/status")
        assert body["data"]["self"]["function_count"] == len(one.view("other").offer.tools)
        for name in ("two", "other"):
            there = (await manage(mcp, "list_mcp_servers", node=name))["structuredContent"]
            assert [server["name"] for server in there["servers"]] == ["kit"]
        shown = (await manage(mcp, "get_mcp_server_functions", server_name="kit", node="two"))["structuredContent"]
        assert "kit__echo" in str(shown["functions"])
        there = (await manage(mcp, "get_available_mcp_servers", node="two"))["structuredContent"]
        assert there == {"servers": ["kit"], "count": 1}
        reloaded = await manage(mcp, "reload_mcp_server", server_name="kit", node="two")
        assert reloaded["structuredContent"]["success"] is True
        all_of_it = (await manage(mcp, "reload_all_mcp_servers", node="two"))["structuredContent"]
        assert [(server["server_name"], server["success"]) for server in all_of_it["servers"]] == [("kit", True)]
        own = (await manage(mcp, "get_available_mcp_servers", node="one"))["structuredContent"]
        assert own["servers"] == ["other"]
        for asked, words in ({"node": "three"}, "no node named 'three'"), ({"node": "two", "server_name": "x"}, "'x'"):
            tool = "get_mcp_server_functions" if "server_name" in asked else "list_mcp_servers"
            refused = await manage(mcp, tool, **asked)
            assert refused["isError"] is True
            assert words in refused["content"][0]["text"]
        # What peers reach answers for itself: a request to it never goes on to another node.
        passed_on = await manage(local, "list_mcp_servers", node="two")
        assert passed_on["isError"] is True


async def test_how_long_a_server_asks_to_wait_is_in_the_error_on_both_sides_of_a_hop(tmp_path: Path) -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                return rpc_result(request, {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                return http(429, b"slow down", "text/plain", Retry_After="7"), True
        return http(404), True

    async with (
        scripted(answer) as script,
        running_node("one", tmp_path / "one", servers=[kit_at(script.url)]) as one,
        running_node("two", tmp_path / "two") as two,
    ):
        await one.connected("kit")
        await two.add_peer("one", one.url)
        await two.connected("one")
        await two.when(lambda: "one__kit__t" in two.tool_names())
        for node in (one, two):
            async with client(node.url, Era.MODERN) as mcp:
                with pytest.raises(RpcError, match=r"server kit on one answered HTTP 429$") as refused:
                    await manage(mcp, "one__kit__t")
            assert refused.value.data["retry_after_s"] == 7.0


def kit_at(url: str) -> ServerSpec:
    return ServerSpec("kit", HttpTarget(url), ServerScope.NODE)
