"""The MCP adapters of LangChain, which open a session for each call."""

from driver import drive, headers
from langchain_mcp_adapters.client import MultiServerMCPClient


class LangChain:
    async def connect(self, url: str, token: str) -> None:
        connection = {"transport": "streamable_http", "url": url, "headers": headers(token)}
        self.client = MultiServerMCPClient({"node": connection})
        self.known = {tool.name: tool for tool in await self.client.get_tools()}

    async def tools(self) -> list[str]:
        self.known = {tool.name: tool for tool in await self.client.get_tools()}
        return list(self.known)

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        message = await self.known[name].ainvoke({"type": "tool_call", "id": "1", "name": name, "args": arguments})
        return "error" if message.status == "error" else "returned", str(message.content)

    def close(self) -> None:
        """Nothing is held."""


drive(LangChain())
