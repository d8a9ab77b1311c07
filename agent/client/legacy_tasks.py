"""A client that translates the task requests of 2026-07-28 for a server whose tasks are those of 2025-11-25.

Put by `agent.client.connect` in front of every client of that era. A call with `task` in its params, which dispatch
sets, goes over the shared session, and so does every request about its task, because only that session knows the task.
It declares no capabilities, so such a call can make no server requests. The one rule: a refusal of the server passes
unchanged; a task is lost with its session, and the server says so itself.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent import clock
from agent.client.event import Event
from agent.client.protocol import McpClient, Request
from agent.client.server_info import OnNotification, ServerInfo
from agent.client.streams import Updates
from agent.errors import CallFailed, RpcError
from agent.lossless_json.raw import exact
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from agent.tasks.ids import TASK_METHODS
from agent.tasks.versions import as_now, unrelated

# The server sends its request once `tasks/result` waits (MCP 2025-11-25, input required); we refuse it at once.
SERVER_REQUESTS_TIMEOUT_S: Final = 1.0

_STATUS: Final = "notifications/tasks/status"


class LegacyTaskClient:
    """As `agent.client.protocol.McpClient`. `keeps_tasks`: its calls share one session, so tasks can be found again."""

    def __init__(self, client: McpClient, *, keeps_tasks: bool) -> None:
        self._client = client
        self._keeps_tasks = keeps_tasks

    def __repr__(self) -> str:
        return f"<LegacyTaskClient {self._client!r}>"

    @property
    def server_info(self) -> ServerInfo:
        """As `McpClient.server_info`; no tasks are announced that could not be found again."""
        server_info = self._client.server_info
        if self._keeps_tasks or "tasks" not in server_info.capabilities:
            return server_info
        return replace(server_info, capabilities={k: v for k, v in server_info.capabilities.items() if k != "tasks"})

    @property
    def lost(self) -> Event:
        """As `McpClient.lost`."""
        return self._client.lost

    @property
    def lost_reason(self) -> str:
        """As `McpClient.lost_reason`."""
        return self._client.lost_reason

    @property
    def lost_what(self) -> str:
        """As `McpClient.lost_what`."""
        return self._client.lost_what

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`."""
        await self._client.listen(on_change)

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`; there are no updates of tasks."""
        await self._client.follow(updates)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        await self._client.probe(timeout_s)

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; the result may be a task of 2026-07-28."""
        params, on_notification = request.params, request.on_notification
        if request.method in TASK_METHODS and params is not None:
            return await _TaskRequest(self._client, params["taskId"], request.deadline_s).answer(request.method)
        if on_notification is not None:
            request = replace(request, on_notification=_without_status(on_notification))
        if request.method == "tools/call" and params is not None and "task" in params:
            return _created(await self._client.request(replace(request, params=_without_features(params), sink=None)))
        return await self._client.request(request)


class _TaskRequest:
    """One request about one task, within one deadline."""

    def __init__(self, client: McpClient, task_id: str, deadline_s: float) -> None:
        self._client = client
        self._params = {"taskId": task_id}
        self._deadline_s = deadline_s

    async def answer(self, method: str) -> Json:
        """The result of a request of 2026-07-28."""
        match method:
            case "tasks/get":
                return await self._whole()
            case "tasks/cancel":
                await self._cancel()
            case _:  # There are no input requests; answers to unknown ones are to be ignored (MCP 2026-07-28, tasks).
                await self._send("tasks/get")
        return {}

    async def _whole(self) -> Json:
        task = await self._send("tasks/get")
        if task.get("status") == "input_required":
            with contextlib.suppress(CallFailed, RpcError):
                await self._send("tasks/result", SERVER_REQUESTS_TIMEOUT_S)
            task = await self._send("tasks/get")
        task = as_now(task)
        match task.get("status"):
            case "completed":
                return {**task, "result": await self._result()}
            case "failed":  # Also the status of a tool whose result has `isError`.
                return {**task, **await self._failure(task)}
            case _:
                return task

    async def _failure(self, task: Json) -> Json:
        """What a failed task adds: the result of its tool, else an error."""
        try:
            result = await self._result()
        except RpcError as exc:
            error = {"code": exc.code, "message": exc.message}
            return {"error": error if exc.data is None else {**error, "data": exc.data}}
        if "content" in result:
            return {"status": "completed", "result": result}
        # The Python SDK 1 has no result of a tool that raised, only the words in the task's status.
        said = task.get("statusMessage")
        return {"error": {"code": INTERNAL_ERROR, "message": said if isinstance(said, str) else "The task failed"}}

    async def _result(self) -> Json:
        return unrelated(exact(await self._send("tasks/result")))

    async def _cancel(self) -> None:
        tasks = self._client.server_info.capabilities.get("tasks")
        if not isinstance(tasks, dict) or not isinstance(tasks.get("cancel"), dict):
            raise RpcError(METHOD_NOT_FOUND, "The server cannot cancel tasks")
        try:
            await self._send("tasks/cancel")
        except RpcError as exc:
            if exc.code != INVALID_PARAMS:
                raise
            await self._send("tasks/get")  # One that has ended is no error now; one that is unknown still is.

    async def _send(self, method: str, timeout_s: float = math.inf) -> Json:
        deadline_s = min(self._deadline_s, clock.now_s() + timeout_s)
        return exact(await self._client.request(Request(method, self._params, deadline_s)))


def _created(result: Json) -> Json:
    """The result of a call that was to be a task; a server may still have answered with an ordinary result."""
    task = result.get("task")
    if not isinstance(task, dict):
        return result
    meta = unrelated(result).get("_meta")
    made = {"resultType": "task", **as_now(task)}
    return made if meta is None else {**made, "_meta": meta}


def _without_features(params: Json) -> Json:
    """Without the client capabilities, which are of no use to a task and would give its call a dedicated session."""
    meta = params.get("_meta") or {}
    return {**params, "_meta": {name: value for name, value in meta.items() if name != CLIENT_CAPABILITIES_META_KEY}}


def _without_status(on_notification: OnNotification) -> OnNotification:
    """Drop status notifications: such servers send them on any stream, with IDs that no caller knows."""

    async def hand_on(method: str, params: Json) -> None:
        if method != _STATUS:
            await on_notification(method, params)

    return hand_on
