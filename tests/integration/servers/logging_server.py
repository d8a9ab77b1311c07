"""A real server of sessions only that logs while it works, at the level that was set; run as a file it speaks stdio.

Built on the SDK's low-level server. The one rule: each result tells the levels that were set so far, in their order.
"""

import os
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    SetLevelRequestParams,
    TextContent,
    Tool,
)

Context = ServerRequestContext[Any, Any]
LEVELS = ["debug", "info", "notice", "warning", "error"]


class Talker:
    """The server. `hold` says that it runs, and ends when a client has called `talk`, so that two are under way."""

    def __init__(self) -> None:
        self.levels: list[str] = []
        self._held = anyio.Event()
        self.server: Server[Any] = Server("talker", version="1")
        self.server.middleware.append(self._refuse_modern)
        handlers: list[tuple[str, Any, Any]] = [
            ("tools/list", PaginatedRequestParams, self._list),
            ("tools/call", CallToolRequestParams, self._call),
            ("logging/setLevel", SetLevelRequestParams, self._set_level),
        ]
        for method, params_type, answer in handlers:
            self.server.add_request_handler(method, params_type, answer)

    async def _refuse_modern(self, ctx: Context, call_next: Any) -> Any:
        if ctx.method == "server/discover":
            if ctx.request is None:
                os._exit(1)
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found")
        return await call_next(ctx)

    async def _list(self, _ctx: Context, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in ("talk", "hold")])

    async def _set_level(self, _ctx: Context, params: SetLevelRequestParams) -> dict[str, Any]:
        self.levels.append(params.level)
        return {}

    async def _call(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        if params.name == "hold":
            await ctx.session.report_progress(1)
            await self._held.wait()
        else:
            least = LEVELS.index(self.levels[-1]) if self.levels else LEVELS.index("warning")
            for level in LEVELS[least:]:
                note = {"level": level, "logger": "talker", "data": f"said {level}"}
                await ctx.session._request_outbound.notify("notifications/message", note)
            self._held.set()
        return CallToolResult(content=[TextContent(text=",".join(self.levels))])


async def _serve() -> None:
    server = Talker().server
    async with stdio_server() as (reads, writes):
        await server.run(reads, writes, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(_serve)
