"""The client of the Python SDK 1: makes tasks, follows them to their ends, and answers what they ask.

Prints what each step came to, as JSON. The one rule: nothing but the library's public functions is called.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ElicitResult

WITHIN_S = 30


async def answer(_context: Any, _params: Any) -> ElicitResult:
    """Say who is there."""
    return ElicitResult(action="accept", content={"name": "Ada"})


async def steps(url: str, prefix: str) -> dict[str, str]:
    """What each step came to."""
    found: dict[str, str] = {}

    async def step(name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(WITHIN_S):
                found[name] = str(await work())
        except Exception as exc:  # noqa: BLE001 - whatever a client raises is what its user sees
            found[name] = f"{type(exc).__name__}: {exc}"

    async with (
        streamable_http_client(url) as (reading, writing, _),
        ClientSession(reading, writing, elicitation_callback=answer) as session,
    ):
        await session.initialize()

        async def made(tool: str) -> str:
            return (await session.experimental.call_tool_as_task(f"{prefix}{tool}", {})).task.taskId

        async def said(task_id: str) -> str:
            result = await session.experimental.get_task_result(task_id, CallToolResult)
            return str(getattr(result.content[0], "text", ""))

        async def worked() -> object:
            task_id = await made("work")
            *_, last = [task.status async for task in session.experimental.poll_task(task_id)]
            return f"{last} {await said(task_id)}"

        async def failed() -> object:
            task_id = await made("fail")
            *_, last = [task async for task in session.experimental.poll_task(task_id)]
            return f"{last.status} {last.statusMessage}"

        async def asked() -> object:
            return await said(await made("greet"))

        async def listed() -> object:
            tasks = (await session.experimental.list_tasks()).tasks
            return " ".join(sorted(task.status for task in tasks))

        for name, work in {"result": worked, "failure": failed, "question": asked, "list": listed}.items():
            await step(name, work)
    return found


place = json.loads(sys.argv[1])
sys.stdout.write(json.dumps(asyncio.run(steps(place["url"], place["prefix"]))) + "\n")
