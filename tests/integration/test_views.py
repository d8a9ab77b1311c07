"""Views show a part of the mesh: named in the URL, or by an operator; from any node and in both eras."""

from pathlib import Path

import aiohttp
import pytest

from agent.client.protocol import McpClient
from agent.errors import RpcError
from agent.model import Era, HttpTarget, ServerScope, ServerSpec, ViewSpec
from tests.integration.servers.clock_server import PAGE, ask, clock_server, listed, service, text_of
from tests.integration.servers.hearing import heard_while
from tests.integration.servers.hops import front_of
from tests.integration.servers.nodes import RunningNode, client, running_node, served

eras = pytest.mark.parametrize("era", list(Era))
hops = pytest.mark.parametrize("hops", [1, 2])
WALL_TOOLS = ["wall__get-time", "wall__save", "wall__set_alarm"]
TEAM = ViewSpec(
    tools=("*__get-time", "wall__*", "!*__save"),
    aliases={"wall__get-time": "now"},
    descriptions={"wall__get-time": "What time it is on the wall."},
    title="Clocks of the team",
    description="Two clocks.",
)


async def refused(mcp: McpClient, method: str, **params: object) -> str:
    with pytest.raises(RpcError) as failure:
        await ask(mcp, method, **params)
    return failure.value.message


@hops
async def test_a_view_in_the_url_shows_its_servers_under_public_names_and_no_other(hops: int, tmp_path: Path) -> None:
    async with (
        served(clock_server()) as wall,
        served(clock_server("noon")) as wrist,
        front_of(tmp_path, service("wall", wall, tags=("home",)), service("wrist", wrist), hops=hops) as node,
    ):
        for era in Era:
            for query in ("servers=wall", "servers=wal*,nope", "tags=home"):
                async with client(f"{node.url}?{query}", era) as mcp:
                    await _shows_the_wall_alone(mcp)
            async with client(f"{node.url}?servers=wall&tags=home&servers=wrist", era) as both:
                assert {"wall__get-time", "wrist__get-time"} <= set(await listed(both))
        await _bad_queries_are_refused(node)


async def _shows_the_wall_alone(mcp: McpClient) -> None:
    assert await listed(mcp) == WALL_TOOLS
    assert await listed(mcp, "prompts") == ["wall__wind_up"]
    assert await listed(mcp, "resourceTemplates", "uriTemplate") == ["videos://wall/{number}"]
    assert (await ask(mcp, "resources/read", uri="videos://wall/7"))["contents"][0]["text"] == "video 7"
    assert await text_of(mcp, "wall__get-time") == "twelve"
    assert await text_of(mcp, "get-time") == "twelve", "a page's own name means the view's only clock"
    assert "Wind it daily." in str(mcp.server_info.instructions)
    assert "wrist" not in str(mcp.server_info.instructions)
    assert mcp.server_info.mesh is None
    for name in ("wrist__get-time", "list_mcp_servers", "search_tools"):
        assert "Unknown tool" in await refused(mcp, "tools/call", name=name, arguments={})
    assert "Unknown prompt" in await refused(mcp, "prompts/get", name="wrist__wind_up")
    for uri in ("videos://wrist/7", "config://app"):
        assert "Unknown resource" in await refused(mcp, "resources/read", uri=uri)
    ref = {"type": "ref/resource", "uri": "videos://wrist/{number}"}
    argument = {"name": "number", "value": ""}
    assert "Unknown" in await refused(mcp, "completion/complete", ref=ref, argument=argument)


async def _bad_queries_are_refused(node: RunningNode) -> None:
    async with aiohttp.ClientSession() as http:
        for query in ("servers=", "servers=a/b", f"servers={','.join(map(str, range(65)))}"):
            async with http.post(f"{node.url}?{query}", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}) as answer:
                assert answer.status == 400
                assert "names, parted by commas" in (await answer.json())["error"]["message"]
        async with http.post(f"{node.base}/mcp/s/wall?servers=wrist", json={}) as answer:
            assert answer.status == 400
            assert "select from the whole mesh" in (await answer.json())["error"]["message"]
        async with http.post(f"{node.base}/mcp/v/nope", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}) as answer:
            assert answer.status == 404
            assert "no view named 'nope' on this node" in (await answer.json())["error"]["message"]


@hops
async def test_a_named_view_has_aliases_descriptions_search_and_its_own_sessions(hops: int, tmp_path: Path) -> None:
    async with (
        served(clock_server()) as wall,
        served(clock_server("noon")) as wrist,
        front_of(tmp_path, service("wall", wall), service("wrist", wrist), hops=hops, search_mode=False) as node,
    ):
        node.named_views["team"] = TEAM
        team = f"{node.base}/mcp/v/team"
        for era in Era:
            async with client(team, era) as mcp:
                tools = (await ask(mcp, "tools/list"))["tools"]
                assert [tool["name"] for tool in tools] == ["now", "wall__set_alarm", "wrist__get-time"]
                assert tools[0]["description"] == "What time it is on the wall."
                assert mcp.server_info.server_info["title"] == "Clocks of the team"
                assert str(mcp.server_info.instructions).startswith("Two clocks.")
                assert await text_of(mcp, "now") == "twelve"
                for name in ("wall__get-time", "wrist__set_alarm", "wall__save"):
                    assert "Unknown tool" in await refused(mcp, "tools/call", name=name, arguments={})
                page = PAGE.replace("clock", "wall/clock")
                assert (await ask(mcp, "resources/read", uri=page))["contents"][0]["uri"] == page
            async with client(f"{team}?tools=search", era) as mcp:
                await _searches_the_view_alone(mcp)
        await _sessions_belong_to_their_view(node)
        await _cursors_belong_to_their_view(node)


async def _searches_the_view_alone(mcp: McpClient) -> None:
    assert await listed(mcp) == ["search_tools", "describe_tool", "call_tool"]
    found = (await ask(mcp, "tools/call", name="search_tools", arguments={"query": ""}))["structuredContent"]
    assert [tool["name"] for tool in found["tools"]] == ["now", "wall__set_alarm", "wrist__get-time"]
    assert await text_of(mcp, "call_tool", name="now") == "twelve"
    for other in ("wrist__set_alarm", "list_mcp_servers"):
        described = await ask(mcp, "tools/call", name="describe_tool", arguments={"name": other})
        assert described["isError"]


async def _sessions_belong_to_their_view(node: RunningNode) -> None:
    client_info = {"name": "c", "version": "1"}
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client_info}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
    accept = {"Accept": "application/json, text/event-stream"}
    team, one = f"{node.base}/mcp/v/team", f"{node.url}?servers=wall"
    async with aiohttp.ClientSession(headers=accept) as http:
        async with http.post(team, json=message) as answer:
            session = answer.headers["Mcp-Session-Id"]
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        statuses = []
        for url in (team, one, node.url, f"{node.base}/mcp/s/wall", f"{node.url}?servers=wall,wrist"):
            async with http.post(url, json=ping, headers={"Mcp-Session-Id": session}) as answer:
                statuses.append(answer.status)
    assert statuses == [200, 404, 404, 404, 404]


async def _cursors_belong_to_their_view(node: RunningNode) -> None:
    node.named_views["twin"] = TEAM
    async with (
        client(f"{node.base}/mcp/v/team", Era.MODERN) as team,
        client(f"{node.base}/mcp/v/twin", Era.MODERN) as twin,
    ):
        # Pages of the usual size are larger than this list: its digest stands in a cursor all the same.
        digests = []
        for name, mcp in (("team", team), ("twin", twin)):
            await ask(mcp, "tools/list")
            index = node.views._open[f"/mcp/v/{name}"].endpoint.stateless._views.index
            digests.append(index._snapshots("tools/list", modern=True)._present.digest)
        assert digests[0] != digests[1]


@eras
@hops
async def test_clients_of_a_view_hear_of_changes_of_its_lists_alone(era: Era, hops: int, tmp_path: Path) -> None:
    growing = clock_server()
    async with (
        served(growing) as wall,
        served(clock_server("noon")) as wrist,
        front_of(tmp_path, service("wall", wall), service("wrist", wrist), hops=hops) as node,
        client(f"{node.url}?servers=wall", era) as one,
        client(f"{node.url}?servers=wrist", era) as two,
    ):
        node.named_views["team"] = ViewSpec(servers=("wrist",))
        async with client(f"{node.base}/mcp/v/team", era) as named:
            heard = await heard_while(node, {"wall": one, "wrist": two, "team": named}, growing)
            assert "tools" in heard["wall"]
            assert heard["wrist"] == heard["team"] == []
            node.named_views["team"] = ViewSpec(servers=("wall",))
            assert await listed(named) == ["wall__chime", *WALL_TOOLS], "a view is read again on change"


async def test_a_name_means_the_servers_of_every_node_that_call_it_so(tmp_path: Path) -> None:
    async with served(clock_server()) as url:
        specs: list[ServerSpec] = [ServerSpec(name, HttpTarget(url), ServerScope.NODE) for name in ("wall", "other")]
        async with running_node("one", tmp_path, servers=specs) as node:
            await node.connected("wall", "other")
            async with client(f"{node.url}?servers=wall", Era.MODERN) as mcp:
                names = await listed(mcp)
    assert names == ["one__wall__get-time", "one__wall__save", "one__wall__set_alarm"]


async def test_an_idle_view_is_dropped_and_its_client_goes_on(tmp_path: Path) -> None:
    async with served(clock_server()) as url, running_node("one", tmp_path, servers=[service("wall", url)]) as node:
        await node.connected("wall")
        async with client(f"{node.url}?servers=wall", Era.LEGACY) as mcp:
            assert await text_of(mcp, "wall__get-time") == "twelve"
            node.views._drop("/mcp?servers=wall")
            assert await text_of(mcp, "wall__get-time") == "twelve"
