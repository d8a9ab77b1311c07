"""The node's own tools and resources on FastMCP: five management tools, three for searching, an MCP App.

Imported by `agent.server.own_tools` in a thread, when one of them is first called or read: FastMCP takes a second and
60 MB. Clients see their definitions before that, in `own_definitions.json`, which `make definitions` writes from here.
The one rule: these tools only read snapshots and request reloads, they never touch a link.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastmcp import FastMCP
from fastmcp.apps.config import AppConfig
from fastmcp.exceptions import FastMCPError, McpError, ToolError, to_mcp_error
from fastmcp.tools import ToolResult
from mcp_types import CallToolResult, ReadResourceResult, TextContent
from mcp_types.methods import serialize_server_result
from pydantic import Field

from agent.client.capabilities import PAGE_TYPE
from agent.errors import MCPError, MeshError
from agent.lossless_json.exact import as_plain
from agent.model import Json
from agent.server.node_operations import NodeOperations
from agent.server.overview import PAGE_URI, as_text, overview
from agent.server.search import LIMIT_MAX, ToolSearch

Here = Callable[[], Awaitable[Json]]
OtherNode = Annotated[str | None, Field(description="Another node of the mesh to ask; this one by default")]


class Management:
    """A FastMCP server with the tools and resources of one endpoint; the arguments are those of `OwnTools`."""

    def __init__(
        self, name: str, node_status: NodeOperations | None, search: ToolSearch | None, *, asks_others: bool = True
    ) -> None:
        """`node_status` None: of a view, which has the search tools alone."""
        # Schemas stay as they are declared, and FastMCP's own host guard is off: the edge checks every route.
        self._server: FastMCP = FastMCP(name, dereference_schemas=False)
        # All are coroutines: FastMCP runs plain functions in threads, where `node_status` would have no event loop.
        if node_status is not None:
            ask = _Answerer(name, node_status, asks_others=asks_others)
            _add_listings(self._server, node_status, ask)
            _add_reloads(self._server, node_status, ask)
            _add_resources(self._server, node_status)
            _add_overview(self._server, name, node_status, ask)
        if search is not None:
            _add_search_tools(self._server, search)

    def __repr__(self) -> str:
        return f"<Management {self._server.name}>"

    async def definitions(self) -> dict[str, list[Json]]:
        """Its tools and resources as clients see them."""
        tools = [tool.to_mcp_tool(name=tool.name) for tool in await self._server.list_tools()]
        found = await self._server.list_resources()
        resources = [resource.to_mcp_resource(uri=str(resource.uri)) for resource in found]
        return {
            "tools": [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in tools],
            "resources": [resource.model_dump(by_alias=True, mode="json", exclude_none=True) for resource in resources],
        }

    async def answer(self, method: str, params: Json, version: str) -> Json:
        """The result of `tools/call` or `resources/read`, in the shape of that version.

        A tool's failure, and arguments that it does not take, are a result with `isError`; raises `MCPError` for a
        resource that cannot be read.
        """
        result: CallToolResult | ReadResourceResult
        match method:
            case "tools/call":
                result = await _called(self._server, params["name"], params.get("arguments") or {})
            case "resources/read":
                try:
                    read = await self._server.read_resource(params["uri"])
                except (FastMCPError, McpError) as exc:
                    error = to_mcp_error(exc)
                    raise MCPError(error.code, error.message, error.data) from exc
                result = read.to_mcp_result(params["uri"])
            case _:
                raise AssertionError(method)
        return serialize_server_result(
            method, version, result.model_dump(by_alias=True, mode="json", exclude_none=True)
        )


async def _called(server: FastMCP, name: str, arguments: Json) -> CallToolResult:
    try:
        result = (await server.call_tool(name, arguments)).to_mcp_result()
    except FastMCPError as exc:
        return CallToolResult(content=[TextContent(type="text", text=str(exc))], is_error=True)
    match result:
        case CallToolResult():
            return result
        case tuple():
            content, structured = result
            return CallToolResult(content=content, structured_content=structured)
        case _:
            return CallToolResult(content=result)


class _Answerer:
    """Answers a tool call here, or through the named node."""

    def __init__(self, own_name: str, node_status: NodeOperations, *, asks_others: bool) -> None:
        self._own_name = own_name
        self._node_status = node_status
        self._asks_others = asks_others

    async def __call__(self, node: str | None, tool: str, arguments: Json, here: Here) -> Json:
        """`here` gives our own answer; it is not called when another node answers."""
        try:
            if node is None or node == self._own_name:
                return _writable(await here())
            if self._asks_others:
                return _writable(await self._node_status.ask(node, tool, arguments))
        except MeshError as exc:
            raise ToolError(str(exc)) from exc
        raise ToolError(f"This endpoint answers for node {self._own_name!r} alone.")


def _writable(answer: Json) -> Json:
    """The answer without what servers may say and FastMCP cannot write, half a surrogate pair for one."""
    plain: Json = as_plain(answer)
    return plain


def _add_listings(server: FastMCP, node_status: NodeOperations, ask: _Answerer) -> None:
    @server.tool
    async def list_mcp_servers(node: OtherNode = None) -> dict[str, Any]:
        """List every configured MCP server and every peer node with its status."""

        async def here() -> Json:
            servers = [
                {key: value for key, value in entry.items() if key != "functions"}
                for entry in node_status.servers(for_clients=True)
            ]
            return {"servers": servers, "count": len(servers)}

        return await ask(node, "list_mcp_servers", {}, here)

    @server.tool
    async def get_mcp_server_functions(server_name: str, node: OtherNode = None) -> dict[str, Any]:
        """Show the functions of one MCP server or peer: the name it uses itself and the name in the mesh."""

        async def here() -> Json:
            return node_status.functions(server_name)

        return await ask(node, "get_mcp_server_functions", {"server_name": server_name}, here)

    @server.tool
    async def get_available_mcp_servers(node: OtherNode = None) -> dict[str, Any]:
        """List the names of the MCP servers and peers that are connected now."""

        async def here() -> Json:
            names = [entry["name"] for entry in node_status.servers(for_clients=True) if entry["connected"]]
            return {"servers": names, "count": len(names)}

        return await ask(node, "get_available_mcp_servers", {}, here)


def _add_reloads(server: FastMCP, node_status: NodeOperations, ask: _Answerer) -> None:
    @server.tool
    async def reload_mcp_server(server_name: str, node: OtherNode = None) -> dict[str, Any]:
        """Open the connection to one MCP server or peer anew and report how it went."""
        named = {"server_name": server_name}
        return await ask(node, "reload_mcp_server", named, lambda: node_status.reload(server_name))

    @server.tool
    async def reload_all_mcp_servers(node: OtherNode = None) -> dict[str, Any]:
        """Read the servers file again and open every enabled MCP server anew."""

        async def here() -> Json:
            servers = await node_status.reload_all()
            return {"servers": servers, "count": len(servers)}

        return await ask(node, "reload_all_mcp_servers", {}, here)


def _add_resources(server: FastMCP, node_status: NodeOperations) -> None:
    @server.resource("config://app", mime_type="application/json")
    async def app_config() -> dict[str, Any]:
        """The application's configuration, without secrets."""
        return node_status.config()

    @server.resource("health://system", mime_type="application/json")
    async def system_health() -> dict[str, Any]:
        """The health of this node: links, discovery, uptime."""
        return node_status.health()


def _add_overview(server: FastMCP, name: str, node_status: NodeOperations, ask: _Answerer) -> None:
    @server.tool(app=AppConfig(resource_uri=PAGE_URI), annotations={"readOnlyHint": True})
    async def show_mesh(node: OtherNode = None) -> ToolResult:
        """Show the mesh: a node with its servers and peers, which are connected, and why the others are not."""

        async def here() -> Json:
            return overview(name, node_status.health()["status"], node_status.servers(for_clients=True))

        seen = await ask(node, "show_mesh", {}, here)
        return ToolResult(as_text(seen), structured_content=seen)

    @server.resource(PAGE_URI, mime_type=PAGE_TYPE)
    async def overview_page() -> str:
        """The mesh as a picture that stays up to date."""
        return node_status.overview_page()


def _add_search_tools(server: FastMCP, search: ToolSearch) -> None:
    @server.tool
    async def search_tools(
        query: Annotated[str, Field(description="What the tool should do, in a few words; empty lists by name")],
        limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = 10,
    ) -> dict[str, Any]:
        """Find tools of the mesh by what they do, best first. describe_tool shows their arguments, call_tool calls."""
        return await search.search(query, limit)

    @server.tool
    async def describe_tool(name: str) -> dict[str, Any]:
        """Show the whole definition of a tool: description, input schema, annotations."""
        if (routed := search.describe(name)) is not None:
            return routed
        if (own := await server.get_tool(name)) is not None:
            return own.to_mcp_tool().model_dump(by_alias=True, exclude_none=True, mode="json")
        raise ToolError(f"There is no tool named {name!r}; search_tools finds the right name")

    @server.tool
    async def call_tool(name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call a tool of the mesh by its name, with the arguments that describe_tool shows."""
        raise AssertionError(f"unwrapped before it gets here: {name} {arguments is None}")
