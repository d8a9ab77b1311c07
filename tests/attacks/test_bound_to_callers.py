"""What one token's holder began is another's to use for no price: tasks, their updates, cursors, keys of affinity."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from agent.config.tokens_file import check_tokens
from agent.model import HttpTarget, ServerScope, ServerSpec
from agent.rest.tokens import TokenTable
from agent.server.pages import PageLimits
from tests.attacks.clients import TAKES_TASKS, Holder, entry, token_of
from tests.integration.servers.clock_server import clock_server
from tests.integration.servers.hosting import http_app, serving
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node, served
from tests.integration.servers.task_server import Tasks, task_server
from tests.waiting import eventually

SHORT = "short-form-canary-0123456789abcdef"
TOKENS = {
    "one": entry("one", "mcp"),
    "other": entry("other", "mcp"),
    "narrow": entry("narrow", "mcp", tools=["*__get-time", "*__save"]),
}


def tokens() -> TokenTable:
    named = check_tokens(orjson.dumps({"tokens": TOKENS}).decode(), Path("tokens.json"))
    return TokenTable([SHORT], named, closed=True)


def holder(node: RunningNode, name: str) -> Holder:
    return Holder(node.base, SHORT if name == "MESH_TOKEN" else token_of(name))


@dataclass
class Scene:
    """Two nodes with tokens, and behind them one whose server makes tasks."""

    here: RunningNode
    there: RunningNode
    tasks: Tasks


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    server, tasks = task_server("shop")
    async with http_app(server) as app, serving(app) as base:
        spec = ServerSpec("shop", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE)
        async with (
            running_node("back", folder / "back", servers=[spec]) as back,
            running_node("here", folder / "here", tokens=tokens()) as here,
            running_node("there", folder / "there", tokens=tokens()) as there,
        ):
            await back.connected("shop")
            for node in (here, there):
                node.mesh.take_catalog(catalog(instance(back)))
                await node.when(lambda node=node: "shop__asks" in node.tool_names())
            yield Scene(here, there, tasks)


async def test_a_task_is_its_callers_on_every_node_and_no_other_callers_on_any(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        one = holder(it.here, "one")
        made = (await one.modern("tools/call", name="shop__asks", arguments={}, capabilities=TAKES_TASKS)).result
        task_id = made["taskId"]
        for node in (it.here, it.there):
            mine = await holder(node, "one").modern("tasks/get", taskId=task_id, capabilities=TAKES_TASKS)
            assert (mine.result["taskId"], mine.result["status"]) == (task_id, "input_required")
        it.tasks.asked.clear()
        bare = task_id.rpartition("~")[0]
        for name in ("other", "narrow"):
            for method in ("tasks/get", "tasks/cancel"):
                for guess in (task_id, bare, f"{bare}~", f"{bare}~AAAAAAAAAAAAAAAA"):
                    refused = await holder(it.there, name).modern(method, taskId=guess, capabilities=TAKES_TASKS)
                    assert refused.error["code"] == -32602
                    assert "not handed out" in refused.error["message"]
        assert it.tasks.asked == [], "no server hears of it"
        whole = await holder(it.here, "MESH_TOKEN").modern("tasks/get", taskId=task_id, capabilities=TAKES_TASKS)
        assert whole.error["code"] == -32602


async def test_updates_of_a_task_go_to_its_caller_alone_by_the_id_that_it_knows(tmp_path: Path) -> None:
    async with scene(tmp_path) as it, aiohttp.ClientSession() as http:
        one, other = holder(it.here, "one"), holder(it.here, "other")
        made = (await one.modern("tools/call", name="shop__asks", arguments={}, capabilities=TAKES_TASKS)).result
        url, wanted = f"{it.here.base}/mcp", {"taskIds": [made["taskId"]]}
        async with (
            http.post(url, **one.listening(**wanted)) as mine,
            http.post(url, **other.listening(**wanted)) as theirs,
        ):
            assert made["taskId"] in (await mine.content.readany()).decode()
            assert made["taskId"] not in (await theirs.content.readany()).decode()
            cancelled = await one.modern("tasks/cancel", taskId=made["taskId"], capabilities=TAKES_TASKS)
            assert cancelled.status == 200
            text = ""
            while "cancelled" not in text:
                text += (await mine.content.readany()).decode()
            assert made["taskId"] in text


async def test_a_session_follows_its_tasks_by_the_ids_that_it_knows_and_another_token_finds_none(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as it, aiohttp.ClientSession() as http:
        one, other = holder(it.here, "one"), holder(it.here, "other")
        for caller in (one, other):
            assert "tasks" in (await caller.begin()).result["capabilities"]
        made = (await one.legacy("tools/call", name="shop__works", arguments={}, task={})).result["task"]
        assert "~" in made["taskId"]
        async with http.get(f"{it.here.base}/mcp", headers=one.of_session()) as stream:
            assert (await one.legacy("tasks/get", taskId=made["taskId"])).result["taskId"] == made["taskId"]
            listed = (await one.legacy("tasks/list")).result["tasks"]
            assert [task["taskId"] for task in listed] == [made["taskId"]]
            refused = await other.legacy("tasks/get", taskId=made["taskId"])
            assert "not handed out" in refused.error["message"]
            assert (await other.legacy("tasks/list")).result["tasks"] == []
            (known,) = it.tasks.known.values()

            async def is_followed() -> bool:
                return any(known["taskId"] in task_ids for task_ids, _ in it.tasks.streams)

            await eventually(is_followed)
            it.tasks.finish(known, "done")
            text = ""
            while "notifications/tasks/status" not in text:
                text += (await stream.content.readany()).decode()
            assert made["taskId"] in text


async def test_a_cursor_of_one_reach_is_none_of_another(tmp_path: Path) -> None:
    async with served(clock_server()) as wall, served(clock_server()) as wrist:
        specs = [
            ServerSpec(name, HttpTarget(url), ServerScope.SERVICE) for name, url in (("wall", wall), ("wrist", wrist))
        ]
        limits = PageLimits(2)
        async with running_node("one", tmp_path, servers=specs, tokens=tokens(), limits=limits) as node:
            await node.connected("wall", "wrist")
            cursors = {}
            for name in ("one", "narrow"):
                page = (await holder(node, name).modern("tools/list")).result
                cursors[name] = page["nextCursor"]
                following = await holder(node, name).modern("tools/list", cursor=page["nextCursor"])
                assert following.status == 200
            for name, cursor in (("one", cursors["narrow"]), ("narrow", cursors["one"])):
                refused = await holder(node, name).modern("tools/list", cursor=cursor)
                assert "the list has changed" in refused.error["message"]
