"""The node's own MCP server: five management tools and two resources, on FastMCP.

Built once per endpoint by the wiring; `agent.api.front` stands before it and answers everything that is routed. The
one rule: these tools only read snapshots and ask the mesh for reloads, they never touch a link.
"""

from typing import Any, Protocol

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError

from agent.errors import MeshError
from agent.model import Json


class NodeDesk(Protocol):
    """What the management tools may ask of the node (`agent.api.desk`)."""

    def servers(self) -> list[Json]:
        """Every configured server and every peer, as `data.servers` shows them."""
        ...

    def functions(self, server_name: str) -> Json:
        """One of them with its functions. Raises `MeshError` when there is none of that name."""
        ...

    async def reload(self, server_name: str) -> Json:
        """Close and open its link anew. Raises `MeshError` when there is none of that name."""
        ...

    async def reload_all(self) -> list[Json]:
        """Read the servers file again and open every enabled server's link anew."""
        ...

    def config(self) -> Json:
        """The node's settings, secrets masked."""
        ...

    def health(self) -> Json:
        """What `health://system` says."""
        ...


def build_management(name: str, version: str, desk: NodeDesk) -> FastMCP:
    """Return a FastMCP server with the management tools and resources of the contract."""
    # Schemas stay as they are declared, and FastMCP's own host guard is off: the edge checks every route.
    server: FastMCP = FastMCP(name, version=version, dereference_schemas=False, instructions=_INSTRUCTIONS)

    # Coroutines all: FastMCP runs plain functions in threads, where the desk has no loop to ask the time of.

    @server.tool
    async def list_mcp_servers() -> dict[str, Any]:
        """List every configured MCP server and every peer node with its status."""
        servers = [{key: value for key, value in entry.items() if key != "functions"} for entry in desk.servers()]
        return {"servers": servers, "count": len(servers)}

    @server.tool
    async def reload_mcp_server(server_name: str) -> dict[str, Any]:
        """Open the connection to one MCP server or peer anew and report how it went."""
        try:
            return await desk.reload(server_name)
        except MeshError as exc:
            raise ToolError(str(exc)) from exc

    @server.tool
    async def reload_all_mcp_servers() -> dict[str, Any]:
        """Read the servers file again and open every enabled MCP server anew."""
        try:
            servers = await desk.reload_all()
        except MeshError as exc:
            raise ToolError(str(exc)) from exc
        return {"servers": servers, "count": len(servers)}

    @server.tool
    async def get_mcp_server_functions(server_name: str) -> dict[str, Any]:
        """Show the functions of one MCP server or peer: the name it uses itself and the name in the mesh."""
        try:
            return desk.functions(server_name)
        except MeshError as exc:
            raise ToolError(str(exc)) from exc

    @server.tool
    async def get_available_mcp_servers() -> dict[str, Any]:
        """List the names of the MCP servers and peers that are connected now."""
        names = [entry["name"] for entry in desk.servers() if entry["connected"]]
        return {"servers": names, "count": len(names)}

    _add_resources(server, desk)
    return server


def _add_resources(server: FastMCP, desk: NodeDesk) -> None:
    @server.resource("config://app", mime_type="application/json")
    async def app_config() -> dict[str, Any]:
        """The application's configuration, without secrets."""
        return desk.config()

    @server.resource("health://system", mime_type="application/json")
    async def system_health() -> dict[str, Any]:
        """The health of this node: links, discovery, uptime."""
        return desk.health()


_INSTRUCTIONS = (
    "This is a node of an MCP mesh. Its tools are those of every MCP server in the mesh, named server__tool or "
    "node__server__tool. list_mcp_servers tells where they live and whether they are reachable."
)
