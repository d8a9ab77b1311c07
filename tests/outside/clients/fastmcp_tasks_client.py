"""FastMCP's own client with fastmcp-tasks: makes tasks, follows, answers and cancels them.

Prints what each step came to, as JSON. The one rule: nothing but the library's public functions is called.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastmcp import Client
from fastmcp_tasks import call_tool_task

WITHIN_S = 30


@dataclass
class Name:
    """The answer to the question of `greet`."""

    name: str


async def answer(_message: str, _type: Any, _params: Any, _context: Any) -> Name:
    """Say who is there."""
    return Name("Ada")


async def steps(url: str, prefix: str) -> dict[str, str]:
    """What each step came to."""
    found: dict[str, str] = {}

    async def step(name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(WITHIN_S):
                found[name] = str(await work())
        except Exception as exc:  # noqa: BLE001 - whatever a client raises is what its user sees
            found[name] = f"{type(exc).__name__}: {exc}"

    async with Client(url, elicitation_handler=answer) as client:

        async def plain() -> object:
            return (await client.call_tool(f"{prefix}multiply", {"a": 6, "b": 7})).data

        async def followed() -> object:
            task = await call_tool_task(client, f"{prefix}multiply", {"a": 3, "b": 5})
            first = (await task.status()).status
            ended = (await task.wait(timeout=WITHIN_S)).status
            return f"{first} {ended} {(await task.result()).data}"

        async def failed() -> object:
            return await client.call_tool(f"{prefix}fail", {})

        async def asked() -> object:
            return (await client.call_tool(f"{prefix}greet", {})).data

        async def cancelled() -> object:
            task = await call_tool_task(client, f"{prefix}wait", {})
            await task.cancel()
            return (await task.wait(timeout=WITHIN_S)).status

        for name, work in {
            "result": plain,
            "status": followed,
            "failure": failed,
            "question": asked,
            "cancel": cancelled,
        }.items():
            await step(name, work)
    return found


place = json.loads(sys.argv[1])
sys.stdout.write(json.dumps(asyncio.run(steps(place["url"], place["prefix"]))) + "\n")
