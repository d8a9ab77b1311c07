"""The MCP workbench of AutoGen."""

from autogen_ext.tools.mcp import McpWorkbench, StreamableHttpServerParams
from driver import drive, headers


class AutoGen:
    async def connect(self, url: str, token: str) -> None:
        self.bench = McpWorkbench(StreamableHttpServerParams(url=url, headers=headers(token)))
        await self.bench.start()

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in await self.bench.list_tools()]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = await self.bench.call_tool(name, arguments)
        return "error" if result.is_error else "returned", result.to_text()

    async def close(self) -> None:
        await self.bench.stop()


drive(AutoGen())
