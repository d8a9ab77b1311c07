"""Tasks of 2026-07-28 behind one node and behind two: a real server that makes them, clients that ask about them."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import mcp_types as types
import pytest
from mcp.client import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim

from agent.client.connect import McpClient
from agent.client.http.sse import SseParser
from agent.client.protocol import Request
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, RpcError
from agent.model import TASKS_EXTENSION, Era, HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import warm
from tests.integration.servers.hosting import http_app, serving
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served
from tests.integration.servers.raw_session import raw_session
from tests.integration.servers.task_server import LARGE, QUESTION, Tasks, task_server

CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
DECLARED: Json = {CAPABILITIES_KEY: {"elicitation": {}, "extensions": {TASKS_EXTENSION: {}}}}
MISSING_CAPABILITY = -32021
HEADER_MISMATCH = -32020
ROOT = Path(__file__).parents[2]


@dataclass
class Place:
    """A node with its server; closing the `port` kills the server."""

    node: RunningNode
    tasks: Tasks
    port: AsyncExitStack


@dataclass
class Scene:
    """`front` is the node that clients ask; with one hop it is the only one."""

    front: RunningNode
    places: list[Place]

    def asked(self) -> list[list[tuple[str, str]]]:
        """The requests about tasks that each server got."""
        return [place.tasks.asked for place in self.places]


@asynccontextmanager
async def scene(folder: Path, hops: int, scope: ServerScope = ServerScope.SERVICE) -> AsyncIterator[Scene]:
    """One node; or two replicas on nodes of their own, behind a third."""
    async with AsyncExitStack() as stack:
        places: list[Place] = []
        for name in ("east", "west")[:hops]:
            server, tasks = task_server(name)
            app = await stack.enter_async_context(http_app(server))
            port = await stack.enter_async_context(AsyncExitStack())
            base = await port.enter_async_context(serving(app))
            spec = ServerSpec("shop", HttpTarget(f"{base}/mcp"), scope)
            node = await stack.enter_async_context(running_node(name, folder / name, servers=[spec]))
            await node.connected("shop")
            places.append(Place(node, tasks, port))
        if hops == 1:
            yield Scene(places[0].node, places)
            return
        front = await stack.enter_async_context(running_node("front", folder / "front"))
        front.mesh.take_catalog(catalog(*(instance(place.node) for place in places)))
        await front.when(lambda: _replicas(front) == hops)
        yield Scene(front, places)


def _replicas(node: RunningNode) -> int:
    return sum(len(node.mesh.routes.tools[name].replicas) for name in node.tool_names() if name.endswith("__works"))


async def call(mcp: McpClient, tool: str, meta: Json = DECLARED, **arguments: str) -> Json:
    return await mcp.request(
        Request.within("tools/call", {"name": f"shop__{tool}", "arguments": arguments, "_meta": meta}, timeout_s=15)
    )


async def about(mcp: McpClient, method: str, task_id: str, meta: Json = DECLARED, **more: Any) -> Json:
    return await mcp.request(Request.within(method, {"taskId": task_id, "_meta": meta, **more}, timeout_s=15))


async def refusal(mcp: McpClient, method: str, task_id: str, meta: Json = DECLARED) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await about(mcp, method, task_id, meta)
    return caught.value


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_task_asks_is_answered_and_gives_its_result_by_the_server_that_made_it(
    hops: int, tmp_path: Path
) -> None:
    async with scene(tmp_path, hops) as it, client(it.front.url, Era.MODERN) as mcp:
        makers = set()
        for number in range(6):
            own_id = f"job {number} / ü"
            made = await call(mcp, "asks", task_id=own_id)
            assert (made["resultType"], made["status"]) == ("task", "input_required")
            waiting = await about(mcp, "tasks/get", made["taskId"])
            assert waiting["inputRequests"] == {"branch": QUESTION}
            accepted = {"branch": {"action": "accept", "content": {"branch": "main"}}}
            done = await about(mcp, "tasks/update", made["taskId"], inputResponses=accepted)
            assert done["resultType"] == "complete"
            ended = await about(mcp, "tasks/get", made["taskId"])
            assert (ended["resultType"], ended["status"], ended["taskId"]) == ("complete", "completed", made["taskId"])
            said, _, maker = ended["result"]["content"][0]["text"].partition(" at ")
            assert said == "main"
            makers.add(maker)
            mine = next(place for place in it.places if place.tasks.place == maker)
            assert mine.tasks.asked[-3:] == [("tasks/get", own_id), ("tasks/update", own_id), ("tasks/get", own_id)]
        assert len(makers) == hops, "every replica made a task"
        assert sum(map(len, it.asked())) == 18, "no server was asked about a task of another"


@pytest.mark.parametrize("hops", [1, 2])
async def test_numbers_of_a_tasks_result_come_as_they_were_written(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as it, aiohttp.ClientSession() as http_client:
        async with client(it.front.url, Era.MODERN) as mcp:
            made = await call(mcp, "works", task_id="1")
        for place in it.places:
            place.tasks.finish(place.tasks.known.get("1", {}), "done")
        _, message = await post(http_client, it.front.url, "tasks/get", made["taskId"])
        assert f'"large":{LARGE}'.encode() in message.replace(b" ", b"")


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("scope", [ServerScope.SERVICE, ServerScope.NODE])
async def test_what_a_tasks_result_links_to_can_be_read_as_it_was_shown(
    scope: ServerScope, hops: int, tmp_path: Path
) -> None:
    async with scene(tmp_path, hops, scope) as it, client(it.front.url, Era.MODERN) as mcp:
        namespace = "shop" if scope is ServerScope.SERVICE else "east__shop"
        params = {"name": f"{namespace}__works", "arguments": {"task_id": "1"}, "_meta": DECLARED}
        made = await mcp.request(Request.within("tools/call", params, timeout_s=5))
        for place in it.places:
            place.tasks.finish(place.tasks.known.get("1", {}), "done")
        ended = await about(mcp, "tasks/get", made["taskId"])
        shown = ended["result"]["content"][1]["uri"]
        assert shown == f"notes://{namespace}/home"
        read = await mcp.request(Request.within("resources/read", {"uri": shown}, timeout_s=5))
        assert read["contents"][0]["text"] == "the home page"


async def post(
    http_client: aiohttp.ClientSession,
    url: str,
    method: str,
    name: str | None,
    meta: Json = DECLARED,
    **params: Any,
) -> tuple[int, bytes]:
    """Status and body of a request as it is written here."""
    version = "2026-07-28"
    envelope = {"io.modelcontextprotocol/protocolVersion": version, CAPABILITIES_KEY: {}, **meta}
    params = {"_meta": envelope, **({"taskId": name} if name is not None else {}), **params}
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": version, "Mcp-Method": method}
    if name is not None:
        headers["Mcp-Name"] = name
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with http_client.post(url, json=body, headers=headers) as response:
        if response.content_type != "text/event-stream":
            return response.status, await response.read()
        parser = SseParser(1 << 20)
        async for chunk in response.content.iter_any():
            if events := parser.feed(chunk):
                return response.status, events[0]
        raise AssertionError("the stream has no event")


async def lives(mcp: McpClient, name: str) -> str:
    """Make a task, ask about it and cancel it; returns its ID."""
    made = await mcp.request(
        Request.within("tools/call", {"name": name, "arguments": {}, "_meta": DECLARED}, timeout_s=15)
    )
    task_id = str(made["taskId"])
    assert (await about(mcp, "tasks/get", task_id))["taskId"] == task_id
    await about(mcp, "tasks/cancel", task_id)
    assert (await about(mcp, "tasks/get", task_id))["status"] == "cancelled"
    return task_id


async def test_a_task_lives_behind_a_gateway_and_with_a_plain_peer_and_with_a_plain_peer_of_the_gateway(
    tmp_path: Path,
) -> None:
    server, tasks = task_server("alone")
    async with (
        scene(tmp_path, 2) as it,
        served(server) as url,
        running_node("outer", tmp_path / "outer") as outer,
        client(outer.url, Era.MODERN) as mcp,
    ):
        await it.front.add_peer("alone", url)
        await outer.add_peer("gate", it.front.url, scope="mesh")
        await outer.add_peer("near", url)
        await outer.when(lambda: {"shop__works", "alone__works", "near__works"} <= set(outer.tool_names()))
        ids = [await lives(mcp, name) for name in ("shop__works", "alone__works", "near__works")]
        gate = f"mesh1/gateway/{it.front.identity.node_id}/mesh1/"
        starts = (gate + "server/", gate + "peer/alone/", "mesh1/peer/near/")
        assert [one.startswith(start) for one, start in zip(ids, starts, strict=True)] == [True] * 3
        assert len(tasks.asked) == 6


@pytest.mark.parametrize("hops", [1, 2])
async def test_clients_that_name_no_task_in_a_header_are_answered(hops: int, tmp_path: Path) -> None:
    async with (
        scene(tmp_path, hops) as it,
        client(it.front.url, Era.MODERN) as mcp,
        aiohttp.ClientSession() as http_client,
    ):
        task_id = (await call(mcp, "asks"))["taskId"]
        await about(mcp, "tasks/get", task_id)
        answer = {"inputResponses": {"branch": {"action": "accept", "content": {"branch": "main"}}}}
        for method, more in {"tasks/get": {}, "tasks/update": answer, "tasks/cancel": {}}.items():
            status, body = await post(http_client, it.front.url, method, None, taskId=task_id, **more)
            assert (status, b'"error"' in body) == (200, False), body


@pytest.mark.usefixtures("warm_servers")
async def test_a_task_lives_in_a_child_process(tmp_path: Path) -> None:
    target = StdioTarget(sys.executable, (*warm.COMMAND, "tests.integration.servers.task_server"), cwd=str(ROOT))
    async with running_node("one", tmp_path, servers=[ServerSpec("shop", target, ServerScope.NODE)]) as node:
        await node.connected("shop")
        async with client(node.url, Era.MODERN) as mcp:
            await lives(mcp, "one__shop__works")


async def test_a_task_is_cancelled_and_an_unknown_one_is_refused_by_the_server_itself(tmp_path: Path) -> None:
    async with scene(tmp_path, 2) as it, client(it.front.url, Era.MODERN) as mcp:
        made = await call(mcp, "works")
        await about(mcp, "tasks/cancel", made["taskId"])
        assert (await about(mcp, "tasks/get", made["taskId"]))["status"] == "cancelled"
        unknown = await refusal(mcp, "tasks/get", made["taskId"] + "0")
        assert unknown.code == -32602
        assert unknown.message.startswith("no such task at ")


class _Asked(types.RequestParams):
    task_id: str


class _GetTask(types.Request[_Asked, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: _Asked
    name_param = "taskId"


class _Task(types.Result):
    """A task as the client of the SDK reads it, when it is made and when it is asked about."""

    result_type: Literal["task"] = "task"
    task_id: str


class _TaskNow(types.Result):
    task_id: str
    status: str
    result: types.CallToolResult | None = None


class _Follows(ClientExtension):
    """Asks about a task until it has ended."""

    identifier = TASKS_EXTENSION

    def __init__(self) -> None:
        self.seen: list[str] = []

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=_Task, resolve=self._followed)]

    async def _followed(self, task: _Task, context: ClaimContext) -> types.CallToolResult:
        while True:
            request = _GetTask(params=_Asked(task_id=task.task_id))
            now = await context.session.send_request(request, _TaskNow)
            self.seen.append(now.status)
            if now.result is not None:
                return now.result


@pytest.mark.parametrize("hops", [1, 2])
async def test_the_client_of_the_sdk_follows_a_task_to_its_result(hops: int, tmp_path: Path) -> None:
    follows = _Follows()
    async with scene(tmp_path, hops) as it, Client(it.front.url, extensions=[follows]) as mcp:
        result = await mcp.call_tool("shop__soon", {})
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text.startswith("soon at ")
        assert follows.seen == ["working", "completed"]


async def test_an_id_is_good_on_every_node_and_after_the_restart_of_each(tmp_path: Path) -> None:
    async with scene(tmp_path, 2) as it:
        async with client(it.front.url, Era.MODERN) as mcp:
            ids = [(await call(mcp, "works"))["taskId"] for _ in range(4)]
        async with running_node("other", tmp_path / "other") as other:
            other.mesh.take_catalog(catalog(*(instance(place.node) for place in it.places)))
            await other.when(lambda: _replicas(other) == 2)
            async with client(other.url, Era.MODERN) as mcp:
                assert {(await about(mcp, "tasks/get", one))["status"] for one in ids} == {"working"}
        east = it.places[0]
        servers = [view.spec for view in east.node.mesh.views() if isinstance(view.spec, ServerSpec)]
        node_id, key = east.node.identity.node_id, east.node.key
        async with running_node("east", tmp_path / "again", servers=servers, key=key) as again:
            await again.connected("shop")
            async with client(again.url, Era.MODERN) as mcp:
                of_east = [one for one in ids if node_id in one]
                assert of_east
                assert {(await about(mcp, "tasks/get", one))["status"] for one in of_east} == {"working"}


async def test_a_task_whose_server_was_killed_is_asked_of_no_other(tmp_path: Path) -> None:
    async with scene(tmp_path, 2) as it, client(it.front.url, Era.MODERN) as mcp:
        made = (await call(mcp, "works"))["taskId"]
        maker, other = it.places if it.places[0].node.identity.node_id in made else reversed(it.places)
        await maker.port.aclose()
        assert (await refusal(mcp, "tasks/get", made)).code in (NOT_EXECUTED, OUTCOME_UNKNOWN)
        await maker.node.when(lambda: not maker.node.is_up("shop"))
        gone = await refusal(mcp, "tasks/get", made)
        assert (gone.code, gone.data["outcome"]) == (NOT_EXECUTED, "not_executed")
        await it.front.rest("DELETE", f"/peers/{maker.node.identity.name}")
        await it.front.when(lambda: _replicas(it.front) == 1)
        gone = await refusal(mcp, "tasks/cancel", made)
        assert (gone.code, gone.data["outcome"]) == (NOT_EXECUTED, "not_executed")
        assert other.tasks.asked == []
        assert (await call(mcp, "works"))["status"] == "working", "the other one still makes tasks"


async def test_a_made_up_id_reaches_nothing_that_the_endpoint_does_not_lead_to(tmp_path: Path) -> None:
    async with scene(tmp_path, 1, ServerScope.PRIVATE) as it:
        async with client(it.front.url, Era.MODERN) as mcp:
            made = await mcp.request(
                Request.within(
                    "tools/call", {"name": "east__shop__works", "arguments": {}, "_meta": DECLARED}, timeout_s=5
                )
            )
            assert (await about(mcp, "tasks/get", made["taskId"]))["status"] == "working"
            assert (await refusal(mcp, "tasks/get", "mesh1/peer/nobody/1")).code == NOT_EXECUTED
            assert (await refusal(mcp, "tasks/get", "1")).code == -32602
        async with client(it.front.local_url, Era.MODERN) as mcp:
            assert (await refusal(mcp, "tasks/get", made["taskId"])).code == NOT_EXECUTED
        assert len(it.places[0].tasks.asked) == 1


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_that_declares_nothing_gets_no_task_and_hears_what_is_missing(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as it, client(it.front.url, Era.MODERN) as mcp:
        nothing: Json = {CAPABILITIES_KEY: {}}
        plain = await call(mcp, "either", nothing)
        assert plain["resultType"] == "complete"
        assert plain["content"][0]["text"].endswith("without a task")
        made = (await call(mcp, "either"))["taskId"]
        for wrong in (
            call(mcp, "works", nothing),
            *(about(mcp, f"tasks/{do}", made, nothing) for do in ("get", "cancel")),
        ):
            with pytest.raises(RpcError) as caught:
                await wrong
            assert caught.value.code == MISSING_CAPABILITY
            assert caught.value.data == {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
        with pytest.raises(RpcError, match="did not say") as caught:
            await call(mcp, "rude", nothing)
        assert (caught.value.code, caught.value.data["outcome"]) == (-32603, "unknown")
        assert it.asked() == [[]] * hops


async def test_the_name_in_the_header_has_to_be_the_task(tmp_path: Path) -> None:
    async with scene(tmp_path, 1) as it, aiohttp.ClientSession() as http_client:
        good, other = (f"mesh1/server/{it.front.identity.node_id}/shop/{number}" for number in (1, 2))
        status, message = await post(http_client, it.front.url, "tasks/get", good, taskId=other)
        assert (status, f'"code":{HEADER_MISMATCH}'.encode() in message) == (400, True)
        it.places[0].tasks.known["1"] = {"taskId": "1", "status": "working"}
        status, _ = await post(http_client, it.front.url, "tasks/get", good)
        assert (status, it.asked()) == (200, [[("tasks/get", "1")]])


@pytest.mark.parametrize("hops", [1, 2])
async def test_tasks_are_announced_while_a_server_makes_them(hops: int, tmp_path: Path) -> None:
    async with running_node("bare", tmp_path / "bare") as bare, client(bare.url, Era.MODERN) as mcp:
        assert TASKS_EXTENSION not in mcp.server_info.capabilities["extensions"]
    async with scene(tmp_path, hops) as it:
        await it.front.when(lambda: any(view.has_tasks for view in it.front.mesh.views()))
        for url in (it.front.url, it.places[0].node.local_url):
            async with client(url, Era.MODERN) as mcp:
                assert mcp.server_info.capabilities["extensions"][TASKS_EXTENSION] == {}
            async with client(url, Era.LEGACY) as session:
                assert TASKS_EXTENSION not in str(session.server_info.capabilities)
                assert "tasks" in session.server_info.capabilities, "in the words of its version"


async def test_a_node_hears_on_an_open_link_that_another_one_has_tasks_now_and_then_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.links.probe.PROBE_EVERY_S", 0.2)
    server, _ = task_server("east")
    async with (
        served(server) as url,
        running_node("east", tmp_path / "east") as east,
        running_node("front", tmp_path / "front") as front,
    ):
        front.mesh.take_catalog(catalog(instance(east)))
        await front.when(lambda: bool(front.mesh.peer_views()) and front.mesh.peer_views()[0].connected)
        assert not front.mesh.peer_views()[0].has_tasks
        for servers in ([ServerSpec("shop", HttpTarget(url), ServerScope.SERVICE)], []):
            east.mesh.take_servers(servers)
            await front.when(lambda wanted=bool(servers): front.mesh.peer_views()[0].has_tasks == wanted)
        assert front.mesh.peer_views()[0].reconnects == 0


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_with_a_session_of_before_2025_11_25_never_meets_a_task(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as it, raw_session(it.front.url, extensions={TASKS_EXTENSION: {}}) as session:
        plain = await session.request("tools/call", {"name": "shop__either", "arguments": {}, "task": {"ttl": 1}})
        assert plain["result"]["content"][0]["text"].endswith("without a task")
        for tool, code in {"works": MISSING_CAPABILITY, "rude": -32603}.items():
            refused = await session.request("tools/call", {"name": f"shop__{tool}", "arguments": {}})
            assert refused["error"]["code"] == code
        for method in ("tasks/get", "tasks/update", "tasks/cancel", "tasks/list", "tasks/result"):
            refused = await session.request(method, {"taskId": "1", "_meta": DECLARED})
            assert refused["error"]["code"] == -32601
        assert it.asked() == [[]] * hops
