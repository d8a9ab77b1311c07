"""What a client of 2025-11-25 asks about a task, in the words of 2026-07-28, in which its server is asked.

Called by `agent.api.legacy_requests`. `tasks/result` waits: it asks how the task stands at the interval that the server
suggests, and puts what the task asks to the client, on the stream of that very request. The one rule: the client is
asked only what it declared, and a task is left as it is when its client refuses, goes or is not answered in time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from agent.api.questions import AskedClient, questions_for
from agent.api.task_talks import Talk, TaskTalks
from agent.core.raw_json import exact
from agent.core.route_table import Route
from agent.core.task_eras import as_before, related, task_support
from agent.core.tasks import ENDED, TAKES_TASKS
from agent.dispatch import Forwarded
from agent.errors import OUTCOME_UNKNOWN
from agent.model import TASKS_EXTENSION, Json

TASK_REQUESTS: Final = frozenset({"tasks/get", "tasks/result", "tasks/cancel"})
# The only version with a session that knows tasks.
VERSION: Final = "2025-11-25"
# What is announced at `initialize`. Nobody's tasks can be listed: an ID is the key to a task, and servers have no list.
CAPABILITY: Final[Json] = {"cancel": {}, "requests": {"tools": {"call": {}}}}
# A client that left without a word is asked for so long; another request for the result may follow.
RESULT_TIMEOUT_S: Final = 3_600.0
POLL_S: Final = 1.0
POLL_MIN_S: Final = 0.1
POLL_MAX_S: Final = 30.0

# Sends a request about the task; raises `MCPError`.
Send: TypeAlias = Callable[[str, Json], Awaitable[Forwarded]]


def with_extension(capabilities: Json) -> Json:
    """A client's capabilities as those of one that takes tasks."""
    extensions = capabilities.get("extensions")
    known = extensions if isinstance(extensions, dict) else {}
    return {**capabilities, "extensions": {**known, TASKS_EXTENSION: {}}}


def may_be_task(route: Route, *, has_tasks: bool) -> bool:
    """Whether a tool may be called as a task; one of 2026-07-28 does not say, so it may where its backend has any."""
    support = task_support(route.definition)
    return has_tasks if support is None else support in ("required", "optional")


def created(task: Json) -> Json:
    """The result of a call that was answered with a task."""
    made = {"task": as_before({member: value for member, value in task.items() if member != "_meta"})}
    return made if "_meta" not in task else {**made, "_meta": task["_meta"]}


class AskedTask:
    """One task as one request asks about it. `client`: who asks, and what it can be asked; `talks`: its session's."""

    def __init__(self, task_id: str, send: Send, client: AskedClient, talks: TaskTalks) -> None:
        self._params: Json = {"taskId": task_id, "_meta": TAKES_TASKS}
        self._task_id = task_id
        self._send = send
        self._client = client
        self._talks = talks

    async def get(self) -> Json:
        """The result of `tasks/get`. Raises `MCPError`, as the others do."""
        return as_before((await self._now()).result)

    async def cancel(self) -> Json:
        """The result of `tasks/cancel`: the task, which is cancelled for its client, though its server may go on."""
        task = (await self._now()).result
        if task.get("status") in ENDED:
            raise MCPError(code=INVALID_PARAMS, message="The task has ended, and cannot be cancelled")
        await self._send("tasks/cancel", self._params)
        self._talks.note_cancelled(self._task_id)
        return as_before({**task, "status": "cancelled"})

    async def result(self) -> Forwarded:
        """What the call would have been answered, once the task has ended."""
        try:
            async with asyncio.timeout(RESULT_TIMEOUT_S):
                return await self._ended()
        except TimeoutError as exc:
            text = f"The task has not ended within {RESULT_TIMEOUT_S:g} s; it goes on, ask for its result again"
            raise MCPError(code=OUTCOME_UNKNOWN, message=text, data={"outcome": "unknown", "timed_out": True}) from exc

    async def _ended(self) -> Forwarded:
        talk = self._talks.about(self._task_id)
        while True:
            forwarded = await self._now()
            task = forwarded.result
            match task.get("status"):
                case "completed" if isinstance(result := exact(task).get("result"), dict):
                    return Forwarded(related(result, self._task_id), forwarded.replica)
                case "failed" | "completed" | "cancelled":
                    raise _failure(task)
                case "input_required" if await self._put(task, talk):
                    pass
                case _:
                    await asyncio.sleep(_pause_s(task))

    async def _now(self) -> Forwarded:
        """The task as it is; one that its client cancelled stays so, whatever comes of it (MCP 2025-11-25, tasks)."""
        now = await self._send("tasks/get", self._params)
        if self._talks.is_cancelled(self._task_id):
            return Forwarded({**exact(now.result), "status": "cancelled"}, now.replica)
        return now

    async def _put(self, task: Json, talk: Talk) -> bool:
        """Put what the task asks to the client; False where nothing is new, or another request is at it already."""
        if talk.asking:
            return False
        talk.asking = True
        try:
            if answers := await self._answers(task, talk.answered):
                await self._send("tasks/update", {**self._params, "inputResponses": answers})
                talk.answered |= answers.keys()
        finally:
            talk.asking = False
        return bool(answers)

    async def _answers(self, task: Json, answered: set[str]) -> Json:
        """The client's answers to what the task asks now, but for what was answered before."""
        asked = task.get("inputRequests")
        new = {key: one for key, one in asked.items() if key not in answered} if isinstance(asked, dict) else {}
        questions = questions_for(self._client.capabilities, {"inputRequests": new})
        if questions is None:
            text = "The task asks for client input that this client did not declare, or cannot be asked for."
            raise MCPError(code=INVALID_PARAMS, message=text)
        return {
            key: await self._client.ask(method, related(params, self._task_id))
            for key, (method, params) in questions.items()
        }


def _failure(task: Json) -> MCPError:
    """The error that a task has come to."""
    if task.get("status") == "cancelled":
        return MCPError(code=INTERNAL_ERROR, message="The task was cancelled, and has no result")
    error = task.get("error")
    known = error if isinstance(error, dict) else {}
    code, text = known.get("code"), known.get("message")
    return MCPError(
        code=code if isinstance(code, int) else INTERNAL_ERROR,
        message=text if isinstance(text, str) else "The task has ended without a result",
        data=known.get("data"),
    )


def _pause_s(task: Json) -> float:
    """How long to wait before the task is looked at again."""
    told_ms = task.get("pollIntervalMs")
    wanted_s = told_ms / 1000 if isinstance(told_ms, int | float) else POLL_S
    return min(max(wanted_s, POLL_MIN_S), POLL_MAX_S)
