"""The MCP client of LlamaIndex, which opens a session for each call."""

from driver import drive, headers
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec


class LlamaIndex:
    async def connect(self, url: str, token: str) -> None:
        self.client = BasicMCPClient(url, headers=headers(token))
        self.known = {tool.metadata.name: tool for tool in await McpToolSpec(self.client).to_tool_list_async()}

    async def tools(self) -> list[str]:
        self.known = {tool.metadata.name: tool for tool in await McpToolSpec(self.client).to_tool_list_async()}
        return list(self.known)

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        output = await self.known[name].acall(**arguments)
        return "error" if output.is_error else "returned", str(output.content)

    def close(self) -> None:
        """Nothing is held."""


drive(LlamaIndex())
