"""Clients of 2025-11-25 that call tools as tasks: of stateless servers, of servers with sessions, one hop and two."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.client.protocol import Request
from agent.model import Era, Json
from tests.integration import test_session_tasks as sessions
from tests.integration import test_tasks as stateless
from tests.integration.servers.nodes import client
from tests.integration.servers.raw_session import RawSession, messages, raw_session, request
from tests.integration.servers.session_task_server import SessionTasks
from tests.integration.servers.task_server import LARGE
from tests.waiting import UNREPAIRED_S

pytestmark = pytest.mark.usefixtures("warm_servers")

VERSION = "2025-11-25"
CAPABILITY: Json = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
RELATED = "io.modelcontextprotocol/related-task"


@asynccontextmanager
async def session(url: str, **capabilities: Any) -> AsyncIterator[RawSession]:
    async with asyncio.timeout(UNREPAIRED_S), raw_session(url, VERSION, **capabilities) as opened:
        yield opened


async def result(answer: Awaitable[Json]) -> Json:
    message = await answer
    assert "error" not in message, message
    known: Json = message["result"]
    return known


async def error(answer: Awaitable[Json]) -> Json:
    message = await answer
    assert "result" not in message, message
    known: Json = message["error"]
    return known


def called(mcp: RawSession, tool: str, **arguments: Any) -> Awaitable[Json]:
    return mcp.request("tools/call", {"name": tool, "arguments": arguments, "task": {"ttl": 60_000}})


def asked(mcp: RawSession, method: str, task: Json) -> Awaitable[Json]:
    return mcp.request(method, {"taskId": task["taskId"]})


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_task_of_a_stateless_server_is_followed_and_its_result_is_exact(hops: int, tmp_path: Path) -> None:
    async with stateless.scene(tmp_path, hops) as it, session(it.front.url) as mcp:
        task = (await result(called(mcp, "shop__works", task_id="1")))["task"]
        now = await result(asked(mcp, "tasks/get", task))
        assert {member: value for member, value in now.items() if member != "_meta"} == task
        assert task.keys() == {"taskId", "status", "createdAt", "lastUpdatedAt", "ttl", "pollInterval"}
        for place in it.places:
            if "1" in place.tasks.known:
                place.tasks.finish(place.tasks.known["1"], "done")
        assert (await result(asked(mcp, "tasks/get", task)))["status"] == "completed"
        async with mcp.post(request("tasks/result", {"taskId": task["taskId"]})) as response:
            body = await response.read()
        assert f'"large":{LARGE}'.encode() in body
        ended = json.loads(body)["result"]
        assert ended["content"][1]["uri"] == "notes://shop/home"
        assert ended["_meta"][RELATED] == {"taskId": task["taskId"]}
        assert ended.keys() == {"content", "structuredContent", "isError", "_meta"}


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_that_waits_for_a_result_is_asked_what_the_task_asks_and_gets_it(
    hops: int, tmp_path: Path
) -> None:
    async with stateless.scene(tmp_path, hops) as it, session(it.front.url, elicitation={}) as mcp:
        task = (await result(called(mcp, "shop__asks")))["task"]
        assert task["status"] == "input_required"
        async with mcp.post(request("tasks/result", {"taskId": task["taskId"]})) as response:
            stream = messages(response)
            question = await anext(stream)
            assert question["method"] == "elicitation/create"
            assert question["params"]["_meta"] == {RELATED: {"taskId": task["taskId"]}}
            await mcp.reply(question, result={"action": "accept", "content": {"branch": "main"}})
            ended = await anext(stream)
        assert ended["result"]["content"][0]["text"].startswith("main at ")


async def test_a_task_is_left_as_it_is_when_its_client_refuses_or_cannot_be_asked(tmp_path: Path) -> None:
    async with stateless.scene(tmp_path, 1) as it, session(it.front.url, elicitation={}) as mcp:
        task = (await result(called(mcp, "shop__asks")))["task"]
        async with mcp.post(request("tasks/result", {"taskId": task["taskId"]})) as response:
            stream = messages(response)
            await mcp.reply(await anext(stream), error={"code": -1, "message": "not now"})
            refused = await anext(stream)
        assert refused["error"]["code"] == -1
        async with session(it.front.url) as other:
            assert (await error(asked(other, "tasks/result", task)))["code"] == -32602
            assert (await result(asked(other, "tasks/get", task)))["status"] == "input_required"


async def test_a_wait_for_a_result_ends_with_the_clients_word_and_the_task_goes_on(tmp_path: Path) -> None:
    async with stateless.scene(tmp_path, 1) as it, session(it.front.url) as mcp:
        task = (await result(called(mcp, "shop__works", task_id="1")))["task"]
        tasks = it.places[0].tasks
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(cancelled(mcp, task), name="wait for a result")
            await tasks.looked_at.wait()
            await mcp.note("notifications/cancelled", {"requestId": 77})
        assert waiting.result() == []
        assert (await result(asked(mcp, "tasks/get", task)))["status"] == "working"


async def cancelled(mcp: RawSession, task: Json) -> list[Json]:
    async with mcp.post(request("tasks/result", {"taskId": task["taskId"]}, 77)) as response:
        return [message async for message in messages(response)] if response.content_type != "application/json" else []


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_task_is_cancelled_once(hops: int, tmp_path: Path) -> None:
    async with stateless.scene(tmp_path, hops) as it, session(it.front.url) as mcp:
        task = (await result(called(mcp, "shop__works")))["task"]
        assert (await result(asked(mcp, "tasks/cancel", task)))["status"] == "cancelled"
        assert (await error(asked(mcp, "tasks/cancel", task)))["code"] == -32602
        assert "cancelled" in (await error(asked(mcp, "tasks/result", task)))["message"]


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_a_server_answers_at_once_is_a_task_of_this_session_alone(hops: int, tmp_path: Path) -> None:
    async with stateless.scene(tmp_path, hops) as it, session(it.front.url) as mcp:
        task = (await result(called(mcp, "shop__at_once")))["task"]
        assert task["status"] == "working"
        assert (await result(asked(mcp, "tasks/get", task)))["status"] == "completed"
        ended = await result(asked(mcp, "tasks/result", task))
        assert ended["content"][0]["text"].endswith("without a task")
        assert ended["_meta"][RELATED] == {"taskId": task["taskId"]}
        assert (await error(asked(mcp, "tasks/cancel", task)))["code"] == -32602
        async with session(it.front.url) as other:
            assert (await error(asked(other, "tasks/get", task)))["code"] == -32602


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_a_task_of_a_server_with_sessions_is_the_same(kind: str, hops: int, tmp_path: Path) -> None:
    async with (
        sessions.backend(kind, SessionTasks()) as spec,
        sessions.scene(tmp_path, spec, hops) as node,
        session(node.url) as mcp,
    ):
        for tool in ("must", "may"):
            made = await result(called(mcp, f"jobs__{tool}", task_id=tool))
            task = made["task"]
            assert (task["ttl"], task["pollInterval"], made["_meta"]) == (60_000, 100, {"x": 1})
            plain = {"name": "jobs__finish", "arguments": {"task_id": tool}}
            await result(mcp.request("tools/call", plain))
            assert (await result(asked(mcp, "tasks/get", task)))["status"] == "completed"
            ended = await result(asked(mcp, "tasks/result", task))
            assert ended["content"][0]["text"] == f"{tool} at here"
            assert ended["_meta"] == {RELATED: {"taskId": task["taskId"]}}
            unknown = await error(asked(mcp, "tasks/get", {"taskId": task["taskId"] + "0"}))
            assert (unknown["code"], unknown["message"]) == (-32602, "no such task at here")


async def test_the_error_of_a_task_is_the_answer_to_the_request_for_its_result(tmp_path: Path) -> None:
    async with (
        sessions.backend("http", SessionTasks()) as spec,
        sessions.scene(tmp_path, spec) as node,
        session(node.url) as mcp,
    ):
        broke = {"code": -32603, "message": "broke", "data": {"why": 1}}
        outcomes: list[Json] = [broke, {"content": [], "isError": True}]
        answers = []
        for number, outcome in enumerate(outcomes):
            task = (await result(called(mcp, "jobs__must", task_id=str(number))))["task"]
            finish = {"task_id": str(number), "status": "failed", **outcome}
            await result(mcp.request("tools/call", {"name": "jobs__finish", "arguments": finish}))
            assert (await result(asked(mcp, "tasks/get", task)))["status"] == "failed"
            answers.append(await asked(mcp, "tasks/result", task))
        assert answers[0]["error"] == broke
        assert answers[1]["result"]["isError"] is True


async def test_what_is_no_task_is_refused_as_that_version_has_it(tmp_path: Path) -> None:
    async with (
        sessions.backend("http", SessionTasks()) as spec,
        sessions.scene(tmp_path, spec) as node,
        session(node.url) as mcp,
    ):
        for tool, code in {"list_mcp_servers": -32601, "jobs__unknown": -32602}.items():
            assert (await error(called(mcp, tool)))["code"] == code
        assert (await error(mcp.request("tasks/list", {"cursor": "nowhere"})))["code"] == -32602
        assert (await error(mcp.request("tasks/get", {"taskId": 1})))["code"] == -32602
        assert (await error(mcp.request("tasks/get", {"taskId": "mesh1/held/nobody"})))["code"] == -32602


async def test_tasks_are_announced_to_clients_that_can_know_them_while_there_are_any(tmp_path: Path) -> None:
    async with sessions.backend("http", SessionTasks()) as spec, sessions.scene(tmp_path, spec) as node:
        async with client(node.url, Era.LEGACY) as mcp:
            assert mcp.server_info.capabilities["tasks"] == CAPABILITY
        async with raw_session(node.url, "2025-06-18") as older:
            task = {"name": "jobs__may", "arguments": {}, "task": {"ttl": 1}}
            assert (await result(older.request("tools/call", task)))["content"][0]["text"] == "may at once at here"
            assert (await error(older.request("tasks/get", {"taskId": "1"})))["code"] == -32601


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_tool_of_a_stateless_server_is_listed_as_one_that_may_be_a_task(hops: int, tmp_path: Path) -> None:
    async with stateless.scene(tmp_path, hops) as it:
        await it.front.when(lambda: any(view.has_tasks for view in it.front.mesh.views()))
        shown = {}
        for era in Era:
            async with client(it.front.url, era) as mcp:
                tools = (await mcp.request(Request.within("tools/list", {}, timeout_s=5)))["tools"]
                shown[era] = {tool["name"]: tool for tool in tools}
        assert shown[Era.LEGACY].keys() == shown[Era.MODERN].keys()
        for name, tool in shown[Era.LEGACY].items():
            support = tool.pop("execution", {}).get("taskSupport")
            assert support == ("optional" if name.startswith("shop__") else None), name
            assert tool == shown[Era.MODERN][name]


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_a_task_of_a_server_with_sessions_asks_is_put_to_its_client(hops: int, tmp_path: Path) -> None:
    async with (
        sessions.backend("http", SessionTasks()) as spec,
        sessions.scene(tmp_path, spec, hops) as node,
        session(node.url, elicitation={}) as mcp,
    ):
        task = (await result(called(mcp, "jobs__must", asks=True)))["task"]
        async with mcp.post(request("tasks/result", {"taskId": task["taskId"]})) as response:
            stream = messages(response)
            question = await anext(stream)
            assert (question["method"], question["params"]["message"]) == ("elicitation/create", "Which branch?")
            assert question["params"]["_meta"] == {RELATED: {"taskId": task["taskId"]}}
            await mcp.reply(question, result={"action": "accept", "content": {"branch": "main"}})
            ended = await anext(stream)
        assert "main" in ended["result"]["content"][0]["text"]


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_a_task_asks_of_a_model_is_answered_by_its_clients(hops: int, tmp_path: Path) -> None:
    async with (
        sessions.backend("http", SessionTasks()) as spec,
        sessions.scene(tmp_path, spec, hops) as node,
        session(node.url, sampling={}) as mcp,
    ):
        task = (await result(called(mcp, "jobs__must", asks="model")))["task"]
        async with mcp.post(request("tasks/result", {"taskId": task["taskId"]})) as response:
            stream = messages(response)
            question = await anext(stream)
            assert question["method"] == "sampling/createMessage"
            assert question["params"]["messages"][0]["content"]["text"] == "A name?"
            said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Ada"}}
            await mcp.reply(question, result=said)
            ended = await anext(stream)
        assert "Ada" in ended["result"]["content"][0]["text"]


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", ["stateless", "session"])
async def test_a_session_lists_its_own_tasks_and_hears_how_they_stand(kind: str, hops: int, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        if kind == "stateless":
            it = await stack.enter_async_context(stateless.scene(tmp_path, hops))
            url, tool = it.front.url, "shop__works"
        else:
            spec = await stack.enter_async_context(sessions.backend("http", SessionTasks()))
            url, tool = (await stack.enter_async_context(sessions.scene(tmp_path, spec, hops))).url, "jobs__must"
        mcp = await stack.enter_async_context(session(url))
        listening = await stack.enter_async_context(mcp.listen())
        made = [(await result(called(mcp, tool, task_id=str(number))))["task"] for number in range(2)]
        listed = (await result(mcp.request("tasks/list", {})))["tasks"]
        assert [task["taskId"] for task in listed] == [task["taskId"] for task in made]
        assert listed[0].keys() >= {"taskId", "status", "createdAt", "lastUpdatedAt", "ttl"}
        other = await stack.enter_async_context(session(url))
        assert (await result(other.request("tasks/list", {})))["tasks"] == []
        if kind == "stateless":
            for place in it.places:
                if "1" in place.tasks.known:
                    place.tasks.finish(place.tasks.known["1"], "done")
        else:
            await result(mcp.request("tools/call", {"name": "jobs__finish", "arguments": {"task_id": "1"}}))
        async for message in messages(listening):
            assert message["method"] == "notifications/tasks/status"
            if message["params"]["status"] == "completed":
                break
        assert message["params"]["taskId"] == made[1]["taskId"]
        assert "result" not in message["params"]
        assert [task["status"] for task in (await result(mcp.request("tasks/list", {})))["tasks"]] == [
            "working",
            "completed",
        ]
        if kind == "session":
            raised = {"task_id": "0", "status": "failed", "says": "disk full"}
            await result(mcp.request("tools/call", {"name": "jobs__finish", "arguments": raised}))
            assert (await result(asked(mcp, "tasks/get", made[0])))["status"] == "failed"
            assert (await error(asked(mcp, "tasks/result", made[0])))["message"] == "disk full"
