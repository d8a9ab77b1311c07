"""Requests about tasks of a server with sessions, in loop time, over a client whose other side a test plays."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.client.event import Event
from agent.client.legacy_tasks import SERVER_REQUESTS_TIMEOUT_S, LegacyTaskClient
from agent.client.protocol import Request
from agent.client.server_info import ServerInfo
from agent.errors import CallNotSent, CallTimedOut, RpcError
from agent.model import Era, Json

pytestmark = pytest.mark.looptime

ANNOUNCED: Json = {"cancel": {}, "requests": {"tools": {"call": {}}}}
Answer = Callable[[], Awaitable[Json]]


async def never() -> Json:
    await Event().wait()
    raise AssertionError("no test raises that flag")


class Server:
    """A `McpClient` that answers each method as told; the last answer stays. `sent`: what it was asked, and when."""

    def __init__(self, **answers: list[Json | Answer | RpcError]) -> None:
        capabilities: Json = {"tools": {}, "tasks": ANNOUNCED}
        self.server_info = ServerInfo(Era.LEGACY, "2025-11-25", capabilities, {}, None, None)
        self.lost = Event()
        self.lost_reason = self.lost_what = ""
        self.sent: list[tuple[str, Json | None]] = []
        self._answers = answers

    async def request(self, request: Request) -> Json:
        method, told = request.method, request.on_notification
        self.sent.append((method, request.params))
        if request.left_s() <= 0:
            raise CallNotSent("no time is left")
        if told is not None:
            await told("notifications/tasks/status", {"taskId": "7"})
            await told("notifications/message", {"data": "x"})
        known = self._answers[method.rpartition("/")[2]]
        answer = known.pop(0) if len(known) > 1 else known[0]
        try:
            async with asyncio.timeout_at(request.deadline_s):
                if isinstance(answer, RpcError):
                    raise answer
                return await answer() if callable(answer) else answer
        except TimeoutError as exc:
            raise CallTimedOut(method) from exc

    def client(self, *, keeps_tasks: bool = True) -> LegacyTaskClient:
        return LegacyTaskClient(self, keeps_tasks=keeps_tasks)  # type: ignore[arg-type]  # it is only asked and looked at

    async def asked(self, method: str, timeout_s: float = 10.0) -> Json:
        return await self.client().request(
            Request.within(method, {"taskId": "7", "_meta": {"x": 1}}, timeout_s=timeout_s)
        )

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.sent]


async def test_a_task_that_waits_for_its_client_gets_a_second_for_its_request_and_works_then() -> None:
    server = Server(get=[{"taskId": "7", "status": "input_required", "ttl": 5}], result=[never])
    told = await server.asked("tasks/get")
    assert told == {"taskId": "7", "status": "working", "ttlMs": 5}
    assert asyncio.get_running_loop().time() == SERVER_REQUESTS_TIMEOUT_S
    assert server.methods == ["tasks/get", "tasks/result", "tasks/get"]
    assert [params for _, params in server.sent] == [{"taskId": "7"}] * 3


async def test_all_server_requests_of_a_call_share_one_deadline() -> None:
    async def slow() -> Json:
        await asyncio.sleep(3)
        return {"taskId": "7", "status": "completed"}

    server = Server(get=[slow], result=[never])
    with pytest.raises(CallTimedOut):
        await server.asked("tasks/get", timeout_s=5)
    assert asyncio.get_running_loop().time() == 5


async def test_a_result_that_is_gone_is_the_servers_error_and_the_error_of_a_failed_task_is_its_outcome() -> None:
    gone = RpcError(-32602, "no such task")
    completed = Server(get=[{"taskId": "7", "status": "completed"}], result=[gone])
    with pytest.raises(RpcError, match="no such task"):
        await completed.asked("tasks/get")
    failed = Server(get=[{"taskId": "7", "status": "failed"}], result=[RpcError(5, "broke")])
    assert (await failed.asked("tasks/get"))["error"] == {"code": 5, "message": "broke"}


async def test_a_failed_task_without_a_result_has_its_status_message_as_error() -> None:
    told = {"taskId": "7", "status": "failed", "statusMessage": "disk full"}
    of_sdk_1 = {"_meta": {"io.modelcontextprotocol/related-task": {"taskId": "7"}}}
    failed = await Server(get=[told], result=[of_sdk_1]).asked("tasks/get")
    assert (failed["status"], failed["error"]) == ("failed", {"code": -32603, "message": "disk full"})
    assert "result" not in failed
    of_tool = {"content": [], "isError": True}
    ended = await Server(get=[told], result=[of_tool]).asked("tasks/get")
    assert (ended["status"], ended["result"]) == ("completed", of_tool)


async def test_a_call_is_made_as_a_task_only_by_its_word_and_over_the_session_that_declares_nothing() -> None:
    meta = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}, "progressToken": 1}
    server = Server(call=[{"task": {"taskId": "7", "status": "working"}}])
    made = await server.client().request(
        Request.within("tools/call", {"name": "a", "task": {}, "_meta": meta}, timeout_s=5)
    )
    assert made == {"resultType": "task", "taskId": "7", "status": "working", "ttlMs": None}
    plain = await server.client().request(Request.within("tools/call", {"name": "a", "_meta": meta}, timeout_s=5))
    assert plain == {"task": {"taskId": "7", "status": "working"}}, "a result may have such a member"
    assert [params["_meta"] for _, params in server.sent if params] == [{"progressToken": 1}, meta]


async def test_an_answer_at_once_to_a_call_that_was_to_be_a_task_is_its_answer() -> None:
    server = Server(call=[{"content": []}])
    assert await server.client().request(Request.within("tools/call", {"name": "a", "task": {}}, timeout_s=5)) == {
        "content": []
    }


async def test_status_notifications_with_the_servers_own_task_ids_reach_no_client() -> None:
    told: list[str] = []

    async def hear(method: str, _params: Json) -> None:
        told.append(method)

    server = Server(call=[{}])
    await server.client().request(Request.within("tools/call", {"name": "a"}, timeout_s=5, on_notification=hear))
    assert told == ["notifications/message"]


async def test_a_client_whose_calls_share_no_session_announces_no_tasks() -> None:
    server = Server()
    assert server.client().server_info is server.server_info
    assert server.client().server_info.has_tasks
    own = server.client(keeps_tasks=False).server_info
    assert (own.has_tasks, own.capabilities) == (False, {"tools": {}})
