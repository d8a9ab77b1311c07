"""The MCP tools of Agno."""

from agno.tools.mcp import MCPTools
from driver import drive, headers


class Agno:
    async def connect(self, url: str, token: str) -> None:
        self.kit = MCPTools(url=url, transport="streamable-http", headers=headers(token))
        await self.kit.connect()
        if not self.kit.functions:
            raise RuntimeError("connected, no functions")

    async def tools(self) -> list[str]:
        await self.kit.build_tools()
        return list(self.kit.functions)

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = await self.kit.functions[name].entrypoint(**arguments)
        return "text", str(getattr(result, "content", result))

    async def close(self) -> None:
        await self.kit.close()


drive(Agno())
