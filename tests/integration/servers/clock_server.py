"""A server with one of everything, and a page that calls it; with what most tests of it need to ask it.

Called by tests of own names, single servers, introductions and views. The one rule: what it says is the same however
it is reached, so that answers can be compared.
"""

from typing import Any

from fastmcp import FastMCP
from fastmcp.apps.app import FastMCPApp
from mcp_types import ResourceLink

from agent.client.protocol import McpClient, Request
from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.nodes import CLIENT_TIMEOUT_S

PAGE = "ui://clock/page.html"


def clock_server(says: str = "twelve") -> FastMCP:
    server: FastMCP = FastMCP(
        "Grandfather", instructions="Wind it daily.", version="1.2", website_url="https://x.example"
    )

    @server.tool(name="get-time", meta={"ui": {"resourceUri": PAGE}})
    def get_time() -> list[Any]:
        """Tell the time."""
        return [says, ResourceLink(name="page", uri=PAGE, type="resource_link")]

    @server.tool
    def set_alarm(at: str) -> str:
        """Set an alarm."""
        return f"alarm at {at}"

    @server.resource(PAGE)
    def page() -> str:
        return "<p>the page</p>"

    @server.resource("videos://{number}")
    def video(number: str) -> str:
        return f"video {number}"

    @server.prompt
    def wind_up() -> str:
        return "wind it up"

    app = FastMCPApp("Alarms")

    @app.tool()
    def save(at: str) -> str:
        return f"saved {at}"

    server.add_provider(app)
    return server


def service(name: str, url: str, *, tags: tuple[str, ...] = ()) -> ServerSpec:
    return ServerSpec(name, HttpTarget(url), ServerScope.SERVICE, tags=tags)


async def ask(mcp: McpClient, method: str, **params: Any) -> Json:
    return await mcp.request(Request.within(method, params, timeout_s=CLIENT_TIMEOUT_S))


async def listed(mcp: McpClient, kind: str = "tools", name: str = "name") -> list[str]:
    method = {"resourceTemplates": "resources/templates"}.get(kind, kind)
    return [entry[name] for entry in (await ask(mcp, f"{method}/list"))[kind]]


async def text_of(mcp: McpClient, tool: str, /, **arguments: Any) -> str:
    called = await ask(mcp, "tools/call", name=tool, arguments=arguments)
    text: str = called["content"][0]["text"]
    return text
