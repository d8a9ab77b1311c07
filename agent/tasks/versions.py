"""Tasks of 2025-11-25 in the words of 2026-07-28, and back: which calls are made as tasks, and how a task is told.

Inside the mesh a task is what the extension of 2026-07-28 says. Dispatch decides here what a server is sent, the client
to a server with sessions and the front of sessions translate. Pure. The one rule: members that both eras know pass as
they came, and what only one of them knows is added or taken away here and nowhere else.
"""

from typing import Final

from agent.errors import RpcError
from agent.model import Era, Json, LinkView
from agent.routing.table import Route
from agent.rpc_codes import METHOD_NOT_FOUND
from agent.tasks.ids import declares_tasks, missing_tasks

# What says in `_meta` to which task a message belongs (MCP 2025-11-25, tasks).
RELATED_TASK: Final = "io.modelcontextprotocol/related-task"

_NOW: Final = {"ttl": "ttlMs", "pollInterval": "pollIntervalMs"}
_BEFORE: Final = {now: before for before, now in _NOW.items()}
# What a task of 2026-07-28 has in it, and one of 2025-11-25 is asked for.
_INLINED: Final = frozenset({"resultType", "result", "error", "inputRequests"})


def task_support(definition: Json) -> str | None:
    """What a tool says of tasks of 2025-11-25: "required", "optional", "forbidden", or nothing."""
    execution = definition.get("execution")
    support = execution.get("taskSupport") if isinstance(execution, dict) else None
    return support if isinstance(support, str) else None


def with_task(method: str, route: Route, params: Json, view: LinkView) -> Json:
    """`params` as the link `view` is to get them: `task` stands in those of a call that its server is to make a task.

    Between nodes it is the client's wish, which the last node judges. A tool that can do without is called as a task
    where its client asked for one by that word: all others are better served by an answer at once, and by questions.

    Raises:
        RpcError: the tool can only be called as a task, and the server or the client knows none.
    """
    if method != "tools/call" or view.identity is not None:
        return params
    wish = params.get("task")
    support = task_support(route.definition) if view.era is Era.LEGACY else None
    if support == "required":
        if not view.has_tasks:
            raise RpcError(
                METHOD_NOT_FOUND, f"{route.public_name} can only be called as a task, and its server keeps none for us"
            )
        if not declares_tasks(params):
            raise missing_tasks(f"{route.public_name} can only be called as a task")
        return {**params, "task": wish if isinstance(wish, dict) else {}}
    if wish is None and "task" not in params:
        return params
    if support == "optional" and view.has_tasks and isinstance(wish, dict) and declares_tasks(params):
        return params
    return {member: value for member, value in params.items() if member != "task"}


def as_now(task: Json) -> Json:
    """A task of 2025-11-25 as a task of 2026-07-28, without its outcome.

    One that waits for its client works: nobody can be asked what its server would ask in that era.
    """
    known = {_NOW.get(member, member): value for member, value in task.items()}
    if known.get("status") == "input_required":
        known["status"] = "working"
    return {"ttlMs": None, **known}


def as_before(task: Json) -> Json:
    """A task of 2026-07-28 as a task of 2025-11-25, whose tool has failed too when its result says so."""
    known = {_BEFORE.get(member, member): value for member, value in task.items() if member not in _INLINED}
    result = task.get("result")
    if isinstance(result, dict) and result.get("isError") is True:
        known["status"] = "failed"
    return {"ttl": None, **known}


def related(result: Json, task_id: str) -> Json:
    """A result, or the params of a question, that says to which task it belongs."""
    return {**result, "_meta": {**(result.get("_meta") or {}), RELATED_TASK: {"taskId": task_id}}}


def unrelated(result: Json) -> Json:
    """The same without that word."""
    meta = result.get("_meta")
    if not isinstance(meta, dict) or RELATED_TASK not in meta:
        return result
    kept = {name: value for name, value in meta.items() if name != RELATED_TASK}
    return {**result, "_meta": kept} if kept else {name: value for name, value in result.items() if name != "_meta"}
