"""A client that translates the task requests of 2026-07-28 for a server whose tasks are those of 2025-11-25.

Put by `agent.client.connect` in front of every client of that era. A call with `task` in its params, which dispatch
sets, goes over the shared session, or over that of its caller, if it has one (`agent.client.sessions.router`), and so
does every request about its task, because only that session knows the task. What a task asks comes on the stream of
`tasks/result`, which is opened for it, and is answered by `tasks/update`. The one rule: a refusal of the server passes
unchanged; a task is lost with its session, and the server says so itself.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from agent import clock
from agent.client.affinity import is_of_session
from agent.client.event import Event, within
from agent.client.protocol import McpClient, Request, why_lost
from agent.client.server_info import OnNotification, ServerInfo
from agent.client.sessions.pending_call import PendingResult
from agent.client.streams import TASKS, Updates
from agent.errors import CallFailed, MeshError, RpcError
from agent.lossless_json.raw import exact
from agent.lossless_json.unread import Unread
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import POLL_META_KEY, Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from agent.tasks.ids import ENDED, TASK_METHODS
from agent.tasks.versions import as_modern, without_related_task

# The server sends its request once `tasks/result` waits (MCP 2025-11-25, input required).
SERVER_REQUESTS_TIMEOUT_S: Final = 1.0

# How often a followed task is polled: as its server suggests, within these; and how long one poll may take.
POLL_MIN_S: Final = 0.5
POLL_MAX_S: Final = 15.0
POLL_TIMEOUT_S: Final = 10.0

# Tasks whose questions are open, of one client.
ASKING_MAX: Final = 256

_STATUS: Final = "notifications/tasks/status"


class LegacyTaskClient:
    """As `agent.client.protocol.McpClient`. `keeps_tasks`: its calls share one session, so tasks can be found again."""

    def __init__(self, client: McpClient, *, keeps_tasks: bool) -> None:
        self._client = client
        self._keeps_tasks = keeps_tasks
        self._asking = Asking()

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

    quiet = None

    @property
    def lists_by_session(self) -> bool:
        """As `McpClient.lists_by_session`."""
        return self._client.lists_by_session

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """As `McpClient.hear_sessions`."""
        self._client.hear_sessions(on_news)

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`."""
        await self._client.listen(on_change)

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`; tasks are polled, since servers need not notify of them (MCP 2025-11-25, tasks)."""
        if updates.subject is not TASKS:
            await self._client.follow(updates)
            return
        updates.grant(updates.names)
        seen: dict[str, Json | None] = dict.fromkeys(updates.names)
        while seen and not self.lost.is_set():
            pause_s = POLL_MAX_S
            for task_id, before in tuple(seen.items()):
                pause_s = min(pause_s, await self._poll(updates, task_id, before, seen))
            await within(self.lost, pause_s)
        await self.lost.wait()
        raise why_lost(self)

    async def _poll(self, updates: Updates, task_id: str, before: Json | None, seen: dict[str, Json | None]) -> float:
        """Look at one followed task, and report it where it has changed; returns seconds until the next time."""
        deadline_s = clock.now_s() + POLL_TIMEOUT_S
        try:
            task = exact(await _TaskRequest(self._client, task_id, deadline_s, self._asking).answer("tasks/get"))
        except RpcError:
            del seen[task_id]
            return POLL_MAX_S
        except MeshError:
            return POLL_MAX_S
        if task != before:
            seen[task_id] = task
            updates.updated(task_id, task)
        if task.get("status") in ENDED:
            del seen[task_id]
        wanted_ms = task.get("pollIntervalMs")
        wanted_s = wanted_ms / 1000 if isinstance(wanted_ms, int | float) else POLL_MIN_S
        return min(max(wanted_s, POLL_MIN_S), POLL_MAX_S)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        await self._client.probe(timeout_s)

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; the result may be a task of 2026-07-28."""
        params, on_notification = request.params, request.on_notification
        if request.method in TASK_METHODS and params is not None:
            task = _TaskRequest(self._client, params["taskId"], request.deadline_s, self._asking)
            return await task.answer(request.method, params.get("inputResponses"))
        if on_notification is not None:
            request = replace(request, on_notification=_without_status(on_notification))
        if request.method == "tools/call" and params is not None and "task" in params:
            own = is_of_session(request.affinity)
            sent = replace(request, sink=None) if own else replace(request, sink=None, affinity=None)
            return _created(
                await self._client.request(sent if own else replace(sent, params=_without_features(params)))
            )
        return await self._client.request(request)


class Asking:
    """What tasks ask: the open `tasks/result` of each, as a pending call. Sole writer: the requests about tasks."""

    def __init__(self) -> None:
        self._pending: dict[str, Json] = {}  # By task, the oldest first.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Asking {len(self._pending)} tasks>"

    def turn(self, task_id: str) -> asyncio.Lock:
        """Held by the one request that may look at what a task asks."""
        turn = self._turns.get(task_id)
        if turn is None:
            turn = self._turns[task_id] = asyncio.Lock()
        return turn

    def note(self, task_id: str, result: Json) -> Json:
        """Take an answer to `tasks/result`, and return it: it is pending, perhaps with questions, or has ended."""
        self._pending.pop(task_id, None)
        if isinstance(result, PendingResult):
            self._pending[task_id] = result
            if len(self._pending) > ASKING_MAX:
                del self._pending[next(iter(self._pending))]
        return result

    def forget(self, task_id: str) -> None:
        """There is no open `tasks/result` any more."""
        self._pending.pop(task_id, None)

    def of(self, task_id: str) -> Json:
        """The open `tasks/result` of a task as an `input_required` result; empty when there is none."""
        return self._pending.get(task_id, {})


class _TaskRequest:
    """One request about one task, within one deadline."""

    def __init__(self, client: McpClient, task_id: str, deadline_s: float, asking: Asking) -> None:
        self._client = client
        self._task_id = task_id
        self._params = {"taskId": task_id}
        self._deadline_s = deadline_s
        self._asking = asking

    async def answer(self, method: str, responses: object = None) -> Json:
        """The result of a request of 2026-07-28. `responses`: the `inputResponses` of an update."""
        match method:
            case "tasks/get":
                return await self._whole()
            case "tasks/cancel":
                await self._cancel()
            case _:
                await self._update(responses)
        return {}

    async def _whole(self) -> Json:
        task = await self._send("tasks/get")
        if task.get("status") == "input_required":
            async with self._asking.turn(self._task_id):
                await self._look()
            if questions := self._asking.of(self._task_id).get("inputRequests"):
                return {**as_modern(task), "status": "input_required", "inputRequests": questions}
            task = await self._send("tasks/get")
        task = as_modern(task)
        match task.get("status"):
            case "completed":
                return {**task, "result": await self._result()}
            case "failed":  # Also the status of a tool whose result has `isError`.
                return {**task, **await self._failure(task)}
            case _:
                return task

    async def _look(self, responses: Json | Unread | None = None) -> None:
        """Look what the task asks, on the stream of its `tasks/result`, which stays open; with answers to pass on."""
        open_one = self._asking.of(self._task_id)
        more: Json = {"requestState": open_one["requestState"]} if open_one else {}
        if responses is not None:
            more["inputResponses"] = responses
        elif open_one:
            more["_meta"] = {POLL_META_KEY: True}
        try:
            answer = await self._send("tasks/result", SERVER_REQUESTS_TIMEOUT_S, more)
        except (CallFailed, RpcError):
            self._asking.forget(self._task_id)
        else:
            self._asking.note(self._task_id, answer)

    async def _update(self, responses: object) -> None:
        """Pass answers on; those to unknown questions are to be ignored (MCP 2026-07-28, tasks)."""
        if not isinstance(responses, dict | Unread) or not self._asking.of(self._task_id):
            await self._send("tasks/get")
            return
        async with self._asking.turn(self._task_id):
            if self._asking.of(self._task_id):
                await self._look(responses)

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
        state = self._asking.of(self._task_id).get("requestState")
        self._asking.forget(self._task_id)
        return without_related_task(
            exact(await self._send("tasks/result", more={"requestState": state} if state else None))
        )

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

    async def _send(self, method: str, timeout_s: float = math.inf, more: Json | None = None) -> Json:
        deadline_s = min(self._deadline_s, clock.now_s() + timeout_s)
        return exact(await self._client.request(Request(method, {**self._params, **(more or {})}, deadline_s)))


def _created(result: Json) -> Json:
    """The result of a call that was to be a task; a server may still have answered with an ordinary result."""
    task = result.get("task")
    if not isinstance(task, dict):
        return result
    meta = without_related_task(result).get("_meta")
    made = {"resultType": "task", **as_modern(task)}
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
