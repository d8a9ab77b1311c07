"""A real FastMCP server of 2026-07-28 that answers calls with tasks, and keeps them as long as it lives.

Nothing in it takes time: a task goes on when a client asks about it, answers its question or cancels it. Several of one
kind differ by `place`. The one rule: what a task saw (the client, its answers) is in its result.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastmcp import Context, FastMCP
from fastmcp.server.extensions import MethodBinding, ServerExtension, ToolCallContinuation
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolRequestParams, RequestParams, SubscriptionsListenRequestParams
from mcp_types.jsonrpc import MISSING_REQUIRED_CLIENT_CAPABILITY
from pydantic import BaseModel, ConfigDict

from agent.model import TASKS_EXTENSION, Json

# More than 64 bits: a number that is lost when a node on the way writes the result anew.
LARGE = 2**70
HOME = "notes://home"
QUESTION: Json = {
    "method": "elicitation/create",
    "params": {
        "mode": "form",
        "message": "Which branch?",
        "requestedSchema": {"type": "object", "properties": {"branch": {"type": "string"}}},
    },
}
_MISSING = MCPError(
    code=MISSING_REQUIRED_CLIENT_CAPABILITY,
    message="Missing required client capability",
    data={"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
)


class _Result(BaseModel):
    """Any result, as it is."""

    model_config = ConfigDict(extra="allow")


class _TaskParams(RequestParams):
    """What all requests about tasks have, and what `tasks/update` has."""

    model_config = ConfigDict(extra="allow")
    taskId: str  # noqa: N815 - the name on the wire
    inputResponses: dict[str, Any] | None = None  # noqa: N815 - as above


@dataclass
class Tasks(ServerExtension):
    """The extension. `known`: the tasks by ID; `asked`: the requests that came, as method and ID.

    `soon`: the tasks that are done as soon as a client has asked about them. `streams`: what each open stream of
    `subscriptions/listen` is for, and the states that are to be sent on it; None ends one. `quiet`: there
    is none. `looked_at`: a client has asked about a task.
    """

    identifier = TASKS_EXTENSION

    place: str
    known: dict[str, Json] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    soon: set[str] = field(default_factory=set)
    streams: list[tuple[frozenset[str], asyncio.Queue[Json | None]]] = field(default_factory=list)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: asyncio.Event = field(default_factory=asyncio.Event)

    def methods(self) -> Sequence[MethodBinding]:
        served = {"tasks/get": self._get, "tasks/update": self._update, "tasks/cancel": self._cancel}
        return [MethodBinding(method, _TaskParams, function) for method, function in served.items()]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, context: Context, call_next: ToolCallContinuation
    ) -> Any:
        known = context.session.client_capabilities
        declared = known is not None and TASKS_EXTENSION in (known.extensions or {})
        if params.name == "at_once" or (params.name == "either" and not declared):
            return await call_next()
        if not declared and params.name != "rude":
            raise _MISSING
        task_id = (params.arguments or {}).get("task_id") or str(uuid4())
        asks = params.name == "asks"
        if params.name == "soon":
            self.soon.add(task_id)
        self.known[task_id] = {"taskId": task_id, "status": "input_required" if asks else "working", **TIMES}
        if asks:
            self.known[task_id]["inputRequests"] = {"branch": QUESTION}
        seed = {name: self.known[task_id][name] for name in ("taskId", "status", *TIMES)}
        return _Result(resultType="task", **seed)

    def _task(self, ctx: ServerRequestContext[Any, Any], method: str, params: _TaskParams) -> Json:
        if self.client_settings(ctx) is None:
            raise _MISSING
        self.asked.append((method, params.taskId))
        self.looked_at.set()
        task = self.known.get(params.taskId)
        if task is None:
            raise MCPError(code=INVALID_PARAMS, message=f"no such task at {self.place}")
        return task

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: _TaskParams) -> BaseModel:
        task = self._task(ctx, "tasks/get", params)
        answer = _Result(resultType="complete", **task)
        if params.taskId in self.soon:
            self.finish(task, f"soon at {self.place}")
        return answer

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: _TaskParams) -> BaseModel:
        task = self._task(ctx, "tasks/update", params)
        branch = (params.inputResponses or {})["branch"]["content"]["branch"]
        self.finish(task, f"{branch} at {self.place}")
        return _Result(resultType="complete")

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: _TaskParams) -> BaseModel:
        task = self._task(ctx, "tasks/cancel", params)
        task["status"] = "cancelled"
        self.tell(task)
        return _Result(resultType="complete")

    async def listen(self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams) -> Json:
        """Serve `subscriptions/listen` for the tasks that there are."""
        if self.client_settings(ctx) is None:
            raise _MISSING
        wanted = (params.notifications.model_extra or {}).get("taskIds", [])
        known = [task_id for task_id in wanted if task_id in self.known]
        meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": ctx.request_id}}
        notify = ctx.session._request_outbound.notify
        stream = frozenset(known), asyncio.Queue[Json | None]()
        self.streams.append(stream)
        self.quiet.clear()
        try:
            granted = {"taskIds": known} if known else {}
            await notify("notifications/subscriptions/acknowledged", {"notifications": granted, **meta})
            while (task := await stream[1].get()) is not None:
                await notify("notifications/tasks", {**task, **meta})
        finally:
            self.streams.remove(stream)
            if not self.streams:
                self.quiet.set()
        return {"resultType": "complete", **meta}

    def tell(self, task: Json) -> None:
        """Tell how a task stands to each stream that follows it."""
        for task_ids, told in self.streams:
            if task["taskId"] in task_ids:
                told.put_nowait(dict(task))

    def finish(self, task: Json, text: str) -> None:
        """Complete a task; its result has a text, a link, and a number."""
        task.pop("inputRequests", None)
        content: list[Json] = [{"type": "text", "text": text}, {"type": "resource_link", "name": "home", "uri": HOME}]
        result: Json = {"content": content, "structuredContent": {"large": LARGE}, "isError": False}
        task.update(status="completed", result=result)
        self.tell(task)


TIMES: Json = {
    "createdAt": "2026-11-22T10:00:00Z",
    "lastUpdatedAt": "2026-11-22T10:00:01Z",
    "ttlMs": 3_600_000,
    "pollIntervalMs": 500,
}


def task_server(place: str) -> tuple[FastMCP, Tasks]:
    """The server, and its tasks.

    Tools: `works`, `asks` and `soon` need a client that takes tasks, `either` does not, `at_once` never makes one, and
    `rude` makes one for all clients.
    """
    server: FastMCP = FastMCP("shop")
    tasks = Tasks(place)
    server.add_extension(tasks)
    server._mcp_server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, tasks.listen)

    @server.resource(HOME)
    def home() -> str:
        return "the home page"

    async def work(task_id: str = "") -> str:
        return f"{place} without a task {task_id}".rstrip()

    for name in ("works", "asks", "soon", "either", "at_once", "rude"):
        server.tool(work, name=name, output_schema=None)
    return server, tasks


if __name__ == "__main__":
    task_server("child")[0].run(show_banner=False)
