"""The MCP toolset of Pydantic AI."""

from driver import drive, headers
from pydantic_ai.mcp import MCPToolset


class PydanticAi:
    async def connect(self, url: str, token: str) -> None:
        self.toolset = MCPToolset(url, headers=headers(token))
        await self.toolset.__aenter__()

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.toolset.list_tools()]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        return "returned", str(await self.toolset.direct_call_tool(name, arguments))

    async def close(self) -> None:
        await self.toolset.__aexit__(None, None, None)


drive(PydanticAi())
