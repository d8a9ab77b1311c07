"""mcp-remote, a bridge from stdio to HTTP that desktop programs use; our own interpreter speaks stdio to it."""

import os

from driver import drive, text_of
from fastmcp import Client
from fastmcp.client.transports import StdioTransport


class McpRemote:
    async def connect(self, url: str, token: str) -> None:
        script = f"{os.environ['MODULES']}/mcp-remote/dist/proxy.js"
        header = ["--header", f"Authorization:Bearer {token}"] if token else []
        arguments = [script, url, "--allow-http", "--transport", "http-only", *header]
        transport = StdioTransport(os.environ["NODE"], arguments, env=dict(os.environ), keep_alive=False)
        self.client = Client(transport, timeout=90, init_timeout=40, mode="legacy")
        await self.client.__aenter__()

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.client.list_tools()]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = await self.client.call_tool(name, arguments, raise_on_error=False)
        return "error" if result.is_error else "returned", text_of(result.content)

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)


drive(McpRemote())
