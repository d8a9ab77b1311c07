"""The MCP plugin of Semantic Kernel."""

from driver import drive, headers, text_of
from semantic_kernel.connectors.mcp import MCPStreamableHttpPlugin


class SemanticKernel:
    async def connect(self, url: str, token: str) -> None:
        self.plugin = MCPStreamableHttpPlugin(name="node", url=url, headers=headers(token))
        await self.plugin.connect()

    def tools(self) -> list[str]:
        return [name for kind, name in self.plugin._mcp_registered_names.values() if kind == "tool"]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        return "returned", text_of(await self.plugin.call_tool(name, **arguments))

    async def close(self) -> None:
        await self.plugin.close()


drive(SemanticKernel())
