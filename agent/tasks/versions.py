"""Tasks of 2025-11-25 as tasks of 2026-07-28, and back; and which calls are made as tasks.

Inside the mesh a task has the form of the extension of 2026-07-28. Dispatch decides here whether a server gets a call
as a task; the client of a server with sessions and the endpoint for clients with sessions translate. PURE. The one
rule: members that both versions know pass unchanged; those that only one knows are added or removed here and nowhere
else.
"""

from typing import Final

from agent.errors import RpcError
from agent.model import Era, Json, LinkView
from agent.routing.table import Route
from agent.rpc_codes import METHOD_NOT_FOUND
from agent.tasks.ids import declares_tasks, missing_tasks

# The member of `_meta` that names the task of a message (MCP 2025-11-25, tasks).
RELATED_TASK: Final = "io.modelcontextprotocol/related-task"

_MODERN: Final = {"ttl": "ttlMs", "pollInterval": "pollIntervalMs"}
_LEGACY: Final = {modern: legacy for legacy, modern in _MODERN.items()}
# Members of a task of 2026-07-28 for which 2025-11-25 has requests of their own.
_INLINED: Final = frozenset({"resultType", "result", "error", "inputRequests"})


def task_support(definition: Json) -> str | None:
    """A tool's support of tasks of 2025-11-25: "required", "optional", "forbidden", or None."""
    execution = definition.get("execution")
    support = execution.get("taskSupport") if isinstance(execution, dict) else None
    return support if isinstance(support, str) else None


def with_task(method: str, route: Route, params: Json, view: LinkView) -> Json:
    """`params` for the link `view`: with `task` where its server is to run the call as a task, else without.

    Between nodes `task` passes as the client sent it, and the last node decides. A tool whose tasks are optional is
    called as a task only where its client sent `task`: all other clients are better served by a direct answer, and by
    elicitation.

    Raises:
        RpcError: the tool can only be called as a task, and the server or the client supports no tasks.
    """
    if method != "tools/call" or view.identity is not None:
        return params
    requested = params.get("task")
    support = task_support(route.definition) if view.era is Era.LEGACY else None
    if support == "required":
        if not view.has_tasks:
            raise RpcError(
                METHOD_NOT_FOUND, f"{route.public_name} can only be called as a task, and its server offers us no tasks"
            )
        if not declares_tasks(params):
            raise missing_tasks(f"{route.public_name} can only be called as a task")
        return {**params, "task": requested if isinstance(requested, dict) else {}}
    if requested is None and "task" not in params:
        return params
    if support == "optional" and view.has_tasks and isinstance(requested, dict) and declares_tasks(params):
        return params
    return {member: value for member, value in params.items() if member != "task"}


def as_modern(task: Json) -> Json:
    """A task of 2025-11-25 as a task of 2026-07-28, without its outcome.

    One that waits for input counts as working: its server's requests could not reach a client of that version.
    """
    known = {_MODERN.get(member, member): value for member, value in task.items()}
    if known.get("status") == "input_required":
        known["status"] = "working"
    return {"ttlMs": None, **known}


def as_legacy(task: Json) -> Json:
    """A task of 2026-07-28 as a task of 2025-11-25, failed where its result says that the tool failed."""
    known = {_LEGACY.get(member, member): value for member, value in task.items() if member not in _INLINED}
    result = task.get("result")
    if isinstance(result, dict) and result.get("isError") is True:
        known["status"] = "failed"
    return {"ttl": None, **known}


def with_related_task(result: Json, task_id: str) -> Json:
    """A result, or the params of a server's request, with the task that it belongs to in `_meta`.

    That is an object then, whatever it was.
    """
    meta = result.get("_meta")
    return {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), RELATED_TASK: {"taskId": task_id}}}


def without_related_task(result: Json) -> Json:
    """The same without that member of `_meta`."""
    meta = result.get("_meta")
    if not isinstance(meta, dict) or RELATED_TASK not in meta:
        return result
    kept = {name: value for name, value in meta.items() if name != RELATED_TASK}
    return {**result, "_meta": kept} if kept else {name: value for name, value in result.items() if name != "_meta"}
