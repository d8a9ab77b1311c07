"""A server on fastmcp-tasks, over HTTP: `python fastmcp_tasks_server.py PORT`.

The one rule: its tasks are made and kept by published code alone.
"""

import asyncio
import sys

import mcp_types
from fastmcp import Context, FastMCP
from fastmcp_tasks import TasksExtension

server = FastMCP("tasks")
server.add_extension(TasksExtension())


@server.tool(task=True)
async def multiply(a: int, b: int) -> int:
    """Take a moment to multiply."""
    await asyncio.sleep(0.3)
    return a * b


@server.tool(task=True)
async def fail() -> str:
    """End in an error."""
    raise ValueError("disk full")


@server.tool(task=True)
async def wait() -> str:
    """Take a minute."""
    await asyncio.sleep(60)
    return "waited"


@server.tool(task=True)
async def greet(ctx: Context) -> str | mcp_types.InputRequiredResult:
    """Ask for a name."""
    answers = ctx.input_responses
    if answers is None:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        params = mcp_types.ElicitRequestFormParams(message="Who is there?", requested_schema=schema)
        asked = {"name": mcp_types.ElicitRequest(params=params)}
        return mcp_types.InputRequiredResult(result_type="input_required", input_requests=asked)
    return f"hello {answers['name'].content['name']}"


server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
