"""The MCP adapter of CrewAI's tools, which runs a loop of its own in a thread."""

from crewai_tools import MCPServerAdapter
from driver import drive, headers


class CrewAi:
    def connect(self, url: str, token: str) -> None:
        self.adapter = MCPServerAdapter({"url": url, "transport": "streamable-http", "headers": headers(token)})

    def tools(self) -> list[str]:
        return [tool.name for tool in self.adapter.tools]

    def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        # It gives tools names of its own, in which two underscores are one.
        own = name.replace("__", "_")
        tool = next(tool for tool in self.adapter.tools if tool.name.replace("__", "_") == own)
        return "text", str(tool.run(**arguments))

    def close(self) -> None:
        self.adapter.stop()


drive(CrewAi())
