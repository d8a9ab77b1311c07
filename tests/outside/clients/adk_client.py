"""The MCP toolset of Google's Agent Development Kit."""

import json
from types import SimpleNamespace

from driver import drive, headers
from google.adk.tools.mcp_tool import McpToolset, StreamableHTTPConnectionParams


class Adk:
    async def connect(self, url: str, token: str) -> None:
        self.toolset = McpToolset(
            connection_params=StreamableHTTPConnectionParams(url=url, headers=headers(token), timeout=30)
        )
        self.known = {tool.name: tool for tool in await self.toolset.get_tools()}

    async def tools(self) -> list[str]:
        self.known = {tool.name: tool for tool in await self.toolset.get_tools()}
        return list(self.known)

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        # The context of an agent that runs; a tool without authentication asks it nothing.
        result = await self.known[name]._run_async_impl(args=arguments, tool_context=SimpleNamespace(), credential=None)
        return "error" if result.get("isError") else "returned", json.dumps(result, ensure_ascii=False)

    async def close(self) -> None:
        await self.toolset.close()


drive(Adk())
