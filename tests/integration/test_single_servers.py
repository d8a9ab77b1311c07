"""`/mcp/s/NAME` shows one server of the mesh as itself, from any node and in both eras."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from fastmcp import FastMCP
from fastmcp.server.providers.addressing import hashed_backend_name

from agent.errors import RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.clock_server import PAGE, ask, clock_server, listed, service, text_of
from tests.integration.servers.hearing import heard_while
from tests.integration.servers.hops import front_before, front_of
from tests.integration.servers.nodes import RunningNode, catalog, client, running_node, served
from tests.integration.servers.raw_session import ACCEPT, initialize_request

eras = pytest.mark.parametrize("era", list(Era))
hops = pytest.mark.parametrize("hops", [1, 2])


def single(node: RunningNode, name: str) -> str:
    return f"{node.base}/mcp/s/{name}"


@eras
@hops
async def test_a_server_is_shown_as_itself(era: Era, hops: int, tmp_path: Path) -> None:
    async with (
        served(clock_server()) as wall,
        served(clock_server("noon")) as wrist,
        front_of(tmp_path, service("wall", wall), service("wrist", wrist), hops=hops) as node,
        client(single(node, "wall"), era) as mcp,
        client(wall, era) as direct,
    ):
        assert mcp.server_info.instructions == direct.server_info.instructions == "Wind it daily."
        for member in ("name", "version", "websiteUrl"):
            assert mcp.server_info.server_info[member] == direct.server_info.server_info[member]
        assert mcp.server_info.mesh is None
        shown, own = mcp.server_info.capabilities, direct.server_info.capabilities
        assert shown.keys() - {"extensions"} == own.keys() - {"extensions"}
        assert shown["resources"].get("subscribe", False) == own["resources"]["subscribe"]
        for method, key, name in (
            ("tools/list", "tools", "name"),
            ("prompts/list", "prompts", "name"),
            ("resources/list", "resources", "uri"),
            ("resources/templates/list", "resourceTemplates", "uriTemplate"),
        ):
            shown, own = (await ask(mcp, method))[key], (await ask(direct, method))[key]
            own.sort(key=lambda entry, name=name: entry[name])
            assert [entry[name] for entry in shown] == [entry[name] for entry in own]
            pages = [entry.get("_meta", {}).get("ui") for entry in shown]
            assert pages == [entry.get("_meta", {}).get("ui") for entry in own]
        called = await ask(mcp, "tools/call", name="get-time", arguments={})
        assert called["content"] == (await ask(direct, "tools/call", name="get-time", arguments={}))["content"]
        assert await text_of(mcp, hashed_backend_name("Alarms", "save"), at="seven") == "saved seven"
        for uri, text in {PAGE: "<p>the page</p>", "videos://7": "video 7"}.items():
            (part,) = (await ask(mcp, "resources/read", uri=uri))["contents"]
            assert (part["uri"], part["text"]) == (uri, text)
        prompt = await ask(mcp, "prompts/get", name="wind_up")
        assert prompt["messages"][0]["content"]["text"] == "wind it up"
        counted = node.metrics.render()[0].decode()
        assert 'mesh_own_name_requests_total{method="tools/call"} 1.0' in counted, "only FastMCP's is in no list"
        assert 'mesh_own_name_requests_total{method="resources/read"}' not in counted


@eras
@hops
async def test_nothing_of_other_servers_or_of_the_node_is_there(era: Era, hops: int, tmp_path: Path) -> None:
    other: FastMCP = FastMCP("other")

    @other.tool
    def shout() -> str:
        return "hey"

    @other.tool
    def call_tool(name: str) -> str:
        return f"my own way of calling {name}"

    async with (
        served(clock_server()) as wall,
        served(other) as elsewhere,
        front_of(tmp_path, service("wall", wall), service("other", elsewhere), hops=hops) as node,
        client(single(node, "wall"), era) as mcp,
    ):
        for name in ("shout", "other__shout", "list_mcp_servers", "search_tools"):
            with pytest.raises(RpcError, match="Unknown tool"):
                await ask(mcp, "tools/call", name=name, arguments={})
        with pytest.raises(RpcError):
            await ask(mcp, "resources/read", uri="config://app")
        async with client(f"{single(node, 'other')}?tools=search", era) as one:
            assert await listed(one) == ["call_tool", "shout"]
            assert await text_of(one, "call_tool", name="shout") == "my own way of calling shout"


async def test_an_unknown_server_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    async with (
        served(clock_server()) as wall,
        front_of(tmp_path, service("wall", wall)) as node,
        aiohttp.ClientSession() as http,
        http.post(single(node, "nope"), json={"jsonrpc": "2.0", "id": 1, "method": "ping"}) as answer,
    ):
        assert answer.status == 404
        assert "no server named 'nope' in the mesh; there are wall" in (await answer.json())["error"]["message"]


async def test_first_requests_that_come_together_are_all_served(tmp_path: Path) -> None:
    async with (
        served(clock_server()) as wall,
        front_of(tmp_path, service("wall", wall)) as node,
        aiohttp.ClientSession(headers=ACCEPT) as http,
    ):
        # Connected before, so that the requests reach the node in one pass of its loop.
        url, first = single(node, "wall"), initialize_request()
        for _ in range(2):
            await asyncio.gather(*(_status(http, node.url, first) for _ in range(8)))
        assert await asyncio.gather(*(_status(http, url, first) for _ in range(8))) == [200] * 8


async def _status(http: aiohttp.ClientSession, url: str, message: Json) -> int:
    async with http.post(url, json=message) as response:
        await response.read()
        return response.status


async def test_a_server_of_a_node_has_its_short_name_while_it_is_the_only_one(tmp_path: Path) -> None:
    async with served(clock_server()) as url:
        spec = ServerSpec("wall", HttpTarget(url), ServerScope.NODE)
        async with running_node("one", tmp_path, servers=[spec]) as node:
            await node.connected("wall")
            for name in ("wall", "one__wall"):
                async with client(single(node, name), Era.MODERN) as mcp:
                    assert [tool["name"] for tool in (await ask(mcp, "tools/list"))["tools"]] == [
                        "get-time",
                        "save",
                        "set_alarm",
                    ]


@eras
async def test_a_server_that_is_away_is_awaited_and_not_unknown(era: Era, tmp_path: Path) -> None:
    async with served(clock_server()) as url:
        spec = ServerSpec("wall.1", HttpTarget(url), ServerScope.NODE)
        async with running_node("back", tmp_path / "back", servers=[spec]) as back:
            await back.connected("wall.1")
            async with front_before(tmp_path, back) as front, client(single(front, "wall.1"), era) as before:
                assert await text_of(before, "get-time") == "twelve"
                front.mesh.take_catalog(catalog())
                await front.when(lambda: not front.tool_names())
                with pytest.raises(RpcError, match="is away since") as refused:
                    await text_of(before, "get-time")
                assert refused.value.data["outcome"] == "not_executed"
                for path in list(front.views._open):
                    front.views._drop(path)
                for name in ("wall.1", "back__wall.1"):
                    async with client(single(front, name), era) as mcp:
                        assert mcp.server_info.instructions == "Wind it daily."
                        with pytest.raises(RpcError, match="is away since"):
                            await text_of(mcp, "get-time")
                async with aiohttp.ClientSession() as http, http.post(single(front, "nope"), json={}) as answer:
                    assert answer.status == 404


@eras
@hops
async def test_its_clients_hear_of_changes_of_its_lists_alone(era: Era, hops: int, tmp_path: Path) -> None:
    growing = clock_server()
    async with (
        served(growing) as wall,
        served(clock_server("noon")) as wrist,
        front_of(tmp_path, service("wall", wall), service("wrist", wrist), hops=hops) as node,
        client(single(node, "wall"), era) as one,
        client(single(node, "wrist"), era) as two,
    ):
        heard = await heard_while(node, {"wall": one, "wrist": two}, growing)
        assert "tools" in heard["wall"]
        assert heard["wrist"] == []
