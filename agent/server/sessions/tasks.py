"""Serves a client of 2025-11-25 that uses tasks, over the task requests of 2026-07-28.

Called by `agent.server.sessions.requests`. `AskedTask` answers `tasks/get`, `tasks/result` and `tasks/cancel`:
`tasks/result` waits, polls the task at the interval that the server suggests, and puts its input requests to the
client, on the stream of that request. `TaskTalks` is what the requests of one session share about their tasks.
`HeldResults` keeps results of calls that the client made as tasks and whose server answered at once. The one rule: the
client gets only requests that it declared, and a task is left as it is when its client refuses, goes or does not answer
in time.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

import orjson

from agent import clock
from agent.dispatch.call import Forwarded
from agent.errors import OUTCOME_UNKNOWN, MCPError
from agent.lossless_json.raw import exact
from agent.lossless_json.unread import as_member
from agent.model import TASKS_EXTENSION, Json
from agent.routing.table import Route
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.server.sessions.elicitation import AskedClient, server_requests_for
from agent.tasks.ids import ENDED, TAKES_TASKS
from agent.tasks.versions import as_legacy, task_support, with_related_task

HELD_S: Final = 600.0
# Of one session: a client that leaves more does not want them.
OF_SESSION_MAX: Final = 32
# Of one endpoint. A single result is no larger.
BYTES_MAX: Final = 64 << 20
_POLL_MS: Final = 100
# Of one session; of more, the oldest is reported as its server has it.
CANCELLED_MAX: Final = 256

TASK_REQUESTS: Final = frozenset({"tasks/get", "tasks/result", "tasks/cancel", "tasks/list"})
# The only version with a session that knows tasks.
VERSION: Final = "2025-11-25"
# The capability in the `initialize` result. What is listed are the session's own tasks: an ID is the key to a task.
CAPABILITY: Final[Json] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
# Of one session; of more, the oldest are not listed.
LISTED_MAX: Final = 256
# How each of them stands is asked of its server.
LIST_PAGE: Final = 32
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
STATUS: Final = "notifications/tasks/status"
# A client may have gone without notice, so a request for a result lasts this long; another one may follow.
RESULT_TIMEOUT_S: Final = 3_600.0
POLL_S: Final = 1.0
POLL_MIN_S: Final = 0.1
POLL_MAX_S: Final = 30.0

# Sends a request about the task; raises `MCPError`.
Send: TypeAlias = Callable[[str, Json], Awaitable[Forwarded]]


@dataclass(frozen=True, slots=True)
class HeldResult:
    """A task of 2025-11-25 that has ended, and its result as JSON."""

    task: Json
    result: bytes
    session_id: str
    until_s: float


class HeldResults:
    """Sole writer: the event loop, through the methods. Times are loop time."""

    def __init__(self) -> None:
        self._held: dict[str, HeldResult] = {}  # By task ID, the oldest first.
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<HeldResults {len(self._held)} of {self._bytes} bytes>"

    @staticmethod
    def new_id() -> str:
        """A task ID that no node gives to a task of a server, and that cannot be guessed."""
        return f"mesh1/held/{secrets.token_urlsafe(24)}"

    def keep(self, task_id: str, result: bytes, session_id: str, now_s: float, *, failed: bool) -> Json:
        """Keep a result; returns the task as its client is to see it first."""
        at = clock.utc_now()
        task: Json = {"taskId": task_id, "createdAt": at, "lastUpdatedAt": at}
        task |= {"ttl": int(HELD_S * 1000), "pollInterval": _POLL_MS}
        of_session = [known for known, one in self._held.items() if one.session_id == session_id]
        for known in of_session[: max(0, len(of_session) + 1 - OF_SESSION_MAX)]:
            self._drop(known)
        self._held[task_id] = HeldResult(
            {**task, "status": "failed" if failed else "completed"}, result, session_id, now_s + HELD_S
        )
        self._bytes += len(result)
        for known, one in tuple(self._held.items()):
            if one.until_s > now_s and self._bytes <= BYTES_MAX:
                break
            self._drop(known)
        return {**task, "status": "working"}  # Every task begins so (MCP 2025-11-25, tasks).

    def find(self, task_id: str, session_id: str, now_s: float) -> HeldResult | None:
        """The result of this session's task, if it is still here."""
        held = self._held.get(task_id)
        return held if held is not None and held.session_id == session_id and held.until_s > now_s else None

    def _drop(self, task_id: str) -> None:
        self._bytes -= len(self._held.pop(task_id).result)


@dataclass(slots=True, weakref_slot=True, eq=False)
class Talk:
    """The input requests of one task to the client: whether they are under way, and the keys of the answered ones."""

    asking: bool = False
    answered: set[str] = field(default_factory=set)


class TaskTalks:
    """See the module. Sole writer: the requests of the session, in the event loop."""

    def __init__(self) -> None:
        self._cancelled: dict[str, None] = {}  # By ID, the oldest first.
        # Each with its number, as last seen, in the same order.
        self._made: dict[str, tuple[int, Json]] = {}
        self._count = 0
        self._talks: WeakValueDictionary[str, Talk] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<TaskTalks {len(self._made)} made, {len(self._talks)} open, {len(self._cancelled)} cancelled>"

    def made(self, task: Json) -> None:
        """A call of this session was made a task, or one of those was seen again."""
        if task["taskId"] in self._made:
            self.seen(task)
            return
        self._count += 1
        self._made[task["taskId"]] = self._count, task
        if len(self._made) > LISTED_MAX:
            del self._made[next(iter(self._made))]

    def page(self, cursor: object) -> tuple[list[Json], str | None]:
        """The tasks of one page as last seen, and the cursor of the next. Raises `MCPError` for one that is none.

        A cursor is the number of the last task shown, which its server may have forgotten since.
        """
        after = 0
        if cursor is not None:
            if not isinstance(cursor, str) or not _NUMBER.fullmatch(cursor) or int(cursor) > self._count:
                raise MCPError(code=INVALID_PARAMS, message="cursor: not one that this list gave")
            after = int(cursor)
        left = [(number, task) for number, task in self._made.values() if number > after]
        shown = left[:LIST_PAGE]
        return [task for _, task in shown], str(shown[-1][0]) if len(left) > LIST_PAGE else None

    def seen(self, task: Json) -> None:
        """As `made`, for a task that may not be one of this session's."""
        known = self._made.get(task.get("taskId", ""))
        if known is not None:
            self._made[task["taskId"]] = known[0], task

    def forget(self, task_id: str) -> None:
        """Its server does not know it any more."""
        self._made.pop(task_id, None)

    def about(self, task_id: str) -> Talk:
        """The one `Talk` about a task, which lasts as long as a request holds it."""
        talk = self._talks.get(task_id)
        if talk is None:
            talk = self._talks[task_id] = Talk()
        return talk

    def is_cancelled(self, task_id: str) -> bool:
        """Whether the task was reported to the client as cancelled, whatever its server does with it."""
        return task_id in self._cancelled

    def note_cancelled(self, task_id: str) -> None:
        """It is reported so from now on."""
        self._cancelled[task_id] = None
        if len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]


def with_extension(capabilities: Json) -> Json:
    """A client's capabilities with the tasks extension of 2026-07-28."""
    extensions = capabilities.get("extensions")
    known = extensions if isinstance(extensions, dict) else {}
    return {**capabilities, "extensions": {**known, TASKS_EXTENSION: {}}}


def may_be_task(route: Route, *, has_tasks: bool) -> bool:
    """Whether a tool may be called as a task; one of 2026-07-28 may where its backend has tasks."""
    support = task_support(route.definition)
    return has_tasks if support is None else support in ("required", "optional")


def created(task: Json) -> Json:
    """The result of a call that was answered with a task."""
    made = {"task": as_legacy({member: value for member, value in task.items() if member != "_meta"})}
    return made if "_meta" not in task else {**made, "_meta": task["_meta"]}


class AskedTask:
    """One request about one task. `client`: takes input requests; `talks`: those of its session."""

    def __init__(self, task_id: str, send: Send, client: AskedClient, talks: TaskTalks) -> None:
        self._params: Json = {"taskId": task_id, "_meta": TAKES_TASKS}
        self._task_id = task_id
        self._send = send
        self._client = client
        self._talks = talks

    async def get(self) -> Json:
        """The result of `tasks/get`. Raises `MCPError`, as the others do."""
        return as_legacy((await self._now()).result)

    async def cancel(self) -> Json:
        """The result of `tasks/cancel`: the task, which is cancelled for its client, though its server may go on."""
        task = (await self._now()).result
        if task.get("status") in ENDED:
            raise MCPError(code=INVALID_PARAMS, message="The task has ended, and cannot be cancelled")
        await self._send("tasks/cancel", self._params)
        self._talks.note_cancelled(self._task_id)
        return as_legacy({**task, "status": "cancelled"})

    async def result(self) -> Forwarded:
        """The result of the call, once the task has ended."""
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
                    return Forwarded(with_related_task(result, self._task_id), forwarded.replica)
                case "failed" | "completed" | "cancelled":
                    raise _failure(task)
                case "input_required" if await self._put(task, talk):
                    pass
                case _:
                    await asyncio.sleep(_pause_s(task))

    async def _now(self) -> Forwarded:
        """The task as it is; one that its client cancelled stays cancelled (MCP 2025-11-25, tasks)."""
        now = await self._send("tasks/get", self._params)
        if self._talks.is_cancelled(self._task_id):
            return Forwarded({**exact(now.result), "status": "cancelled"}, now.replica)
        return now

    async def _put(self, task: Json, talk: Talk) -> bool:
        """Put the task's input requests to the client; False when none is new, or another request does so already."""
        if talk.asking:
            return False
        talk.asking = True
        try:
            if answers := await self._answers(task, talk.answered):
                await self._send("tasks/update", {**self._params, "inputResponses": as_member(answers)})
                talk.answered |= answers.keys()
        finally:
            talk.asking = False
        return bool(answers)

    async def _answers(self, task: Json, answered: set[str]) -> Json:
        """The client's answers to the task's input requests, except those answered before."""
        asked = task.get("inputRequests")
        new = {key: one for key, one in asked.items() if key not in answered} if isinstance(asked, dict) else {}
        requests = server_requests_for(self._client.capabilities, {"inputRequests": new})
        if requests is None:
            text = "The task asks for client input that this client did not declare, or cannot be asked for."
            raise MCPError(code=INVALID_PARAMS, message=text)
        return {
            key: await self._client.ask(method, with_related_task(params, self._task_id))
            for key, (method, params) in requests.items()
        }


async def listed(talks: TaskTalks, cursor: object, now: Callable[[str], Awaitable[Json]]) -> Json:
    """The result of `tasks/list`: the tasks that the session's client has made.

    `now` gives one as it is; of a server that does not answer, the task is listed as it was seen last.
    """
    shown, following = talks.page(cursor)

    async def look(task: Json) -> None:
        try:
            talks.seen(await now(task["taskId"]))
        except MCPError as exc:
            if exc.code == INVALID_PARAMS:
                talks.forget(task["taskId"])

    async with asyncio.TaskGroup() as group:
        for task in shown:
            if task["status"] not in ENDED:
                group.create_task(look(task), name="list a task")
    tasks, _ = talks.page(cursor) if shown else ([], None)
    known = {task["taskId"] for task in shown}
    result: Json = {"tasks": [task for task in tasks if task["taskId"] in known]}
    return result if following is None else {**result, "nextCursor": following}


def status_note(task: Json) -> bytes:
    """The notification of how a task stands, as a message."""
    return orjson.dumps({"jsonrpc": "2.0", "method": STATUS, "params": as_legacy(task)})


def _failure(task: Json) -> MCPError:
    """The error that a task has ended with."""
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
    """Seconds until the next poll of the task."""
    received_ms = task.get("pollIntervalMs")
    wanted_s = received_ms / 1000 if isinstance(received_ms, int | float) else POLL_S
    return min(max(wanted_s, POLL_MIN_S), POLL_MAX_S)
