"""The conformance fixture's tools that are answered with tasks, and the requests about them (2026-07-28's extension).

No task does anything: what it is follows from its age and from what its client sent. Imported by `fixture_server.py`.
The one rule: a client that did not declare the extension never sees a task.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY, RequestParams
from mcp_types.jsonrpc import HEADER_MISMATCH
from pydantic import ConfigDict

from tests.conformance.fixture_content import Call, Json, said, tool
from tests.conformance.fixture_rounds import WORD, YES, asked, filled, form

EXTENSION = "io.modelcontextprotocol/tasks"
# As long as a job takes that is to be seen at work.
JOB_S = 0.5
TIMES: Json = {
    "createdAt": "2026-07-28T10:00:00Z",
    "lastUpdatedAt": "2026-07-28T10:00:00Z",
    "ttlMs": 600_000,
    "pollIntervalMs": 100,
}

Context = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    """What requests about a task bring; `inputResponses` with `tasks/update` alone."""

    model_config = ConfigDict(extra="allow")
    taskId: str  # noqa: N815 - the name on the wire
    inputResponses: dict[str, Json] | None = None  # noqa: N815 - as above


@dataclass
class Task:
    """One task: when it has an outcome, which, and what it still asks."""

    outcome: Json
    due_at_s: float = 0.0
    questions: Json = field(default_factory=dict)
    cancelled: bool = False

    def now(self) -> Json:
        """What `tasks/get` tells, without the ID."""
        if self.cancelled:
            return {"status": "cancelled"}
        if self.questions:
            return {"status": "input_required", "inputRequests": self.questions}
        return {"status": "working"} if time.monotonic() < self.due_at_s else self.outcome


TASKS: dict[str, Task] = {}


def started(task: Task) -> Json:
    """A result that is a task."""
    task_id = str(uuid4())
    TASKS[task_id] = task
    status = "input_required" if task.questions else "working"
    return {"resultType": "task", "taskId": task_id, "status": status, **TIMES}


def completed(result: Json) -> Json:
    """The outcome of a task whose call has a result."""
    return {"status": "completed", "result": result}


def missing() -> MCPError:
    """The error for a client that takes no tasks."""
    return MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message="needs a client that takes tasks",
        data={"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
    )


def takes_tasks(call: Call) -> bool:
    """Whether the client of this call declared the extension."""
    return EXTENSION in call.capabilities.get("extensions", {})


def job(task: Callable[[], Task]) -> Any:
    """An answer that is always a task."""

    async def answer(call: Call) -> Json:
        if not takes_tasks(call):
            raise missing()
        return started(task())

    return answer


# A node lists by name, and the suite looks at headers with the first tool of a list: not with one that needs a task.
@tool("answer_at_once", "Answers at once")
async def _at_once(_: Call) -> Json:
    return said("at once")


@tool("greet", "Greets at once")
async def _greet(call: Call) -> Json:
    return said(f"Hello, {call.arguments.get('name')}!")


@tool("slow_compute", "Takes as many seconds as it is told")
async def _slow_compute(call: Call) -> Json:
    seconds = float(call.arguments.get("seconds", 0))
    result = said(f"computed {call.arguments.get('label', '')}".strip())
    if takes_tasks(call):
        return started(Task(completed(result), time.monotonic() + seconds))
    await asyncio.sleep(seconds)
    return result


def _failing() -> Task:
    return Task(completed({**said("this always fails"), "isError": True}), time.monotonic() + JOB_S)


def _breaking() -> Task:
    error = {"code": INTERNAL_ERROR, "message": "this always breaks"}
    return Task({"status": "failed", "error": error}, time.monotonic() + JOB_S)


tool("failing_job", "Fails, as a task")(job(_failing))
tool("protocol_error_job", "Breaks, as a task")(job(_breaking))
tool("confirm_delete", "Asks before it does as if it deleted something")(
    job(lambda: Task(completed(said("deleted")), questions={"confirm": form("Delete it?", confirm=YES)}))
)
tool("multi_input", "Asks two things at once")(
    job(
        lambda: Task(
            completed(said("both answered")),
            questions={key: form("And?", name=WORD) for key in ("first", "second")},
        )
    )
)


@tool("test_tool_with_task", "Asks for a name, then greets in a task")
async def _asks_first(call: Call) -> Json:
    if "user_name" not in call.answers:
        return asked({"user_name": form("What is your name?", name=WORD)})
    if not takes_tasks(call):
        raise missing()
    return started(Task(completed(said(f"Hello, {filled(call.answers['user_name'], 'name')}!"))))


def _known(ctx: Context, params: TaskParams) -> Task:
    """The task that a request is about; the SDK checks neither the header nor the capability."""
    if decode_header_value(ctx.request.headers.get("mcp-name")) != params.taskId:
        raise MCPError(code=HEADER_MISMATCH, message="Mcp-Name is not the task's ID")
    if not takes_tasks(Call(ctx, {})):
        raise missing()
    if params.taskId not in TASKS:
        raise MCPError(code=INVALID_PARAMS, message="Unknown task")
    return TASKS[params.taskId]


async def get_task(ctx: Context, params: TaskParams) -> Json:
    """tasks/get."""
    return {"taskId": params.taskId, **TIMES, **_known(ctx, params).now()}


async def update_task(ctx: Context, params: TaskParams) -> Json:
    """tasks/update."""
    task = _known(ctx, params)
    task.questions = {key: ask for key, ask in task.questions.items() if key not in (params.inputResponses or {})}
    return {}


async def cancel_task(ctx: Context, params: TaskParams) -> Json:
    """tasks/cancel; what has ended stays as it is."""
    task = _known(ctx, params)
    task.cancelled = task.cancelled or task.now()["status"] in ("working", "input_required")
    return {}
