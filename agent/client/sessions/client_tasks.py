"""Tasks of 2025-11-25 on the client's side: a server asks for one in a server request, and gets its answer later.

Kept by each `PendingCall`, so that every caller that accepts a server request accepts it as a task too, whatever its
own version knows of tasks: to the caller it is an ordinary server request. The one rule: a task belongs to the call in
which its server made it, and is unknown in any other.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent import clock
from agent.client import jsonrpc
from agent.errors import RpcError
from agent.model import Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from agent.tasks.ids import ENDED
from agent.tasks.versions import with_related_task

# What a server may ask about its tasks.
TASK_REQUESTS: Final = frozenset({"tasks/get", "tasks/result", "tasks/cancel", "tasks/list"})
# Of one call; of more, the oldest that has ended is forgotten, and a further one is refused.
TASKS_MAX: Final = 64
_POLL_MS: Final = 500


@dataclass(slots=True)
class ClientTask:
    """One server request made as a task. `waiting`: the IDs of the server's open `tasks/result`."""

    task: Json
    outcome: Json | RpcError | None = None
    waiting: list[Any] = field(default_factory=list)

    @property
    def task_id(self) -> str:
        """Its ID."""
        task_id: str = self.task["taskId"]
        return task_id

    def settle(self, outcome: Json | RpcError, status: str) -> list[bytes]:
        """Take the outcome; returns the replies to requests that waited for it."""
        self.outcome = outcome
        self.task = {**self.task, "status": status, "lastUpdatedAt": clock.utc_now()}
        if isinstance(outcome, RpcError):
            self.task["statusMessage"] = outcome.message
        waiting, self.waiting = self.waiting, []
        return [_ended(request_id, self.task_id, outcome) for request_id in waiting]


class ClientTasks:
    """The tasks of one call. Sole writer: its `PendingCall`."""

    def __init__(self) -> None:
        self._tasks: dict[str, ClientTask] = {}  # By ID, the oldest first.

    def __repr__(self) -> str:
        return f"<ClientTasks {[task.task['status'] for task in self._tasks.values()]}>"

    def knows(self, params: Json) -> bool:
        """Whether a request with these params is about one of them."""
        return params.get("taskId") in self._tasks

    def begin(self, wanted: Mapping[str, Any]) -> ClientTask | None:
        """A new task; None when there are too many. `wanted`: the `task` of the server request."""
        if len(self._tasks) >= TASKS_MAX:
            over = next((task_id for task_id, one in self._tasks.items() if one.outcome is not None), None)
            if over is None:
                return None
            del self._tasks[over]
        at, ttl = clock.utc_now(), wanted.get("ttl")
        task: Json = {"taskId": secrets.token_urlsafe(16), "status": "working", "createdAt": at, "lastUpdatedAt": at}
        task |= {"ttl": ttl if isinstance(ttl, int) else None, "pollInterval": _POLL_MS}
        begun = self._tasks[task["taskId"]] = ClientTask(task)
        return begun

    def about(self, request_id: Any, method: str, params: Json) -> tuple[list[bytes], ClientTask | None]:
        """The replies to a server's request about its tasks, if any yet, and the task that it has cancelled."""
        if method == "tasks/list":
            return [jsonrpc.encode_result(request_id, {"tasks": [one.task for one in self._tasks.values()]})], None
        known = self._tasks.get(params.get("taskId", ""))
        if known is None:
            return [jsonrpc.encode_error(request_id, INVALID_PARAMS, "This call has no task of that ID")], None
        match method:
            case "tasks/get":
                return [jsonrpc.encode_result(request_id, known.task)], None
            case "tasks/result":
                if known.outcome is not None:
                    return [_ended(request_id, known.task_id, known.outcome)], None
                known.waiting.append(request_id)
                return [], None
            case "tasks/cancel":
                if known.task["status"] in ENDED:
                    return [jsonrpc.encode_error(request_id, INVALID_PARAMS, "The task has ended")], None
                replies = known.settle(RpcError(INTERNAL_ERROR, "The task was cancelled"), "cancelled")
                return [jsonrpc.encode_result(request_id, known.task), *replies], known
            case _:
                return [jsonrpc.encode_error(request_id, METHOD_NOT_FOUND, "Method not found")], None

    def withdraw(self, request_id: Any) -> None:
        """The server has cancelled a request that waits for a result."""
        for task in self._tasks.values():
            task.waiting = [waiting for waiting in task.waiting if waiting != request_id]


def _ended(request_id: Any, task_id: str, outcome: Json | RpcError) -> bytes:
    if isinstance(outcome, RpcError):
        return jsonrpc.encode_error(request_id, outcome.code, outcome.message, outcome.data)
    return jsonrpc.encode_result(request_id, with_related_task(outcome, task_id))
