"""A wait for a task's result, in loop time, with a server that says what a test says."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.dispatch.call import Forwarded
from agent.errors import MCPError
from agent.model import Json
from agent.routing.table import Replica
from agent.server.sessions.elicitation import AskedClient
from agent.server.sessions.tasks import (
    CANCELLED_MAX,
    LIST_PAGE,
    POLL_MAX_S,
    POLL_MIN_S,
    RESULT_TIMEOUT_S,
    AskedTask,
    TaskTalks,
    listed,
    with_extension,
)
from agent.tasks.ids import announces_tasks

pytestmark = pytest.mark.looptime

FORM: Json = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}


@dataclass
class Server:
    """What the task is at each request; the last state stays."""

    states: list[Json]
    sent: list[tuple[str, Any]] = field(default_factory=list)
    capabilities: Json = field(default_factory=lambda: {"elicitation": {}})
    answer: Callable[[], Json] = lambda: {"action": "accept"}
    thinks_s: float = 0.0
    asked: int = 0
    talks: TaskTalks = field(default_factory=TaskTalks)

    async def send(self, method: str, params: Json) -> Forwarded:
        self.sent.append((method, params.get("inputResponses")))
        state = (self.states.pop(0) if len(self.states) > 1 else self.states[0]) if method == "tasks/get" else {}
        return Forwarded(state, Replica("server:shop", "7", None, ours=True))

    async def ask(self, method: str, params: Json) -> Json:
        assert (method, params["_meta"]) == (
            "elicitation/create",
            {"io.modelcontextprotocol/related-task": {"taskId": "7"}},
        )
        self.asked += 1
        await asyncio.sleep(self.thinks_s)
        return self.answer()

    def task(self) -> AskedTask:
        return AskedTask("7", self.send, AskedClient(self.capabilities, self.ask), self.talks)


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    ("told", "pause_s"), [(None, 1.0), (500, 0.5), (0, POLL_MIN_S), (10**9, POLL_MAX_S), ("soon", 1.0)]
)
async def test_a_task_is_polled_at_the_interval_that_its_server_suggests(told: Any, pause_s: float) -> None:
    server = Server([{"status": "working", "pollIntervalMs": told}, {"status": "completed", "result": {"content": []}}])
    ended = await server.task().result()
    assert ended.result["content"] == []
    assert now_s() == pause_s


async def test_an_input_request_reaches_the_client_once_however_long_the_server_takes_to_notice() -> None:
    asking = {"status": "input_required", "inputRequests": {"a": FORM}}
    more = {"status": "input_required", "inputRequests": {"a": FORM, "b": FORM}}
    server = Server([asking, asking, more, {"status": "completed", "result": {}}])
    await server.task().result()
    answers = [given for method, given in server.sent if method == "tasks/update"]
    assert answers == [{"a": {"action": "accept"}}, {"b": {"action": "accept"}}]


async def test_a_task_that_never_ends_is_waited_for_for_an_hour_and_left() -> None:
    server = Server([{"status": "working", "pollIntervalMs": 30_000}])
    with pytest.raises(MCPError, match="goes on") as late:
        await server.task().result()
    assert (late.value.code, late.value.data["timed_out"]) == (-32001, True)
    assert now_s() == RESULT_TIMEOUT_S
    assert {method for method, _ in server.sent} == {"tasks/get"}


@pytest.mark.parametrize(
    ("task", "code", "text"),
    [
        ({"status": "failed", "error": {"code": 5, "message": "broke", "data": 1}}, 5, "broke"),
        ({"status": "failed"}, -32603, "without a result"),
        ({"status": "failed", "error": {"code": "x", "message": 1}}, -32603, "without a result"),
        ({"status": "completed"}, -32603, "without a result"),
        ({"status": "cancelled"}, -32603, "was cancelled"),
    ],
)
async def test_a_task_without_a_result_ends_in_an_error(task: Json, code: int, text: str) -> None:
    with pytest.raises(MCPError, match=text) as ended:
        await Server([task]).task().result()
    assert ended.value.code == code


async def test_a_client_gets_no_server_request_that_it_did_not_declare() -> None:
    server = Server([{"status": "input_required", "inputRequests": {"a": FORM}}], capabilities={})
    with pytest.raises(MCPError, match="did not declare"):
        await server.task().result()


async def test_of_two_requests_for_a_result_one_uses_the_client_and_both_get_it() -> None:
    asking = {"status": "input_required", "inputRequests": {"a": FORM}}
    server = Server([asking], thinks_s=5.0)

    async def finish() -> None:
        await asyncio.sleep(10.0)  # Its server takes a while to notice the answer.
        server.states[:] = [{"status": "completed", "result": {"content": []}}]

    async with asyncio.TaskGroup() as group:
        results = [group.create_task(server.task().result(), name="result") for _ in range(2)]
        group.create_task(finish(), name="finish")
    assert [done.result().result["content"] for done in results] == [[], []]
    assert server.asked == 1
    assert sum(method == "tasks/update" for method, _ in server.sent) == 1


async def test_when_a_client_refuses_one_request_another_one_may_ask_it_again() -> None:
    server = Server([{"status": "input_required", "inputRequests": {"a": FORM}}])

    def refuse() -> Json:
        raise MCPError(code=-1, message="no")

    server.answer = refuse
    for asked in (1, 2):
        with pytest.raises(MCPError, match="no"):
            await server.task().result()
        assert server.asked == asked


async def test_a_task_that_its_client_cancelled_stays_so_whatever_its_server_makes_of_it() -> None:
    server = Server([{"taskId": "7", "status": "working", "ttlMs": 5}])

    async def hears_of_it() -> None:
        with pytest.raises(MCPError, match="was cancelled"):
            await server.task().result()

    async with asyncio.TaskGroup() as group:
        group.create_task(hears_of_it(), name="result")
        await asyncio.sleep(0.5)  # It waits by now.
        assert await server.task().cancel() == {"taskId": "7", "status": "cancelled", "ttl": 5}
    server.states[:] = [{"taskId": "7", "status": "completed", "ttlMs": 5, "result": {"content": []}}]
    assert await server.task().get() == {"taskId": "7", "status": "cancelled", "ttl": 5}
    with pytest.raises(MCPError, match="was cancelled"):
        await server.task().result()
    with pytest.raises(MCPError, match="has ended"):
        await server.task().cancel()


async def test_a_cancel_that_its_server_refuses_cancels_nothing() -> None:
    server = Server([{"taskId": "7", "status": "working"}])

    async def send(method: str, params: Json) -> Forwarded:
        if method == "tasks/cancel":
            raise MCPError(code=-32601, message="cannot")
        return await server.send(method, params)

    task = AskedTask("7", send, AskedClient({}, server.ask), server.talks)
    with pytest.raises(MCPError, match="cannot"):
        await task.cancel()
    assert (await server.task().get())["status"] == "working"


def test_of_too_many_cancelled_tasks_the_oldest_is_forgotten() -> None:
    talks = TaskTalks()
    for number in range(CANCELLED_MAX + 1):
        talks.note_cancelled(str(number))
    assert [talks.is_cancelled(one) for one in ("0", "1", str(CANCELLED_MAX))] == [False, True, True]


async def test_a_task_that_has_ended_is_not_cancelled() -> None:
    over = Server([{"taskId": "7", "status": "completed", "result": {}}])
    with pytest.raises(MCPError, match="has ended"):
        await over.task().cancel()
    assert [method for method, _ in over.sent] == ["tasks/get"]


def test_a_client_that_wants_a_task_is_one_that_takes_tasks() -> None:
    for capabilities in ({}, {"extensions": {"x": {}}}, {"extensions": None, "roots": {}}):
        assert announces_tasks(with_extension(capabilities))
        assert with_extension(capabilities).keys() >= capabilities.keys()
    assert with_extension({"extensions": {"x": {}}})["extensions"].keys() >= {"x"}


async def test_tasks_are_listed_in_pages_that_go_on_though_servers_forget_tasks() -> None:
    talks = TaskTalks()
    for number in range(3 * LIST_PAGE + 1):
        talks.made({"taskId": str(number), "status": "working"})
    lost = {
        str(LIST_PAGE - 1),
        str(LIST_PAGE),
    }  # The last of a page, which its cursor names, and the first of the next.

    async def now(task_id: str) -> Json:
        if task_id in lost:
            raise MCPError(code=-32602, message="Unknown task")
        return {"taskId": task_id, "status": "completed"}

    seen: list[str] = []
    cursor: object = None
    while True:
        page = await listed(talks, cursor, now)
        seen += [task["taskId"] for task in page["tasks"]]
        assert len(page["tasks"]) <= LIST_PAGE
        assert {task["status"] for task in page["tasks"]} == {"completed"}
        if "nextCursor" not in page:
            break
        cursor = page["nextCursor"]
    assert seen == [str(number) for number in range(3 * LIST_PAGE + 1) if str(number) not in lost]


@pytest.mark.parametrize("cursor", ["x", "", "-1", "99", "1e3", 7, None, "9" * 40])
async def test_a_cursor_that_no_list_gave_is_refused_and_none_is_the_first_page(cursor: object) -> None:
    talks = TaskTalks()
    talks.made({"taskId": "a", "status": "working"})
    if cursor is None:
        assert talks.page(cursor) == ([{"taskId": "a", "status": "working"}], None)
        return
    with pytest.raises(MCPError, match="not one that this list gave"):
        talks.page(cursor)
