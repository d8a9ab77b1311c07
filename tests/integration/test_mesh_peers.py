"""Peers that operators add and remove, over the REST API, between whole nodes: results, refusals, races, aliases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from fastmcp import FastMCP

from agent.client.protocol import Request
from agent.config.values import StaticPeer
from agent.errors import NOT_EXECUTED, MeshError, OverrideRefused, RpcError
from agent.model import Era, HttpTarget, Json, LinkState, ServerScope, ServerSpec
from discovery.model import Health
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.hosting import Seen, http, scripted
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served
from tests.ports import free_port


@asynccontextmanager
async def two_nodes(folder: Path, **first: object) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    async with (
        running_node("one", folder / "one", **first) as one,  # type: ignore[arg-type]  # passed through
        running_node("two", folder / "two") as two,
    ):
        yield one, two


async def test_an_added_node_is_connected_when_the_post_returns(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        status, body = await one.add_peer("two", two.url)
        assert status == 201
        assert body["success"] is True
        assert body["message"] == "Peer node 'two' connected"
        assert body["data"]["function_count"] == 5
        assert body["data"]["message"] == "Peer node 'two' added successfully"
        status, body = await one.add_peer("two", two.url)
        assert (status, body["data"]["connected"]) == (200, True)
        _, listed = await one.rest("GET", "/peers")
        assert [(peer["name"], peer["connected"], peer["function_count"]) for peer in listed["data"]["peers"]] == [
            ("two", True, 5)
        ]


async def test_two_nodes_may_add_each_other_at_once(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two), asyncio.TaskGroup() as group:
        here = group.create_task(one.add_peer("two", two.url), name="here")
        there = group.create_task(two.add_peer("one", one.url), name="there")
        assert (await here)[0] == (await there)[0] == 201


async def test_a_peer_that_is_away_is_kept_and_connected_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    async with running_node("two", tmp_path / "two", port=port) as two:
        key = two.key
    async with running_node("one", tmp_path / "one") as one:
        status, body = await one.add_peer("two", f"http://127.0.0.1:{port}/mcp")
        assert status == 202
        assert body["success"] is body["data"]["success"] is True
        assert body["data"]["connected"] is False
        assert body["message"].startswith("Peer node 'two' saved, not connected: ")
        async with running_node("two", tmp_path / "two", port=port, key=key):
            status, _ = await one.add_peer("two", f"http://127.0.0.1:{port}/mcp")
            assert status == 200  # An operator's repeated word does not wait for the back-off.


@pytest.mark.parametrize("path", ["", "/s/kit", "/v/team/", "?servers=kit", "?notices=off&tags=ops"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_node_that_is_added_to_itself_refuses_and_forgets(host: str, path: str, tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as one:
        url = one.url.replace("127.0.0.1", host) + path
        for _ in range(2):  # What was learned the first time must not change the answer.
            status, body = await one.add_peer("mirror", url)
            assert (status, body["error"]["code"]) == (409, "own_node")
        assert one.mesh.peer_views() == []
        assert one.orders._store.overrides == ()


async def test_a_static_peer_that_is_ourselves_is_left_alone_after_one_look(tmp_path: Path) -> None:
    port = free_port()
    static = StaticPeer("mirror", f"http://127.0.0.1:{port}/mcp")
    async with running_node("one", tmp_path / "one", statics=[static], port=port) as one:
        await one.when(lambda: [f.kind.value for f in one.mesh.selection.findings] == ["ourselves"])
        assert one.mesh.peer_views() == []


@pytest.mark.parametrize(
    ("name", "url", "status", "code"),
    [
        ("one", "http://127.0.0.1:9/mcp", 409, "own_node"),
        ("kit", "http://127.0.0.1:9/mcp", 409, "name_taken"),
        ("static", "http://127.0.0.1:9/mcp", 409, "name_taken"),
        ("meta", "http://169.254.169.254/mcp", 403, "address_refused"),
        ("a__b", "http://127.0.0.1:9/mcp", 422, "invalid_input"),
        ("x", "ftp://127.0.0.1/mcp", 422, "invalid_field"),
    ],
)
async def test_a_refused_post_changes_nothing_and_the_node_lives_on(
    name: str, url: str, status: int, code: str, tmp_path: Path
) -> None:
    spec = ServerSpec("kit", HttpTarget("http://127.0.0.1:9/mcp"), ServerScope.SERVICE)
    statics = [StaticPeer("static", "http://127.0.0.1:10/mcp")]
    async with running_node("one", tmp_path, servers=[spec], statics=statics) as one:
        answered, body = await one.add_peer(name, url)
        assert (answered, body["error"]["code"]) == (status, code)
        assert body["success"] is False
        assert not one.mesh_task.done()
        assert (await one.rest("GET", "/peers"))[0] == 200


async def test_a_name_that_is_taken_is_said_without_the_key_in_its_url(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"
    async with running_node("one", tmp_path) as one:
        assert (await one.add_peer("keyed", f"{url}?key=CANARY"))[0] == 202
        status, body = await one.add_peer("keyed", url)
        assert (status, body["error"]["code"]) == (409, "name_taken")
        assert url in body["message"]
        assert "CANARY" not in str(body)


async def test_of_two_posts_of_one_name_for_two_urls_one_is_refused(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two), running_node("three", tmp_path / "three") as three:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.add_peer("x", node.url), name=node.url) for node in (two, three)]
        assert sorted(task.result()[0] for task in tasks) == [201, 409]
        kept = one.orders._store.overrides[0].target.url
        created = next(task for task in tasks if task.result()[0] == 201).result()[1]["data"]["peer_url"]
        assert kept == created


async def test_a_post_and_a_delete_at_once_leave_one_clear_state(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        for _ in range(5):
            await one.add_peer("two", two.url)
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                added = group.create_task(one.add_peer("two", two.url), name="add")
                removed = group.create_task(one.rest("DELETE", "/peers/two"), name="remove")
            assert removed.result()[0] == 200
            assert added.result()[0] in (200, 201, 202)
            present = [view.spec.name for view in one.mesh.peer_views()]
            assert present == [override.name for override in one.orders._store.overrides]
            await one.rest("DELETE", "/peers/two")


async def test_a_client_that_hangs_up_does_not_undo_what_it_ordered(tmp_path: Path) -> None:
    arrived, over = asyncio.Event(), asyncio.Event()

    async def silent(_: Seen) -> tuple[bytes, bool]:
        arrived.set()
        await over.wait()
        return http(503), False

    async with scripted(silent) as script, running_node("one", tmp_path) as one:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            body = {"peer_name": "slow", "peer_url": script.url}
            post = group.create_task(session.post(f"{one.base}/api/v1/mcp/peers", json=body).__aenter__(), name="post")
            await arrived.wait()
            post.cancel()
        over.set()
        assert [override.name for override in one.orders._store.overrides] == ["slow"]
        assert [view.spec.name for view in one.mesh.peer_views()] == ["slow"]


async def test_a_node_known_by_two_urls_has_one_link_and_both_names(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        await one.add_peer("two", two.url)
        status, body = await one.add_peer("again", two.url.replace("127.0.0.1", "localhost"))
        assert (status, body["data"]["connected"]) == (201, True)
        assert body["data"]["same_node_as"] == ["two"]
        assert body["data"]["note"] == "It is the same node as 'two': one link answers to all these names"
        await one.when(lambda: len(one.mesh.peer_views()) == 1)
        assert one.view("again") is one.view("two")
        _, listed = await one.rest("GET", "/peers")
        assert [(peer["name"], peer["aliases"]) for peer in listed["data"]["peers"]] == [("again", ["two"])]
        status, _ = await one.rest("DELETE", "/peers/again")
        assert status == 200
        assert [override.name for override in one.orders._store.overrides] == ["two"]
        await one.connected("two")


async def test_an_override_of_a_discovered_node_is_one_link_that_answers_to_both_names(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        one.mesh.take_catalog(catalog(instance(two)))
        await one.connected("two")
        status, _ = await one.add_peer("mine", two.url)
        assert status == 201
        assert [view.spec.name for view in one.mesh.peer_views()] == ["mine"]
        assert one.node_status.functions("two")["function_count"] == 5
        assert (await one.node_status.reload("two"))["success"] is True
        status, removed = await one.rest("DELETE", "/peers/two")
        assert (status, removed["data"]["linked_as"], removed["data"]["suppressed"]) == (200, "two", [])
        assert "stays linked as 'two'; remove that too to keep it away" in removed["data"]["note"]
        assert [view.spec.name for view in one.mesh.peer_views()] == ["two"]
        status, removed = await one.rest("DELETE", "/peers/two")
        assert (status, removed["data"]["linked_as"], removed["data"]["suppressed"]) == (200, None, ["two"])
        assert "mesh-agent peers reset two" in removed["data"]["note"]
        assert one.mesh.peer_views() == []
        _, listed = await one.rest("GET", "/peers")
        assert listed["data"]["suppressed"] == ["two"]
        status, _ = await one.add_peer("two", two.url)
        assert status == 201
        assert one.orders.suppressions == ()


async def test_a_reset_undoes_what_was_added_and_what_was_removed(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        one.mesh.take_catalog(catalog(instance(two)))
        await one.connected("two")
        assert (await one.rest("DELETE", "/peers/two?forget=1"))[0] == 404
        assert (await one.rest("DELETE", "/peers/two"))[0] == 200
        status, reset = await one.rest("DELETE", "/peers/two?forget=1")
        assert (status, reset["data"]["linked_as"]) == (200, "two")
        await one.connected("two")
        await one.add_peer("mine", two.url)
        status, reset = await one.rest("DELETE", "/peers/mine?forget=1")
        assert (status, reset["data"]["linked_as"]) == (200, "two")
        assert reset["data"]["note"] == "Discovery knows the node, which stays linked as 'two'"
        assert (one.orders._store.overrides, one.orders.suppressions) == ((), ())
        await one.connected("two")
        assert (await one.rest("DELETE", "/peers/two?forget=yes"))[0] == 422


@pytest.mark.parametrize("path", ["/peers/two", "/peers/two?forget=1"])
async def test_the_end_of_an_override_that_leads_to_nothing_names_the_node_that_has_its_name_now(
    path: str, tmp_path: Path
) -> None:
    async with two_nodes(tmp_path) as (one, two):
        one.mesh.take_catalog(catalog(instance(two)))
        await one.connected("two")
        status, _ = await one.add_peer("two", f"http://127.0.0.1:{free_port()}/mcp")
        assert status == 202
        status, ended = await one.rest("DELETE", path)
        assert (status, ended["data"]["linked_as"]) == (200, "two")
        assert "knows a node of this name, which is linked as 'two' from now on" in ended["data"]["note"]
        await one.connected("two")
        assert [view.spec.name for view in one.mesh.peer_views()] == ["two"]


async def test_an_override_that_leads_to_another_node_than_it_names_says_which_answers_and_how_to_undo_it(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (one, two), running_node("three", tmp_path / "three") as three:
        one.mesh.take_catalog(catalog(instance(two), instance(three)))
        await one.connected("two", "three")
        status, body = await one.add_peer("two", three.url)
        assert (status, body["data"]["connected"]) == (201, True)
        findings = {found["kind"]: found for found in one.node_status.status()["findings"]}
        assert findings.keys() == {"name_taken", "other_node"}
        detail = findings["other_node"]["detail"]
        assert body["data"]["note"] == detail
        assert f"at {three.url} answers 'three'" in detail
        assert f"discovery knows 'two' at {two.url}" in detail
        assert "`mesh-agent peers reset two` undoes it" in detail
        assert (await one.rest("DELETE", "/peers/two?forget=1"))[0] == 200
        await one.connected("two", "three")
        assert one.node_status.status()["findings"] == []


async def test_a_discovered_peer_that_is_removed_stays_away_until_it_is_added_again(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        one.mesh.take_catalog(catalog(instance(two)))
        await one.connected("two")
        assert (await one.rest("DELETE", "/peers/two"))[0] == 200
        one.mesh.take_catalog(catalog(instance(two, epoch="2")))
        await one.mesh.settled()
        assert one.mesh.peer_views() == []
        assert (await one.rest("DELETE", "/peers/two"))[0] == 404


async def test_a_static_peer_cannot_be_removed_by_any_of_its_names(tmp_path: Path) -> None:
    async with running_node("two", tmp_path / "two") as two:
        statics = [StaticPeer("fixed", two.url)]
        async with running_node("one", tmp_path / "one", statics=statics) as one:
            one.mesh.take_catalog(catalog(instance(two)))
            await one.connected("fixed")
            await one.when(lambda: one.mesh.find_peer("two") is not None)
            for name in ("fixed", "two"):
                status, body = await one.rest("DELETE", f"/peers/{name}")
                assert (status, body["error"]["code"]) == (409, "static_peer")


async def test_orders_end_when_the_mesh_has_ended(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        one.mesh_task.cancel()
        await asyncio.wait([one.mesh_task])
        async with asyncio.timeout(5):
            status, body = await one.add_peer("two", two.url)
            assert (status, body["error"]["code"]) == (503, "stopping")
            with pytest.raises(OverrideRefused, match="stopping"):
                await one.mesh.settled()


async def test_any_task_that_waits_for_a_step_is_freed_when_the_mesh_ends(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as one:
        await one.mesh.settled()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            waiting = group.create_task(refusal_of_settling(one), name="settle")
            one.mesh_task.cancel()
            assert await waiting in ("stopping", "")


async def refusal_of_settling(node: RunningNode) -> str:
    try:
        await node.mesh.settled()
    except OverrideRefused as exc:
        return exc.code
    return ""


async def test_a_plain_server_as_a_peer_is_used_as_it_is(tmp_path: Path) -> None:
    async with served(make_server()) as url, running_node("one", tmp_path) as one:
        status, body = await one.add_peer("plain", url)
        assert status == 201
        assert body["data"]["function_count"] == len(one.view("plain").offer.tools) > 5
        assert "plain__echo" in one.tool_names()
        assert one.node_status.functions("plain")["functions"][0]["mesh_name"].startswith("plain__")


async def test_a_server_of_a_peers_name_keeps_both_reachable_and_the_server_first(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two), served(make_server()) as url:
        await one.add_peer("kit", two.url)
        one.servers_file.append(ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE))
        one.mesh.take_servers(one.servers_file)
        await one.when(lambda: len([view for view in one.mesh.views() if view.connected]) == 2)
        assert one.view("kit").key == "server:kit"
        assert one.mesh.find_peer("kit") is not None
        assert (await one.rest("DELETE", "/peers/kit"))[0] == 200
        assert one.view("kit").connected


async def test_a_reload_finds_servers_peers_and_says_what_is_not_there(tmp_path: Path) -> None:
    off = ServerSpec("off", HttpTarget("http://127.0.0.1:9/mcp"), ServerScope.NODE, enabled=False)
    async with two_nodes(tmp_path, servers=[off]) as (one, two):
        await one.add_peer("two", two.url)
        assert (await one.node_status.reload("two"))["message"] == "Server 'two' reloaded"
        assert one.view("two").reconnects == 0
        with pytest.raises(MeshError, match="disabled"):
            await one.node_status.reload("off")
        with pytest.raises(MeshError, match="no MCP server or peer named 'who'"):
            await one.node_status.reload("who")
        assert one.view("two").state is LinkState.READY


async def test_a_peer_that_stops_gets_no_new_calls_though_its_port_is_open_and_answers_what_it_has(
    tmp_path: Path,
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()
    server: FastMCP = FastMCP("kit")

    @server.tool
    async def hold() -> str:
        begun.set()
        await release.wait()
        return "held"

    async with (
        served(server) as url,
        running_node("two", tmp_path / "two", servers=[ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)]) as two,
        running_node("one", tmp_path / "one", statics=[StaticPeer("two", two.url)]) as one,
        client(one.url, Era.MODERN) as mcp,
        asyncio.TaskGroup() as group,
    ):
        await one.when(lambda: "kit__hold" in one.tool_names())
        params: Json = {"name": "kit__hold", "arguments": {}}
        call = group.create_task(mcp.request(Request.within("tools/call", params, timeout_s=15)), name="call")
        await begun.wait()
        two.begin_to_drain()
        await one.when(lambda: "is stopping" in one.view("two").last_error)
        with pytest.raises(RpcError) as refused:
            await mcp.request(Request.within("tools/call", params, timeout_s=5))
        assert refused.value.code == NOT_EXECUTED  # No other node has it, so the name is away.
        assert "server kit on two is away" in refused.value.message
        _, again = await one.add_peer("again", two.url)
        assert "is stopping" in again["message"]
        async with client(two.url, Era.MODERN) as direct:
            assert (await direct.request(Request.within("tools/list", {}, timeout_s=5)))["tools"]
        release.set()
        assert (await call)["structuredContent"] == {"result": "held"}


@pytest.mark.parametrize(
    ("status", "challenge", "asked_to_prove"),
    [
        (401, 'Bearer realm="mcp-mesh-agent"', True),
        (401, 'Bearer realm="mcp-mesh-agent", error="invalid_token"', True),
        (401, 'Bearer realm="somebody-else"', False),
        (401, 'Bearer resource_metadata="https://x.example/oauth"', False),
        (401, None, False),
        (403, None, False),
        (404, 'Bearer realm="mcp-mesh-agent"', False),
        (503, None, False),
    ],
)
async def test_a_static_peer_that_refuses_as_nodes_do_is_asked_for_its_proof_and_shown_no_secret(
    status: int, challenge: str | None, asked_to_prove: bool, tmp_path: Path
) -> None:
    asked: list[Seen] = []

    async def answer(request: Seen) -> tuple[bytes, bool]:
        asked.append(request)
        return http(status, **({"WWW_Authenticate": challenge} if challenge else {})), True

    async with scripted(answer) as script:
        statics = [StaticPeer("fixed", script.url)]
        async with running_node("one", tmp_path / "one", statics=statics, secret=b"between-nodes") as one:
            await one.when(lambda: one.view("fixed").last_error)
            assert not one.view("fixed").connected
    assert asked[0].path == "/mcp"
    assert ("/mcp/local/handshake" in [request.path for request in asked]) is asked_to_prove
    assert not any(request.headers.get("authorization") for request in asked)
    assert not any(b"between-nodes" in request.raw for request in asked)


async def test_a_node_that_is_listed_and_not_linked_is_kept_away_before_it_is_back(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        back = instance(two)
        one.mesh.take_catalog(catalog(replace(back, health=Health.CRITICAL)))
        await one.mesh.settled()
        assert one.mesh.peer_views() == []
        assert (await one.rest("DELETE", "/peers/three"))[0] == 404
        status, removed = await one.rest("DELETE", "/peers/two")
        assert (status, removed["data"]["suppressed"]) == (200, ["two"])
        assert (await one.rest("DELETE", "/peers/two"))[0] == 404
        one.mesh.take_catalog(catalog(back))
        await one.mesh.settled()
        assert one.mesh.peer_views() == []
        assert (await one.rest("DELETE", "/peers/two?forget=1"))[0] == 200
        await one.connected("two")


async def test_a_removed_node_that_has_another_name_by_now_is_reset_by_either(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        for word in ("zwei", "two"):
            one.mesh.take_catalog(catalog(instance(two)))
            await one.connected("two")
            assert (await one.rest("DELETE", "/peers/two"))[0] == 200
            one.mesh.take_catalog(catalog(instance(two, name="zwei")))
            await one.mesh.settled()
            assert one.mesh.peer_views() == []
            status, reset = await one.rest("DELETE", f"/peers/{word}?forget=1")
            assert (status, reset["data"]["linked_as"]) == (200, "zwei")
            assert one.orders.suppressions == ()
            await one.connected("zwei")


@pytest.mark.parametrize("is_discovered", [True, False])
@pytest.mark.parametrize("forget", ["", "?forget=1"])
async def test_the_end_of_one_of_two_orders_for_a_node_names_the_other_one(
    forget: str, tmp_path: Path, *, is_discovered: bool
) -> None:
    async with two_nodes(tmp_path) as (one, two):
        if is_discovered:
            one.mesh.take_catalog(catalog(instance(two)))
            await one.connected("two")
        for name, host in (("a1", "127.0.0.1"), ("a2", "localhost")):
            assert (await one.add_peer(name, two.url.replace("127.0.0.1", host)))[0] == 201
        status, removed = await one.rest("DELETE", f"/peers/a1{forget}")
        assert (status, removed["data"]["linked_as"]) == (200, "a2")
        assert "added by another name, too, and stays linked as 'a2'" in removed["data"]["note"]
        assert "iscovery" not in removed["data"]["note"]
