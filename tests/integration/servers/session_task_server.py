"""A real server of 2025-11-25 that makes tasks where its client asks for them; as a file it speaks stdio.

A task goes on when the tool `finish` is called, or when its question is answered. It belongs to the session in which it
was made. The one rule: what a call was asked for (as a task or not, for how long) and what was answered is in its text.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.lowlevel import server as lowlevel_server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, RequestParams

from agent.model import Json

LARGE = 2**70
HOME = "notes://home"
RELATED = "io.modelcontextprotocol/related-task"
CAPABILITY: Json = {"cancel": {}, "requests": {"tools": {"call": {}}}}
ANY: Json = {"type": "object"}
TOOLS: list[Json] = [
    {"name": "may", "inputSchema": ANY, "execution": {"taskSupport": "optional"}},
    {"name": "must", "inputSchema": ANY, "execution": {"taskSupport": "required"}},
    {"name": "never", "inputSchema": ANY},
    {"name": "finish", "inputSchema": ANY},
]
TIMES: Json = {"createdAt": "2026-11-22T10:00:00Z", "lastUpdatedAt": "2026-11-22T10:00:01Z"}
FORM: Json = {
    "message": "Which branch?",
    "requestedSchema": {"type": "object", "properties": {"branch": {"type": "string"}}},
}


@dataclass
class SessionTasks:
    """What one server has made. `asked`: the requests about tasks, as method and ID."""

    place: str = "here"
    capability: Json | None = field(default_factory=lambda: CAPABILITY)
    asked: list[tuple[str, str]] = field(default_factory=list)
    calls: list[Json] = field(default_factory=list)
    _known: WeakKeyDictionary[Any, dict[str, Json]] = field(default_factory=WeakKeyDictionary)
    _outcomes: dict[str, Json] = field(default_factory=dict)
    _over: dict[str, anyio.Event] = field(default_factory=dict)
    _questions: dict[str, object] = field(default_factory=dict)  # "model", or anything for a form.

    def server(self) -> Server[Any]:
        """The server itself."""
        server: Server[Any] = Server("jobs", version="1")
        server.middleware.append(self._answer)
        for method in ("tools/list", "tools/call", "tasks/get", "tasks/result", "tasks/cancel"):
            server.add_request_handler(method, RequestParams, _unreached)
        return server

    async def _answer(self, ctx: Any, call_next: Any) -> Any:
        params = dict(ctx.params or {})
        match ctx.method:
            case "server/discover":
                raise MCPError(code=METHOD_NOT_FOUND, message="Method not found")
            case "initialize":
                result = await call_next(ctx)
                raw = result if isinstance(result, dict) else result.model_dump(by_alias=True, exclude_none=True)
                raw["capabilities"]["tools"] = {}
                if self.capability is not None:
                    raw["capabilities"]["tasks"] = self.capability
                return raw
            case "tools/list":
                return {"tools": TOOLS}
            case "tools/call":
                self.calls.append(params)
                return self._called(ctx, params, params.get("arguments") or {})
            case "tasks/get" | "tasks/result" | "tasks/cancel":
                self.asked.append((ctx.method, params["taskId"]))
                return await self._about(ctx, ctx.method, self._task(ctx, params["taskId"]))
            case _:
                return await call_next(ctx)

    def _called(self, ctx: Any, params: Json, arguments: Json) -> Json:
        name, wish = params["name"], params.get("task")
        if name == "finish":
            self.finish(ctx, **arguments)
            return text("done")
        if name == "must" and wish is None:
            raise MCPError(code=METHOD_NOT_FOUND, message="only as a task")
        if wish is None:
            return text(f"{name} at once at {self.place}")
        task_id = arguments.get("task_id") or str(uuid4())
        task = {"taskId": task_id, "status": "working", **TIMES, "ttl": wish.get("ttl", 60_000), "pollInterval": 100}
        if arguments.get("asks"):
            task["status"] = "input_required"
            self._questions[task_id] = arguments["asks"]
        self._known.setdefault(ctx.session._connection, {})[task_id] = task
        return {"task": task, "_meta": {"x": 1}}

    def _task(self, ctx: Any, task_id: str) -> Json:
        task = self._known.get(ctx.session._connection, {}).get(task_id)
        if task is None:
            raise MCPError(code=INVALID_PARAMS, message=f"no such task at {self.place}")
        return task

    def finish(
        self, ctx: Any, task_id: str, status: str = "completed", says: str | None = None, **outcome: Any
    ) -> None:
        """End a task; its outcome is a result with a text, a link and a number, unless another one is given.

        With `says`, that is all there is of it, as of a tool on the Python SDK 1 that raised.
        """
        self._task(ctx, task_id)["status"] = status
        if says is not None:
            self._task(ctx, task_id)["statusMessage"] = says
            self._outcomes[task_id] = {}
            self._over.setdefault(task_id, anyio.Event()).set()
            return
        link = {"type": "resource_link", "name": "home", "uri": HOME}
        usual = text(f"{task_id} at {self.place}")
        self._outcomes[task_id] = outcome or {
            **usual,
            "content": [*usual["content"], link],
            "structuredContent": {"large": LARGE},
        }
        self._over.setdefault(task_id, anyio.Event()).set()

    async def _about(self, ctx: Any, method: str, task: Json) -> Json:
        task_id = task["taskId"]
        if method == "tasks/get":
            return task
        if method == "tasks/cancel":
            if task["status"] in ("completed", "failed", "cancelled"):
                raise MCPError(code=INVALID_PARAMS, message="it has ended")
            task["status"] = "cancelled"
            return task
        if task["status"] == "input_required":
            await self._ask(ctx, task)
        await self._over.setdefault(task_id, anyio.Event()).wait()
        outcome = self._outcomes[task_id]
        if "code" in outcome:
            raise MCPError(**outcome)
        return {**outcome, "_meta": {RELATED: {"taskId": task_id}}}

    async def _ask(self, ctx: Any, task: Json) -> None:
        params = types.ElicitRequestFormParams.model_validate({**FORM, "_meta": {RELATED: {"taskId": task["taskId"]}}})
        try:
            if self._questions[task["taskId"]] == "model":
                said = await _told_by_model(ctx, "A name?")
            else:
                answer = await ctx.session.elicit_form(params.message, params.requested_schema, ctx.request_id)
                said = str(answer.content)
        except MCPError as exc:
            said = f"refused with {exc.error.code}"
        self.finish(ctx, task["taskId"], **text(said))


async def _told_by_model(ctx: Any, about: str) -> str:
    # Not by `create_message`, which warns that it is of the past.
    message = types.SamplingMessage(role="user", content=types.TextContent(text=about))
    asked = types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=9))
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    told = await ctx.session.send_request(asked, types.CreateMessageResult, metadata=metadata)
    return str(told.content)


def text(said: str) -> Json:
    return {"content": [{"type": "text", "text": said}]}


async def _unreached(_ctx: Any, _params: RequestParams) -> Json:
    raise AssertionError("the middleware answers first")


async def _serve() -> None:
    server = SessionTasks().server()
    async with stdio_server() as (reads, writes):
        await server.run(reads, writes, server.create_initialization_options())


if __name__ == "__main__":
    # The SDK's loop of both eras is exchanged for the one that serves sessions alone.
    lowlevel_server.serve_dual_era_loop = serve_loop
    anyio.run(_serve)
