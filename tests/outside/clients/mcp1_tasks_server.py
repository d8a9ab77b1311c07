"""A server with tasks on the Python SDK 1, over HTTP: `python mcp1_tasks_server.py PORT`.

Only the session that made a task knows it there. The one rule: its tasks are made and kept by published code alone.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp.server.experimental.task_context import ServerTaskContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, CreateTaskResult, TextContent, Tool, ToolExecution
from starlette.applications import Starlette
from starlette.routing import Mount

SCHEMA = {"type": "object"}
NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

server: Server[Any, Any] = Server("tasks")
server.experimental.enable_tasks()


@server.list_tools()
async def tools() -> list[Tool]:
    """Tools that are tasks alone."""
    needs = ToolExecution(taskSupport="required")
    return [Tool(name=name, inputSchema=SCHEMA, execution=needs) for name in ("work", "fail", "greet")]


@server.call_tool()
async def call(name: str, _arguments: dict[str, Any]) -> CreateTaskResult:
    """Begin the task of a tool."""

    async def work(task: ServerTaskContext) -> CallToolResult:
        if name == "fail":
            raise RuntimeError("disk full")
        said = "worked"
        if name == "greet":
            answer = await task.elicit("Who is there?", NAME)
            said = f"hello {(answer.content or {}).get('name')}"
        return CallToolResult(content=[TextContent(type="text", text=said)])

    context = server.request_context
    context.experimental.validate_task_mode("required")
    return await context.experimental.run_task(work)


manager = StreamableHTTPSessionManager(app=server)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Sessions as long as the server runs."""
    async with manager.run():
        yield


app = Starlette(routes=[Mount("/mcp", app=manager.handle_request)], lifespan=lifespan)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
