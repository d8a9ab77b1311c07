"""A real FastMCP server with tools that show what a client must get right; run as a file it speaks stdio.

Imported by the HTTP client tests. The one rule: what a tool saw (that it ran, that it was cancelled) is written down in
the `Diary` that the test holds.
"""

import asyncio
import os
import sys
from dataclasses import dataclass, field

from fastmcp import Context, FastMCP
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import SubscriptionsListenRequestParams


@dataclass
class Diary:
    """What happened inside the server."""

    calls: list[str] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: list[object] = field(default_factory=list)


def make_server(diary: Diary | None = None, *, listen: bool = False) -> FastMCP:
    """A server with a diary; with `listen` it also serves `subscriptions/listen` (FastMCP itself does not)."""
    server: FastMCP = FastMCP("fixture", instructions="Be kind.")
    _add_plain_tools(server, diary if diary is not None else Diary())
    bus = InMemorySubscriptionBus()
    if listen:
        server._mcp_server.add_request_handler(
            "subscriptions/listen", SubscriptionsListenRequestParams, ListenHandler(bus)
        )

    @server.tool
    async def announce(ctx: Context) -> str:
        """Say that the tools changed, the way the era of the caller has for it."""
        await bus.publish(ToolsListChanged())
        await ctx.session._connection.send_tool_list_changed()
        return "announced"

    return server


def _add_plain_tools(server: FastMCP, diary: Diary) -> None:
    @server.tool
    def echo(text: str) -> str:
        diary.calls.append(text)
        return text

    @server.tool
    def environment(name: str) -> str:
        return os.environ.get(name, "(absent)")

    @server.tool
    def fill(size: int) -> str:
        return "x" * size

    @server.tool
    async def count(to: int, ctx: Context) -> str:
        for step in range(to):
            await ctx.report_progress(step, to)
        return "counted"

    @server.tool
    async def wait(ctx: Context) -> str:
        await ctx.report_progress(0)
        diary.waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            diary.cancelled.set()
            raise
        return "never"


if __name__ == "__main__":
    make_server(listen="listen" in sys.argv).run("stdio", show_banner=False)
