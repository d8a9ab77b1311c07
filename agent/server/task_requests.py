"""Requests about tasks: checked as the extension of 2026-07-28 says, then routed to the node or server of the task.

Called by the server of stateless requests, and by `agent.server.sessions.tasks` for clients with sessions. The one
rule: a client that does not declare the extension gets that error before anything else, and no server is called for it.
"""

from collections.abc import Mapping

from agent.errors import MCPError
from agent.mcp_headers import decode_header_value
from agent.model import Json
from agent.routing.table import Route, RouteTable
from agent.rpc_codes import HEADER_MISMATCH, INVALID_PARAMS
from agent.server.task_seal import TaskSeal
from agent.tasks.ids import TASK_METHODS, TaskIdRefused, declares_tasks, missing_tasks, task_route


def check_task_header(method: str, params: Json, headers: Mapping[str, str]) -> None:
    """Refuse a request whose `Mcp-Name` is not its task; the SDK checks only the names that it knows.

    Without the header it is taken as it is: no release of fastmcp-tasks 4.0 to 4.1.4 sends one. `headers` are looked up
    whatever their case. Raises `MCPError`.
    """
    if method not in TASK_METHODS or not isinstance(task_id := params.get("taskId"), str):
        return
    if "Mcp-Name" in headers and decode_header_value(headers["Mcp-Name"]) != task_id:
        message = "Mcp-Name header does not match the request body's 'taskId' parameter"
        raise MCPError(code=HEADER_MISMATCH, message=message)


def route_of_task(
    method: str, params: Json, table: RouteTable, node_id: str, seal: TaskSeal | None = None
) -> Route | None:
    """The route of a request about a task; None for any other request. `node_id`: ours. `seal`: on IDs of callers.

    Raises `MCPError`: the client did not declare the extension, or the ID is unknown.
    """
    if method == "subscriptions/listen":
        wanted = params.get("notifications")
        if isinstance(wanted, dict) and wanted.get("taskIds"):
            _check_declared(params)  # The acknowledgement names those that are followed.
        return None
    if method not in TASK_METHODS:
        return None
    _check_declared(params)
    task_id = params.get("taskId")
    if not isinstance(task_id, str):
        raise MCPError(code=INVALID_PARAMS, message="taskId: a string is required")
    if seal is not None:
        task_id = seal.opened(task_id)
    try:
        return task_route(method, task_id, table, node_id)
    except TaskIdRefused as exc:
        raise MCPError(code=INVALID_PARAMS, message=f"taskId: {exc}") from exc


def _check_declared(params: Json) -> None:
    if not declares_tasks(params):
        missing = missing_tasks("The client did not declare the extension for tasks")
        raise MCPError(code=missing.code, message=missing.message, data=missing.data)
