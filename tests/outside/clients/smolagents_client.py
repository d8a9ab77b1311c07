"""The MCP client of smolagents, which runs a loop of its own in a thread."""

from driver import drive, headers
from smolagents import MCPClient


class Smolagents:
    def connect(self, url: str, token: str) -> None:
        parameters = {"url": url, "transport": "streamable-http", "headers": headers(token)}
        self.client = MCPClient(parameters, structured_output=False)

    def tools(self) -> list[str]:
        return [tool.name for tool in self.client.get_tools()]

    def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        tool = next(tool for tool in self.client.get_tools() if tool.name == name)
        return "text", str(tool(**arguments))

    def close(self) -> None:
        self.client.disconnect()


drive(Smolagents())
