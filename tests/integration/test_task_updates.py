"""Tasks that servers tell of unasked, behind one node and behind two: `notifications/tasks` under public IDs."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from agent.client.connect import McpClient
from agent.client.streams import TASKS, Updates
from agent.lossless_json.raw import exact
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import warm
from tests.integration.servers.hosting import http_app, serving
from tests.integration.servers.nodes import client, running_node
from tests.integration.servers.task_server import LARGE, QUESTION, task_server
from tests.integration.test_tasks import (
    CAPABILITIES_KEY,
    DECLARED,
    MISSING_CAPABILITY,
    ROOT,
    Scene,
    about,
    call,
    post,
    scene,
)
from tests.waiting import UNREPAIRED_S


@dataclass
class Followed:
    """What a client gets on its stream. `granted`: the IDs that were acknowledged."""

    granted: frozenset[str] = frozenset()
    told: asyncio.Queue[Json] = field(default_factory=asyncio.Queue)

    async def next(self, status: str) -> Json:
        """The next state that has this status; equal ones may come twice."""
        async with asyncio.timeout(UNREPAIRED_S):
            while True:
                task = await self.told.get()
                if task["status"] == status:
                    return task


@asynccontextmanager
async def following(mcp: McpClient, *task_ids: str) -> AsyncIterator[Followed]:
    """Listen for tasks; goes on once that is acknowledged."""
    followed = Followed()
    acknowledged = asyncio.Event()

    def granted(names: frozenset[str], _refusals: Any) -> None:
        followed.granted = names
        acknowledged.set()

    updates = Updates(task_ids, granted, lambda _id, params: followed.told.put_nowait(params), DECLARED, TASKS)
    async with asyncio.TaskGroup() as group:
        stream = group.create_task(mcp.follow(updates), name="follow tasks")
        try:
            async with asyncio.timeout(UNREPAIRED_S):
                await acknowledged.wait()
            yield followed
        finally:
            stream.cancel()


async def made_at(it: Scene, mcp: McpClient, tool: str, place: int, name: str) -> str:
    """The public ID of a task of one of the servers; replicas are chosen by chance."""
    while True:
        made = await call(mcp, tool, task_id=name)
        if name in it.places[place].tasks.known:
            return str(made["taskId"])


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_hears_under_the_public_id_what_it_would_be_answered(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as it, client(it.front.url, Era.MODERN) as mcp:
        ids = [await made_at(it, mcp, "asks", place, f"job {place}") for place in range(hops)]
        unknown = f"mesh1/server/{it.places[0].node.identity.node_id}/shop/unknown"
        async with following(mcp, *ids, unknown, "no ID at all") as followed:
            assert followed.granted == set(ids)
            for place, task_id in zip(it.places, ids, strict=True):
                (own_id,) = (one for one in place.tasks.known if task_id.endswith(one))
                place.tasks.tell(place.tasks.known[own_id])
                asking = await followed.next("input_required")
                assert (asking["taskId"], asking["inputRequests"]) == (task_id, {"branch": QUESTION})
                answers = {"branch": {"action": "accept", "content": {"branch": "main"}}}
                await about(mcp, "tasks/update", task_id, inputResponses=answers)
                ended = await followed.next("completed")
                assert ended["taskId"] == task_id
                assert ended["result"]["content"][1]["uri"] == "notes://shop/home"
                answered = exact(await about(mcp, "tasks/get", task_id))
                del ended["_meta"]
                assert orjson.dumps(ended) == orjson.dumps({member: answered[member] for member in ended})
                assert answered.keys() - ended.keys() <= {"resultType", "_meta"}


@pytest.mark.parametrize("hops", [1, 2])
async def test_large_numbers_and_large_results_arrive_whole(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as it, client(it.front.url, Era.MODERN) as mcp:
        task_id = await made_at(it, mcp, "works", 0, "1")
        async with following(mcp, task_id) as followed:
            text = "x" * (3 << 20)
            it.places[0].tasks.finish(it.places[0].tasks.known["1"], text)
            ended = await followed.next("completed")
            assert ended["result"]["content"][0]["text"] == text
            assert orjson.dumps(ended["result"]["structuredContent"]) == b'{"large":%d}' % LARGE


@pytest.mark.parametrize("hops", [1, 2])
async def test_the_server_hears_that_no_subscriber_is_left(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as it, client(it.front.url, Era.MODERN) as mcp:
        ids = [await made_at(it, mcp, "works", 0, name) for name in ("a", "b")]
        tasks = it.places[0].tasks
        async with following(mcp, ids[0]) as first:
            async with following(mcp, *ids) as second:
                tasks.finish(tasks.known["b"], "done")
                assert (await second.next("completed"))["taskId"] == ids[1]
            tasks.tell(tasks.known["a"])
            assert (await first.next("working"))["taskId"] == ids[0]
        async with asyncio.timeout(UNREPAIRED_S):
            await tasks.quiet.wait()
        assert repr(it.front.updates.tasks) == "<TaskUpdates 0 subscriptions to 0 names>"


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_was_missed_while_a_stream_was_broken_comes_when_it_is_followed_anew(
    hops: int, tmp_path: Path
) -> None:
    async with scene(tmp_path, hops) as it, client(it.front.url, Era.MODERN) as mcp:
        task_id = await made_at(it, mcp, "works", 0, "1")
        tasks = it.places[0].tasks
        async with following(mcp, task_id) as followed:
            (_, stream) = tasks.streams[-1]
            stream.put_nowait(None)
            task = tasks.known["1"]
            streams, tasks.streams = tasks.streams, []
            tasks.finish(task, "meanwhile")
            tasks.streams = streams
            ended = await followed.next("completed")
            assert ended["result"]["content"][0]["text"] == "meanwhile"


async def test_a_server_that_tells_of_no_tasks_leaves_its_ids_out(tmp_path: Path) -> None:
    server, _ = task_server("east")
    del server._mcp_server._request_handlers["subscriptions/listen"]
    async with http_app(server) as app, serving(app) as base:
        spec = ServerSpec("shop", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE)
        async with running_node("east", tmp_path, servers=[spec]) as node, aiohttp.ClientSession() as http:
            await node.connected("shop")
            async with client(node.url, Era.MODERN) as mcp:
                made = await call(mcp, "works")
            wanted = {"notifications": {"toolsListChanged": True, "taskIds": [made["taskId"]]}}
            status, first = await post(http, node.url, "subscriptions/listen", None, **wanted)
            assert status == 200
            assert b'"method":"notifications/subscriptions/acknowledged"' in first
            assert b'"notifications":{"toolsListChanged":true}' in first


async def test_a_client_that_takes_no_tasks_is_refused_and_so_is_what_is_no_list_of_ids(tmp_path: Path) -> None:
    async with scene(tmp_path, 1) as it, aiohttp.ClientSession() as http:
        bare: Json = {CAPABILITIES_KEY: {}}
        wanted = {"notifications": {"taskIds": ["mesh1/peer/shop/1"]}}
        _, refused = await post(http, it.front.url, "subscriptions/listen", None, bare, **wanted)
        assert f'"code":{MISSING_CAPABILITY}'.encode() in refused
        for wrong in ("mesh1/peer/shop/1", [1], {"1": 1}):
            _, refused = await post(http, it.front.url, "subscriptions/listen", None, notifications={"taskIds": wrong})
            assert b'"code":-32602' in refused


@pytest.mark.usefixtures("warm_servers")
async def test_a_child_process_tells_of_its_tasks(tmp_path: Path) -> None:
    target = StdioTarget(sys.executable, (*warm.COMMAND, "tests.integration.servers.task_server"), cwd=str(ROOT))
    spec = ServerSpec("shop", target, ServerScope.SERVICE)
    async with running_node("east", tmp_path, servers=[spec]) as node, client(node.url, Era.MODERN) as mcp:
        await node.connected("shop")
        task_id = (await call(mcp, "works"))["taskId"]
        async with following(mcp, task_id) as followed:
            await about(mcp, "tasks/cancel", task_id)
            assert (await followed.next("cancelled"))["taskId"] == task_id
