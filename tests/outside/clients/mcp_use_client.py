"""The client of mcp-use for Python."""

from driver import drive, headers, text_of
from mcp_use import MCPClient


class McpUse:
    async def connect(self, url: str, token: str) -> None:
        self.client = MCPClient.from_dict({"mcpServers": {"node": {"url": url, "headers": headers(token)}}})
        self.session = await self.client.create_session("node")

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.session.list_tools()]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = await self.session.call_tool(name, arguments)
        failed = getattr(result, "is_error", None) or getattr(result, "isError", None)
        return "error" if failed else "returned", text_of(result.content)

    async def close(self) -> None:
        await self.client.close_all_sessions()


drive(McpUse())
