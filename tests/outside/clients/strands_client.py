"""The MCP client of Strands Agents, which runs a loop of its own in a thread."""

from driver import drive, headers, text_of
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from strands.tools.mcp import MCPClient


class Strands:
    def connect(self, url: str, token: str) -> None:
        self.client = MCPClient(
            lambda: streamable_http_client(url, http_client=create_mcp_http_client(headers=headers(token)))
        )
        self.client.start()

    def tools(self) -> list[str]:
        return [tool.tool_name for tool in self.client.list_tools_sync()]

    def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        result = self.client.call_tool_sync("1", name, arguments)
        return "error" if result["status"] == "error" else "returned", text_of(result["content"])

    def close(self) -> None:
        self.client.stop(None, None, None)


drive(Strands())
