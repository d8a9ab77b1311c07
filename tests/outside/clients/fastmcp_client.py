"""The client of FastMCP."""

from driver import drive, headers, text_of
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport


class FastMcp:
    async def connect(self, url: str, token: str) -> None:
        self.client = Client(StreamableHttpTransport(url, headers=headers(token)))
        await self.client.__aenter__()

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.client.list_tools()]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        return "returned", text_of((await self.client.call_tool(name, arguments)).content)

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)


drive(FastMcp())
