"""A restart of this node makes no name of a configured peer unknown, though the peer or its server is down meanwhile.

Real nodes in the test's own process. The one rule: what the peer's link or an operator says counts more than the file.
"""

import asyncio
import logging
from pathlib import Path

import aiohttp
import pytest
from fastmcp import FastMCP

from agent.client.protocol import Request
from agent.config.values import StaticPeer
from agent.control.contributions import table_digest
from agent.errors import NOT_EXECUTED, RpcError
from agent.model import Era, HttpTarget, ServerScope, ServerSpec
from agent.routing.digest import exported_digest
from agent.state import known_names
from agent.state.known_names import FILE_NAME, KnownNames
from tests.integration.servers.hosting import http_app, serving
from tests.integration.servers.nodes import RunningNode, client, running_node, served
from tests.ports import free_port
from tests.waiting import eventually


async def called(node: RunningNode, tool: str, view: str = "") -> RpcError:
    """The error of a call."""
    async with client(node.url + view, Era.MODERN) as mcp:
        with pytest.raises(RpcError) as caught:
            await mcp.request(Request.within("tools/call", {"name": tool, "arguments": {}}, timeout_s=10))
    return caught.value


async def test_a_peer_that_was_not_linked_since_our_restart_is_away_and_not_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_names, "WRITE_PAUSE_S", 0.02)
    server: FastMCP = FastMCP("kit")
    server.tool(name="do")(lambda: "done")
    port = free_port()
    statics = [StaticPeer("far", f"http://127.0.0.1:{port}/mcp")]
    async with asyncio.timeout(60), served(server) as url:
        kit = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with (
            running_node("two", tmp_path / "two", servers=[kit], port=port) as two,
            running_node("one", tmp_path / "one", statics=statics) as one,
        ):
            await two.connected("kit")
            await one.when(lambda: "kit__do" in one.tool_names())
            file = tmp_path / "one" / FILE_NAME

            async def is_kept() -> bool:
                return b'"kit__do"' in await asyncio.to_thread(file.read_bytes)

            await eventually(is_kept, 10)
        async with running_node("one", tmp_path / "one", statics=statics) as again:
            await again.when(lambda: not again.mesh.starting)
            away = await called(again, "kit__do")
            assert away.code == NOT_EXECUTED
            assert "server kit is away since " in away.message or "server kit on two is away since " in away.message
            assert (await called(again, "kit__other")).code == -32602
            assert "kit__do" not in again.tool_names()
        async with running_node("one", tmp_path / "one") as without:
            await without.when(lambda: not without.mesh.starting)
            assert (await called(without, "kit__do")).code == -32602, "the operator took the peer away"


async def test_a_configured_peer_that_was_never_linked_is_away_and_not_unknown(tmp_path: Path) -> None:
    statics = [StaticPeer("far", f"http://127.0.0.1:{free_port()}/mcp")]
    async with asyncio.timeout(30), running_node("one", tmp_path, statics=statics) as node:
        await node.when(lambda: not node.mesh.starting)
        for name in ("far__do", "far__kit__do"):
            away = await called(node, name)
            assert away.code == NOT_EXECUTED
            assert "peer far is away since " in away.message
            assert away.data["outcome"] == "not_executed"
        assert (await called(node, "farther__do")).code == -32602


@pytest.mark.parametrize("scope", [ServerScope.NODE, ServerScope.SERVICE, ServerScope.PRIVATE])
async def test_a_node_that_has_just_come_knows_what_is_away_at_another_one(scope: ServerScope, tmp_path: Path) -> None:
    port, server = free_port(), FastMCP("kit")
    server.tool(name="do")(lambda: "done")
    kit = ServerSpec("kit", HttpTarget(f"http://127.0.0.1:{port}/mcp"), scope, tags=("ops",))
    name = "kit__do" if scope is ServerScope.SERVICE else "two__kit__do"
    async with asyncio.timeout(60), running_node("two", tmp_path / "two", servers=[kit]) as two:
        await two.when(lambda: not two.mesh.starting)
        async with running_node("one", tmp_path / "one", statics=[StaticPeer("two", two.url)]) as one:
            await one.connected("two")
            error = await called(one, name)
            if scope is ServerScope.PRIVATE:
                assert error.code == -32602
                return
            assert error.code == NOT_EXECUTED
            assert "server kit on two is away since " in error.message
            same = exported_digest(one.view("two").offer) == table_digest(two.mesh.local_routes)
            assert same, "or the catalog would have it listed without end"
            assert (await called(one, "kite__do")).code == -32602
            place = name.removesuffix("__do")
            for path, status in ((f"s/{place}", 503), ("s/kite", 404)):
                async with aiohttp.ClientSession() as http, http.post(f"{one.url}/{path}", json={}) as response:
                    answer = await response.json()
                assert (response.status, "server kit on two is away since" in str(answer)) == (status, status == 503)
            for view in ("?servers=kit", "?tags=ops"):
                assert (await called(one, name, view)).code == NOT_EXECUTED, view
            assert (await called(one, name, "?tags=other")).code == -32602
            assert one.mesh.routes.conflicts == ()
            assert [left.name for left in one.mesh.routes.servers.values() if left.namespace] == []
            async with http_app(server) as app, serving(app, port=port):
                await two.mesh.reload("kit", 10)
                await one.when(lambda: name in one.tool_names())
                assert not one.mesh.routes.unlisted
            await one.when(lambda: name not in one.tool_names())
            assert (await called(one, name)).code == NOT_EXECUTED
            assert one.mesh.routes.unlisted, "and so it would be for a node that comes only now"


@pytest.mark.parametrize(
    "content", [b"{", b'{"schema": 2, "names": []}', b'{"schema": 1, "names": [{"kind": "canary"}]}']
)
async def test_names_that_cannot_be_read_are_ignored_with_a_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert KnownNames(tmp_path).load(0.0) == {}
    assert [record.message for record in caplog.records] == ["the names of before are ignored"]
    assert "canary" not in str(caplog.records[0].__dict__)
