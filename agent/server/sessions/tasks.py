"""What a client of 2025-11-25 asks about a task, in the words of 2026-07-28, in which its server is asked.

Called by `agent.server.sessions.requests`. `tasks/result` waits: it asks how the task stands at the interval that the
server suggests, and puts what the task asks to the client, on the stream of that very request. The one rule: the client
is asked only what it declared, and a task is left as it is when its client refuses, goes or is not answered in time.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from agent.dispatch.dispatcher import Forwarded
from agent.errors import OUTCOME_UNKNOWN
from agent.lossless_json.raw import exact
from agent.model import TASKS_EXTENSION, Json
from agent.routing.table import Route
from agent.server.sessions.elicitation import AskedClient, questions_for
from agent.tasks.ids import ENDED, TAKES_TASKS
from agent.tasks.versions import as_before, related, task_support

HELD_S: Final = 600.0
# Of one session: whoever lets more lie does not want them.
OF_SESSION_MAX: Final = 32
# Of one endpoint. One result has at most as much.
BYTES_MAX: Final = 64 << 20
_POLL_MS: Final = 100


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
        """A task ID that no node gives to a task of a server, and that nobody guesses."""
        return f"mesh1/held/{secrets.token_urlsafe(24)}"

    def keep(self, task_id: str, result: bytes, session_id: str, now_s: float, *, failed: bool) -> Json:
        """Keep a result; returns the task as its client is to see it first."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
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


# Of one session; beyond it the oldest is told as its server tells it.
CANCELLED_MAX: Final = 256


@dataclass(slots=True, weakref_slot=True, eq=False)
class Talk:
    """What is put to the client about one task: whether that is being done, and the questions that were answered."""

    asking: bool = False
    answered: set[str] = field(default_factory=set)


class TaskTalks:
    """See the module. Sole writer: the requests of the session, in the event loop."""

    def __init__(self) -> None:
        self._cancelled: dict[str, None] = {}  # By ID, the oldest first.
        self._talks: WeakValueDictionary[str, Talk] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<TaskTalks {len(self._talks)} open, {len(self._cancelled)} cancelled>"

    def about(self, task_id: str) -> Talk:
        """The one talk about a task, which lasts as long as somebody holds it."""
        talk = self._talks.get(task_id)
        if talk is None:
            talk = self._talks[task_id] = Talk()
        return talk

    def is_cancelled(self, task_id: str) -> bool:
        """Whether the client was told that its task is cancelled, whatever its server does with it."""
        return task_id in self._cancelled

    def note_cancelled(self, task_id: str) -> None:
        """The client is told so now."""
        self._cancelled[task_id] = None
        if len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]


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
    received_ms = task.get("pollIntervalMs")
    wanted_s = received_ms / 1000 if isinstance(received_ms, int | float) else POLL_S
    return min(max(wanted_s, POLL_MIN_S), POLL_MAX_S)
