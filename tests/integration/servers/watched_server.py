"""A real server of both eras, or of sessions only, whose resources are subscribed to; run as a file it speaks stdio.

Built on the SDK's low-level server, since FastMCP has no subscriptions. The one rule: what it is subscribed to at this
moment, and how often it was asked, can be asked of it with a tool, over any transport.
"""

import asyncio
import os
import sys
from collections import Counter
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    RequestParams,
    Resource,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    TextContent,
    TextResourceContents,
    Tool,
    UnsubscribeRequestParams,
)

Context = ServerRequestContext[Any, Any]

RESOURCES = ["watch://one", "watch://two", "watch://refused", "watch://shelf/"]
TOOLS = ["touch", "awaited", "die"]


class Watched:
    """The server, what it is subscribed to (URI -> how often), and how often it was asked to subscribe."""

    def __init__(self, *, legacy: bool = False, subscribable: bool = True) -> None:
        self.held: Counter[str] = Counter()
        self.asked = 0
        self._changed = asyncio.Event()
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self._sessions: dict[Any, set[str]] = {}
        self._legacy = legacy
        self.server: Server[Any] = Server("watched", version="1")
        self.server.middleware.append(self._refuse_modern)
        handlers: list[tuple[str, type[RequestParams], Any]] = [
            ("tools/list", PaginatedRequestParams, self._list_tools),
            ("tools/call", CallToolRequestParams, self._call),
            ("resources/list", PaginatedRequestParams, self._list_resources),
            ("resources/read", ReadResourceRequestParams, self._read),
        ]
        if subscribable:
            handlers += [
                ("resources/subscribe", SubscribeRequestParams, self._subscribe),
                ("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe),
                ("subscriptions/listen", SubscriptionsListenRequestParams, self._serve_stream),
            ]
        for method, params_type, answer in handlers:
            self.server.add_request_handler(method, params_type, answer)

    async def touch(self, uri: str) -> None:
        """Tell every subscriber that a resource has changed; of one on the shelf, those that watch the shelf."""
        await self._bus.publish(ResourceUpdated(uri))
        for connection, uris in tuple(self._sessions.items()):
            if uri in uris or ("watch://shelf/" in uris and uri.startswith("watch://shelf/")):
                await connection.send_resource_updated(uri)

    async def holds(self, *uris: str) -> None:
        """Wait until exactly these are subscribed to."""
        while set(+self.held) != set(uris):
            self._changed.clear()
            await self._changed.wait()

    async def _refuse_modern(self, ctx: Context, call_next: Any) -> Any:
        if self._legacy and ctx.method == "server/discover":
            if ctx.request is None:
                os._exit(1)  # Over pipes the SDK's era is settled by the first message; so a server of old hangs up.
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found")
        return await call_next(ctx)

    async def _list_tools(self, _ctx: Context, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in TOOLS])

    async def _list_resources(self, _ctx: Context, _params: Any) -> ListResourcesResult:
        return ListResourcesResult(resources=[Resource(uri=uri, name=uri.rpartition("//")[2]) for uri in RESOURCES])

    async def _read(self, _ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        return ReadResourceResult(contents=[TextResourceContents(uri=params.uri, text="read")])

    async def _call(self, _ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        arguments = params.arguments or {}
        match params.name:
            case "touch":
                await self.touch(arguments["uri"])
            case "die":
                os._exit(3)
            case "awaited":
                await self.holds(*arguments["uris"])
        return CallToolResult(content=[TextContent(text=str(self.asked))])

    async def _serve_stream(self, ctx: Context, params: SubscriptionsListenRequestParams) -> Any:
        asked = params.notifications.resource_subscriptions or []
        params.notifications.resource_subscriptions = uris = [uri for uri in asked if uri != "watch://refused"]
        self._count(uris, 1)
        try:
            return await self._listen(ctx, params)
        finally:
            self._count(uris, -1)

    async def _subscribe(self, ctx: Context, params: SubscribeRequestParams) -> dict[str, Any]:
        if params.uri == "watch://refused":
            raise MCPError(code=INVALID_PARAMS, message="not for you")
        self._sessions.setdefault(ctx.session._connection, set()).add(params.uri)
        self._count([params.uri], 1)
        return {}

    async def _unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> dict[str, Any]:
        self._sessions.setdefault(ctx.session._connection, set()).discard(params.uri)
        self._count([params.uri], -1)
        return {}

    def _count(self, uris: list[str], by: int) -> None:
        self.asked += by > 0 and bool(uris)
        for uri in uris:
            self.held[uri] += by
        self._changed.set()


async def _serve() -> None:
    server = Watched(legacy="legacy" in sys.argv).server
    async with stdio_server() as (reads, writes):
        await server.run(reads, writes, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(_serve)
