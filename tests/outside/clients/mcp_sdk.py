"""The client of Python's MCP SDK 2."""

from contextlib import AsyncExitStack

import httpx2
from driver import drive, headers, text_of
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


class Sdk:
    async def connect(self, url: str, token: str) -> None:
        self.stack = AsyncExitStack()
        timeout = httpx2.Timeout(30, read=300)
        http = await self.stack.enter_async_context(httpx2.AsyncClient(headers=headers(token), timeout=timeout))
        self.client = await self.stack.enter_async_context(Client(streamable_http_client(url, http_client=http)))

    async def tools(self) -> list[str]:
        names, cursor = [], None
        while True:
            page = await self.client.list_tools(cursor=cursor)
            names += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            if not cursor:
                return names

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = await self.client.call_tool(name, arguments)
        return "error" if result.is_error else "returned", text_of(result.content)

    async def close(self) -> None:
        await self.stack.aclose()


drive(Sdk())
