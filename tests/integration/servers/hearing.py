"""What clients of one node hear while a server of it, called `wall`, gets one more tool.

For tests of views and single servers. The one rule: what must not be heard has had its time, because something was
heard and the mesh has settled.
"""

import asyncio

from fastmcp import FastMCP

from agent.client.protocol import McpClient
from agent.model import Era
from tests.integration.servers.clock_server import ask
from tests.integration.servers.nodes import RunningNode, client


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
            if what == "tools":  # A server that is dialled anew changes other lists before.
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

        await reload_wall(node)
        async with asyncio.timeout(10):
            await told.wait()
        await node.when(lambda: "wall__chime" in node.tool_names())
        await node.mesh.settled()
        for task in tasks:
            task.cancel()
    return heard


async def reload_wall(node: RunningNode) -> None:
    """Have the server listed anew, by the node that has it: this one, or the first behind it (`hops.front_of`)."""
    where = {} if node.is_up("wall") else {"node": "n0"}
    async with client(node.url, Era.MODERN) as mcp:
        done = await ask(mcp, "tools/call", name="reload_mcp_server", arguments={"server_name": "wall", **where})
    assert done["structuredContent"]["status"] == "connected", done
