"""What clients of one node hear while a server of it, called `wall`, gets one more tool.

For tests of views and single servers. The one rule: what must not be heard has had its time, because something was
heard and the mesh has settled.
"""

import asyncio

from fastmcp import FastMCP

from agent.client.protocol import McpClient
from tests.integration.servers.nodes import RunningNode


async def heard_while(node: RunningNode, clients: dict[str, McpClient], growing: FastMCP) -> dict[str, list[str]]:
    """The changes that each of `clients` was notified of, by its name there. `growing`: the server."""
    heard: dict[str, list[str]] = {name: [] for name in clients}
    listening = {name: asyncio.Event() for name in clients}
    told = asyncio.Event()

    def hear(name: str, what: str) -> None:
        if what == "listening":
            listening[name].set()
        else:
            heard[name].append(what)
            told.set()

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(mcp.listen(lambda what, name=name: hear(name, what)), name=name)
            for name, mcp in clients.items()
        ]
        for event in listening.values():
            await event.wait()

        @growing.tool
        def chime() -> str:
            return "ding"

        await node.mesh.reload("wall", 10)
        async with asyncio.timeout(10):
            await told.wait()
        await node.mesh.settled()
        for task in tasks:
            task.cancel()
    return heard
