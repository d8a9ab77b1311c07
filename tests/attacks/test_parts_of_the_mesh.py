"""Narrow tokens on a mesh of two servers: what belongs to the other one is found by no list, name, URI or reference."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from agent.config.tokens_file import check_tokens
from agent.model import HttpTarget, ServerScope, ServerSpec, ViewSpec
from agent.rest.tokens import TokenTable
from agent.server import views
from tests.attacks.clients import ERAS, Holder, entry, token_of
from tests.integration.servers.clock_server import clock_server
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node, served
from tests.integration.test_gained_by_sessions import serving_gaining

eras = pytest.mark.parametrize("era", ERAS)
TOKENS = {
    "whole": entry("whole", "mcp"),
    "walls": entry("walls", "mcp", tools=["wall__*", "!wall__save"]),
    "none": entry("none", "mcp", tools=[]),
}
VIEW = ViewSpec(servers=("wall", "wrist"), aliases={"wall__get-time": "now", "wrist__get-time": "then"})


def holder(node: RunningNode, name: str) -> Holder:
    return Holder(node.base, token_of(name))


@asynccontextmanager
async def two_clocks(folder: Path) -> AsyncIterator[RunningNode]:
    """The clocks are on a node of their own, behind the one that clients have tokens for."""
    named = check_tokens(orjson.dumps({"tokens": TOKENS}).decode(), Path("tokens.json"))
    async with served(clock_server()) as wall, served(clock_server("noon")) as wrist:
        specs = [
            ServerSpec(name, HttpTarget(url), ServerScope.SERVICE) for name, url in (("wall", wall), ("wrist", wrist))
        ]
        async with (
            running_node("back", folder / "back", servers=specs) as back,
            running_node(
                "front", folder / "front", tokens=TokenTable((), named, closed=True), search_mode=False
            ) as front,
        ):
            front.named_views["clocks"] = VIEW
            front.mesh.take_catalog(catalog(instance(back)))
            await front.when(lambda: {"wall__get-time", "wrist__get-time"} <= set(front.tool_names()))
            yield front


LISTS = {
    "tools/list": ("tools", "name"),
    "prompts/list": ("prompts", "name"),
    "resources/list": ("resources", "uri"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate"),
}


async def listed(one: Holder, era: str, path: str = "/mcp", **params: Any) -> dict[str, list[str]]:
    found = {}
    for method, (key, name) in LISTS.items():
        result = (await one.request(era, method, path, **params)).result
        found[key] = [item[name] for item in result[key]]
    return found


async def test_lists_of_every_kind_in_both_eras_and_on_every_view_show_the_permitted_server_alone(
    tmp_path: Path,
) -> None:
    async with two_clocks(tmp_path) as node:
        walls, none = holder(node, "walls"), holder(node, "none")
        for era in ERAS:
            for path in ("/mcp", "/mcp?servers=*", "/mcp/v/clocks"):
                for name, shown in (await listed(walls, era, path)).items():
                    assert shown, (path, name)
                    assert "wrist" not in str(shown), (path, name)
                    assert "then" not in shown, (path, name)
                    assert "wall__save" not in shown
                assert not any((await listed(none, era, path)).values())
            reply = await walls.request(era, "tools/list", "/mcp/s/wrist")
            assert reply.status == 404
            assert "there are wall" in reply.error["message"]
            assert "save" not in await walls.tools(era, "/mcp/s/wall")
        assert "wrist" not in str((await walls.begin()).result["instructions"])
        assert "wrist" in str((await holder(node, "whole").begin()).result["instructions"])
        for_node = await walls.modern("tools/list", meta={"mesh-agent/for-node": True})
        assert "wrist" not in str(for_node.result), "a client that poses as a node"


@eras
async def test_no_name_uri_or_reference_leads_to_what_the_token_does_not_show(era: str, tmp_path: Path) -> None:
    argument = {"name": "number", "value": ""}
    reference = {"type": "ref/resource", "uri": "videos://wrist/{number}"}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("tools/call", {"name": "wrist__get-time", "arguments": {}}),
        ("tools/call", {"name": "back__wrist__get-time", "arguments": {}}),
        ("tools/call", {"name": "wall__save", "arguments": {}}),
        ("tools/call", {"name": "back__wall__save", "arguments": {}}),
        ("tools/call", {"name": "save", "arguments": {}}),
        ("prompts/get", {"name": "wrist__wind_up"}),
        ("prompts/get", {"name": "back__wrist__wind_up"}),
        ("resources/read", {"uri": "videos://wrist/7"}),
        ("completion/complete", {"ref": reference, "argument": argument}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "wrist__wind_up"}, "argument": argument}),
    ]
    async with two_clocks(tmp_path) as node:
        walls = holder(node, "walls")
        for method, params in asked:
            reply = await walls.request(era, method, **params)
            assert reply.error["code"] == -32003, (method, params, reply)
            assert "Token 'walls' may not use" in reply.error["message"]
        for path, name in (
            ("/mcp/v/clocks", "then"),
            ("/mcp/s/wall", "save"),
            ("/mcp?servers=wrist", "wrist__get-time"),
        ):
            reply = await walls.request(era, "tools/call", path, name=name, arguments={})
            assert reply.error["code"] == -32003, (path, reply)
        for path, name in (("/mcp", "wall__get-time"), ("/mcp", "get-time"), ("/mcp/v/clocks", "now")):
            reply = await walls.request(era, "tools/call", path, name=name, arguments={})
            assert "twelve" in str(reply.result), (path, name)


async def test_updates_of_resources_that_are_not_shown_are_not_to_be_had(tmp_path: Path) -> None:
    async with two_clocks(tmp_path) as node, aiohttp.ClientSession() as http:
        walls = holder(node, "walls")
        await walls.begin()
        for uri in ("videos://wrist/7", "ui://wrist/clock.html"):
            refused = await walls.legacy("resources/subscribe", uri=uri)
            assert refused.error["code"] == -32602, refused
            wanted = walls.listening(resourceSubscriptions=[uri])
            async with http.post(f"{node.base}/mcp", **wanted) as stream:
                assert uri not in (await stream.content.readany()).decode()


async def test_a_narrow_client_is_notified_when_what_it_may_see_is_gone(tmp_path: Path) -> None:
    async with two_clocks(tmp_path) as node, aiohttp.ClientSession() as http:
        walls, whole = holder(node, "walls"), holder(node, "whole")
        async with (
            http.post(f"{node.base}/mcp", **walls.listening(toolsListChanged=True)) as narrow,
            http.post(f"{node.base}/mcp", **whole.listening(toolsListChanged=True)) as wide,
        ):
            for stream in (narrow, wide):
                assert "acknowledged" in (await stream.content.readany()).decode()
            before = await walls.tools("modern")
            node.mesh.take_catalog(catalog())
            for stream in (narrow, wide):
                assert "tools/list_changed" in (await stream.content.readany()).decode()
            assert await walls.tools("modern") != before


async def test_one_token_cannot_open_so_many_views_that_another_finds_no_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "ENDPOINTS_MAX", 6)
    monkeypatch.setattr(views, "ENDPOINTS_PER_TOKEN_MAX", 3)
    async with two_clocks(tmp_path) as node:
        whole, walls = holder(node, "whole"), holder(node, "walls")
        statuses = [(await whole.begin(f"/mcp?servers=wall,x{number}")).status for number in range(5)]
        assert statuses == [200, 200, 200, 503, 503]
        assert [(await walls.begin(f"/mcp?servers=wall,x{number}")).status for number in range(5)] == statuses
        assert (await holder(node, "none").begin()).status == 200, "a part of the mesh always has room"
        assert (await whole.begin()).status == 200


async def test_what_a_session_gained_is_shown_and_called_as_far_as_the_token_allows_it(tmp_path: Path) -> None:
    tokens = {
        "whole": entry("whole", "mcp"),
        "vaults": entry("vaults", "mcp", tools=["vault__*"]),
        "few": entry("few", "mcp", tools=["vault__unlock", "vault__whoami"]),
    }
    named = check_tokens(orjson.dumps({"tokens": tokens}).decode(), Path("tokens.json"))
    async with (
        serving_gaining() as spec,
        running_node("one", tmp_path, servers=[spec], tokens=TokenTable((), named, closed=True)) as node,
    ):
        await node.connected("vault")
        for name, gains in (("whole", True), ("vaults", True), ("few", False)):
            one = holder(node, name)
            await one.begin()
            before = {tool["name"] for tool in (await one.legacy("tools/list")).result["tools"]}
            assert "unlock" in str((await one.legacy("tools/call", name="vault__unlock", arguments={})).result)
            after = {tool["name"] for tool in (await one.legacy("tools/list")).result["tools"]}
            assert after - before == ({"vault__secret0"} if gains else set()), name
            secret = await one.legacy("tools/call", name="vault__secret0", arguments={})
            if gains:
                assert "secret0" in str(secret.result)
            else:
                assert secret.error["code"] == -32003
                assert before == {"vault__unlock", "vault__whoami"}
