"""The MCP server class of the OpenAI Agents SDK."""

from agents.mcp import MCPServerStreamableHttp
from driver import drive, headers, text_of


class OpenAiAgents:
    async def connect(self, url: str, token: str) -> None:
        self.server = MCPServerStreamableHttp({"url": url, "headers": headers(token)})
        await self.server.connect()

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.server.list_tools()]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = await self.server.call_tool(name, arguments)
        failed = getattr(result, "is_error", None) or getattr(result, "isError", None)
        return "error" if failed else "returned", text_of(result.content)

    async def close(self) -> None:
        await self.server.cleanup()


drive(OpenAiAgents())
