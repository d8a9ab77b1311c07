"""Whole nodes that know each other from a catalog: imports, identities, gateways, drains, replicas, changed offers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agent.client.protocol import Request
from agent.config.values import StaticPeer
from agent.errors import RpcError
from agent.links.lifecycle import LinkLifecycle
from agent.model import PATH_META_KEY, Era, HttpTarget, Json, LinkState, ServerScope, ServerSpec
from agent.routing.digest import exported_digest
from discovery.model import Catalog
from tests.integration.servers.fastmcp_server import Diary, make_server
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served
from tests.ports import free_port

MANAGEMENT_TOOLS = 5


async def call(node: RunningNode, name: str, path: object = None, **arguments: object) -> Json:
    params: Json = {"name": name, "arguments": arguments}
    if path is not None:
        params["_meta"] = {PATH_META_KEY: path}
    async with client(node.url, Era.MODERN) as mcp:
        return await mcp.request(Request.within("tools/call", params, timeout_s=15))


@asynccontextmanager
async def nodes(folder: Path, servers: dict[str, list[ServerSpec]]) -> AsyncIterator[list[RunningNode]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_node(name, folder / name, servers=specs))
            for name, specs in servers.items()
        ]


def kit(url: str, scope: ServerScope = ServerScope.NODE, name: str = "kit") -> ServerSpec:
    return ServerSpec(name, HttpTarget(url), scope)


def introduce(*known: RunningNode) -> None:
    """Give every node the same catalog of all."""
    for node in known:
        node.mesh.take_catalog(catalog(*(instance(one) for one in known)))


async def test_nodes_of_one_catalog_offer_each_others_servers_and_call_them(tmp_path: Path) -> None:
    async with served(make_server()) as url, nodes(tmp_path, {"one": [], "two": [kit(url)]}) as (one, two):
        await two.connected("kit")
        introduce(one, two)
        await one.when(lambda: "two__kit__echo" in one.tool_names())
        assert (await call(one, "two__kit__echo", text="hi"))["content"][0]["text"] == "hi"
        assert (await call(two, "two__kit__echo", text="hi"))["content"][0]["text"] == "hi"
        assert len(one.view("two").offer.tools) == MANAGEMENT_TOOLS + len(two.view("kit").offer.tools)
        names = {entry["name"]: entry["mesh_name"] for entry in one.node_status.functions("two")["functions"]}
        assert names["echo"] == "two__kit__echo"
        assert names["list_mcp_servers"] is None


async def test_what_is_private_stays_and_no_node_forwards_at_the_local_endpoint(tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        nodes(tmp_path, {"one": [], "two": [kit(url, ServerScope.PRIVATE, "own"), kit(url)]}) as (one, two),
    ):
        introduce(one, two)
        await two.connected("own", "kit")
        await one.when(lambda: "two__kit__echo" in one.tool_names())
        assert "two__own__echo" in two.tool_names()
        assert "two__own__echo" not in one.tool_names()
        async with client(one.local_url, Era.MODERN) as mcp:
            listed = await mcp.request(Request.within("tools/list", {}, timeout_s=5))
            assert len(listed["tools"]) == MANAGEMENT_TOOLS
            with pytest.raises(RpcError, match="Unknown tool"):
                await mcp.request(
                    Request.within("tools/call", {"name": "two__kit__echo", "arguments": {"text": "x"}}, timeout_s=5)
                )


async def test_a_service_is_one_name_over_all_its_replicas_and_outlives_one_of_them(tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        nodes(
            tmp_path, {"one": [], "two": [kit(url, ServerScope.SERVICE)], "three": [kit(url, ServerScope.SERVICE)]}
        ) as (
            one,
            two,
            three,
        ),
    ):
        introduce(one, two, three)

        def replicas() -> int:
            route = one.mesh.routes.tools.get("kit__echo")
            return 0 if route is None else len(route.replicas)

        await one.when(lambda: replicas() == 2)
        two.mesh.take_servers([])
        await one.when(lambda: replicas() == 1)
        assert (await call(one, "kit__echo", text="x"))["content"][0]["text"] == "x"
        assert one.mesh.routes.tools["kit__echo"].replicas[0].node_id == three.identity.node_id


async def test_a_changed_offer_reaches_the_other_nodes_clients(tmp_path: Path) -> None:
    server = make_server(listen=True)
    async with served(server) as url, nodes(tmp_path, {"one": [], "two": [kit(url)]}) as (one, two):
        introduce(one, two)
        await one.when(lambda: "two__kit__echo" in one.tool_names())

        @server.tool
        def brand_new() -> str:
            return "new"

        changes: asyncio.Queue[str] = asyncio.Queue()
        async with client(one.url, Era.MODERN) as mcp, asyncio.timeout(15), asyncio.TaskGroup() as group:
            listener = group.create_task(mcp.listen(changes.put_nowait), name="listen")
            assert await changes.get() == "listening"
            await call(one, "two__kit__announce")
            assert await changes.get() == "tools"
            listed = await mcp.request(Request.within("tools/list", {}, timeout_s=5))
            assert "two__kit__brand_new" in {tool["name"] for tool in listed["tools"]}
            listener.cancel()
        assert len(set(two.digests)) == len(two.digests) > 1


async def test_a_new_offer_digest_in_the_catalog_is_reason_to_list_again(tmp_path: Path) -> None:
    async with nodes(tmp_path, {"one": [], "two": []}) as (one, two):
        one.mesh.take_catalog(catalog(instance(two, offer_digest="a")))
        await one.connected("two")
        link = one.supervisor.link("peer:two")
        assert link is not None
        session = link._session
        assert isinstance(session, LinkLifecycle)
        listed: asyncio.Queue[object] = asyncio.Queue()
        # Nothing has changed over there, so the listing itself must be seen: at the link that has to do it.
        session._offer._hooks = _Tap(link, listed)
        one.mesh.take_catalog(catalog(instance(two, offer_digest="b")))
        async with asyncio.timeout(5):
            await listed.get()
        assert one.supervisor.link("peer:two") is link
        assert link._session is session


async def test_a_node_tells_the_catalog_the_digest_that_others_find_in_what_it_lists(tmp_path: Path) -> None:
    server = make_server()

    @server.prompt
    def greet(who: str) -> str:
        return f"Hello {who}"

    @server.resource("notes://{name}")
    def note(name: str) -> str:
        return name

    @server.resource("notes://home")
    def home() -> str:
        return "home"

    async with (
        served(server) as url,
        nodes(tmp_path, {"one": [], "two": [kit(url), kit(url, ServerScope.SERVICE, "more")]}) as (one, two),
    ):
        introduce(one, two)
        await two.connected("kit", "more")
        await one.when(lambda: {"two__kit__echo", "more__echo"} <= set(one.tool_names()))
        offer = one.view("two").offer
        assert all((offer.tools, offer.resources, offer.prompts, offer.templates))
        assert exported_digest(offer) == two.digests[-1]


class _Tap:
    """Passes on what a session tells, and notes each listing."""

    def __init__(self, link: object, listed: asyncio.Queue[object]) -> None:
        self._link = link
        self._queue = listed

    def listed(self, offer: object) -> None:
        self._link.listed(offer)  # type: ignore[attr-defined]  # a link
        self._queue.put_nowait(offer)

    def alive(self, latency_s: float, server_info: object) -> None:
        self._link.alive(latency_s, server_info)  # type: ignore[attr-defined]  # a link

    def asked(self) -> None:
        self._link.asked()  # type: ignore[attr-defined]  # a link

    def missed(self, *, busy: bool, silent: bool) -> bool:
        return bool(self._link.missed(busy=busy, silent=silent))  # type: ignore[attr-defined]  # a link


async def test_a_node_other_than_the_catalog_says_is_refused(tmp_path: Path) -> None:
    async with nodes(tmp_path, {"one": [], "two": []}) as (one, two):
        stranger = instance(two, node_id="00000000-0000-4000-8000-000000000000")
        one.mesh.take_catalog(catalog(stranger))
        await one.when(lambda: one.view("two").failure == "IdentityRefused")
        assert not one.is_up("two")
        one.mesh.take_catalog(catalog(instance(two)))
        await one.connected("two")


async def test_another_node_behind_a_known_address_is_noticed(tmp_path: Path) -> None:
    async with running_node("one", tmp_path / "one") as one:
        port = free_port()
        async with running_node("two", tmp_path / "two", port=port) as two:
            url = two.url
            await one.add_peer("x", url)
        async with running_node("three", tmp_path / "three", port=port) as three:
            await one.add_peer("x", url)

            def is_three() -> bool:
                identity = one.view("x").identity
                return one.is_up("x") and identity is not None and identity.node_id == three.identity.node_id

            await one.when(is_three)


async def test_a_node_that_moves_is_dialled_at_its_new_place(tmp_path: Path) -> None:
    async with nodes(tmp_path, {"one": []}) as (one,):
        async with running_node("two", tmp_path / "two") as two:
            key = two.key
            one.mesh.take_catalog(catalog(instance(two)))
            await one.connected("two")
        async with running_node("two", tmp_path / "two", key=key) as moved:
            one.mesh.take_catalog(catalog(instance(moved, epoch="2")))
            await one.when(lambda: one.is_up("two") and one.view("two").spec.target.url == moved.url)  # type: ignore[union-attr]  # a peer's


async def test_a_server_that_is_a_mesh_node_is_refused(tmp_path: Path) -> None:
    async with nodes(tmp_path, {"one": [], "two": []}) as (one, two):
        one.mesh.take_servers([kit(two.url, name="loop"), kit(one.url, name="mirror")])
        await one.when(lambda: one.view("loop").failure and one.view("mirror").failure)
        assert "add it as a peer" in one.view("loop").last_error
        assert one.view("mirror").failure == "DialledOurselves"
        assert len(one.tool_names()) == 0


async def test_a_call_in_flight_is_finished_when_its_peer_leaves_the_catalog(tmp_path: Path) -> None:
    diary = Diary()
    server = make_server(diary)
    over = asyncio.Event()

    @server.tool
    async def slow() -> str:
        diary.waiting.set()
        await over.wait()
        return "done"

    async with served(server) as url, nodes(tmp_path, {"one": [], "two": [kit(url)]}) as (one, two):
        introduce(one, two)
        await one.when(lambda: "two__kit__slow" in one.tool_names())
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(call(one, "two__kit__slow"), name="call")
            await diary.waiting.wait()
            one.mesh.take_catalog(Catalog())
            await one.when(lambda: not one.mesh.views())
            assert one.tool_names() == []
            over.set()
        assert answer.result()["content"][0]["text"] == "done"


async def test_a_gateway_passes_calls_on_and_two_gateways_do_not_grow_without_end(tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        nodes(tmp_path, {"one": [], "two": [], "three": [kit(url)]}) as (one, two, three),
    ):
        await three.connected("kit")
        assert (await two.add_peer("three", three.url))[0] == 201
        assert (await one.add_peer("two", two.url, scope="mesh"))[0] == 201
        await one.when(lambda: "three__kit__echo" in one.tool_names())
        assert (await call(one, "three__kit__echo", text="far"))["content"][0]["text"] == "far"
        before = sorted(one.tool_names())
        assert (await two.add_peer("one", one.url, scope="mesh"))[0] == 201
        await two.mesh.settled()
        await one.mesh.settled()
        assert sorted(one.tool_names()) == before
        assert sorted(two.tool_names()) == before


@pytest.mark.parametrize("path", [["ME"], ["a", "b", "c"]])
async def test_a_call_that_went_in_circles_or_too_far_is_not_passed_on(path: list[str], tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        nodes(tmp_path, {"one": [], "two": [], "three": [kit(url)]}) as (one, two, three),
    ):
        await three.connected("kit")
        await two.add_peer("three", three.url)
        await one.add_peer("two", two.url, scope="mesh")
        await one.when(lambda: "three__kit__echo" in one.tool_names())
        passed = [one.identity.node_id if step == "ME" else step for step in path]
        with pytest.raises(RpcError) as caught:
            await call(one, "three__kit__echo", passed, text="x")
        assert caught.value.data["outcome"] == "not_executed"
        # A path of nonsense leads nowhere.
        assert await call(one, "three__kit__echo", "nonsense", text="x")


async def test_two_nodes_of_one_name_are_both_reachable_and_the_clash_is_shown(tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        running_node("one", tmp_path / "one") as one,
        running_node("twin", tmp_path / "a", servers=[kit(url)]) as first,
        running_node("twin", tmp_path / "b", servers=[kit(url)]) as second,
    ):
        one.mesh.take_catalog(catalog(instance(first), instance(second)))
        await one.when(lambda: sum(view.connected for view in one.mesh.peer_views()) == 2)
        await one.when(lambda: any(c["reason"] == "node_name" for c in one.node_status.status()["conflicts"]))
        for node in (first, second):
            alias = f"twin-{node.identity.node_id[:8]}__kit__echo"
            assert (await call(one, alias, text="x"))["content"][0]["text"] == "x"


async def test_a_mesh_step_that_fails_does_not_end_the_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with nodes(tmp_path, {"one": [], "two": []}) as (one, two):
        statics, one.mesh.statics = one.mesh.statics, (StaticPeer("x", "http://x/mcp"), None)  # type: ignore[assignment]  # a bug
        await one.mesh.settled()
        assert "a mesh step failed" in caplog.text
        one.mesh.statics = statics
        one.mesh.take_catalog(catalog(instance(two)))
        await one.connected("two")


async def test_a_name_conflict_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        served(make_server()) as url,
        running_node("one", tmp_path / "one") as one,
        running_node("one", tmp_path / "b", servers=[kit(url)]) as namesake,
    ):
        one.mesh.take_catalog(catalog(instance(namesake)))
        await one.when(lambda: one.mesh.routes.conflicts)
        for epoch in range(2, 5):
            one.mesh.take_catalog(catalog(instance(namesake, epoch=str(epoch))))
            await one.mesh.settled()
        assert len([record for record in caplog.records if record.message == "name conflict"]) == 1


async def test_a_peer_that_hangs_up_is_dialled_again_and_its_names_come_back(tmp_path: Path) -> None:
    async with served(make_server()) as url, nodes(tmp_path, {"one": [], "two": [kit(url)]}) as (one, two):
        introduce(one, two)
        await one.when(lambda: "two__kit__echo" in one.tool_names())
        link = one.supervisor.link("peer:two")
        assert link is not None
        assert link._session is not None
        link._session.opened.client.lost.set()
        await one.when(lambda: one.view("two").state is not LinkState.READY)
        await one.when(lambda: "two__kit__echo" in one.tool_names())
        assert one.view("two").reconnects == 1
        assert one.view("two").last_error == ""


async def test_maintenance_that_the_agent_alone_says_is_obeyed_until_a_catalog_shows_our_entry(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as one:
        one.mesh.take_own_maintenance("new disks")
        await one.mesh.settled()
        assert one.mesh.maintenance.own == "new disks"
        one.mesh.take_catalog(catalog(instance(one)))
        await one.mesh.settled()
        assert one.mesh.maintenance.own == ""
