"""The node's own MCP server: five management tools and two resources on FastMCP, and the node's introduction.

`build_management` is called once per endpoint by the wiring; `own_answer` calls a tool or reads a resource within this
process, for the servers of both eras. `discovery` and `session_initialize_result` give the results of `server/discover`
and `initialize`, with the node's identity in them (`with_card`). The one rule: these tools only read snapshots and
request reloads, they never touch a link.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, Protocol

import orjson
from fastmcp import FastMCP
from fastmcp.exceptions import FastMCPError, McpError, ToolError, to_mcp_error
from mcp_types import (
    INVALID_PARAMS,
    SERVER_INFO_META_KEY,
    CallToolResult,
    CompletionsCapability,
    DiscoverResult,
    Implementation,
    InitializeResult,
    LoggingCapability,
    PromptsCapability,
    ReadResourceResult,
    ResourcesCapability,
    ServerCapabilities,
    TextContent,
    ToolsCapability,
)
from mcp_types.methods import serialize_server_result
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from agent.errors import MCPError, MeshError
from agent.lossless_json.exact import with_own_numbers
from agent.model import DRAINING, MESH_EXTENSION, TASKS_EXTENSION, Json, NodeIdentity

# The tools that every node lists beside those of its servers.
MANAGEMENT_TOOLS: Final = 5
# Those of them that wait until a server has started.
RELOADS: Final = frozenset({"reload_mcp_server", "reload_all_mcp_servers"})
_INSTRUCTIONS: Final = (
    "This is a node of an MCP mesh. Its tools are those of every MCP server in the mesh, named server__tool or "
    "node__server__tool. list_mcp_servers tells where they live and whether they are reachable."
)
# Pages of MCP Apps pass unchanged, with their public URIs (docs/architecture.md).
_APPS_EXTENSION: Final = "io.modelcontextprotocol/ui"
_CAPABILITIES: Final = ServerCapabilities(
    logging=LoggingCapability(),
    prompts=PromptsCapability(list_changed=True),
    resources=ResourcesCapability(subscribe=True, list_changed=True),
    tools=ToolsCapability(list_changed=True),
    completions=CompletionsCapability(),
    extensions={_APPS_EXTENSION: {}},
)

Here = Callable[[], Awaitable[Json]]
OtherNode = Annotated[str | None, Field(description="Another node of the mesh to ask; this one by default")]


class NodeOperations(Protocol):
    """What the management tools use of the node (`agent.rest.status`)."""

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

    async def ask(self, node: str, tool: str, arguments: Json) -> Json:
        """Call a management tool of another node. Raises `MeshError` when it does not answer."""
        ...

    def config(self) -> Json:
        """The node's settings, secrets masked."""
        ...

    def health(self) -> Json:
        """The content of `health://system`."""
        ...


def build_management(name: str, version: str, node_status: NodeOperations, *, asks_others: bool = True) -> FastMCP:
    """A FastMCP server with the management tools and resources.

    `asks_others`: whether the tools may name another node; `/mcp/local` answers for its own alone.
    """
    # Schemas stay as they are declared, and FastMCP's own host guard is off: the edge checks every route.
    server: FastMCP = FastMCP(name, version=version, dereference_schemas=False, instructions=_INSTRUCTIONS)

    ask = _Answerer(name, node_status, asks_others=asks_others)
    # All are coroutines: FastMCP runs plain functions in threads, where `node_status` would have no event loop.
    _add_listings(server, node_status, ask)
    _add_reloads(server, node_status, ask)
    _add_resources(server, node_status)
    return server


async def own_answer(server: FastMCP, method: str, params: Json, version: str) -> Json:
    """The result of `tools/call` or `resources/read` of the management server, in the shape of that version.

    `params` hold Python's own numbers (`plain`). A tool's failure, and arguments that it does not take, are a result
    with `isError`; raises `MCPError` for a resource that cannot be read, and for a `requestState`, since none is ever
    given here.
    """
    modern = version in MODERN_PROTOCOL_VERSIONS
    if modern and params.get("requestState") is not None:
        message, why = "requestState: nothing here has given it", {"reason": "invalid_request_state"}
        raise MCPError(code=INVALID_PARAMS, message=message, data=why)
    result: CallToolResult | ReadResourceResult
    match method:
        case "tools/call":
            result = await _called(server, params["name"], params.get("arguments") or {})
        case "resources/read":
            try:
                read = await server.read_resource(params["uri"])
            except (FastMCPError, McpError) as exc:
                error = to_mcp_error(exc)
                raise MCPError(error.code, error.message, error.data) from exc
            result = read.to_mcp_result(params["uri"])
        case _:
            raise AssertionError(method)
    raw = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    shaped = serialize_server_result(method, version, raw)
    if modern:
        shaped["_meta"] = {SERVER_INFO_META_KEY: server_info(server), **shaped.get("_meta", {})}
    return shaped


def server_info(server: FastMCP) -> Json:
    """The server info that 2026-07-28 requires in each of our own results."""
    return {"name": server.name, "version": server.version}


def plain(params: Json) -> Json:
    """Params for Python code: numbers that are passed on as text are numbers again. Raises `MCPError`."""
    try:
        own_numbers: Json = with_own_numbers(params)
    except orjson.JSONEncodeError as exc:
        raise MCPError(code=INVALID_PARAMS, message="params: nested too deeply") from exc
    except ValueError as exc:  # Python reads no integer of more than 4,300 digits.
        raise MCPError(code=INVALID_PARAMS, message="params: a number has too many digits") from exc
    return own_numbers


def with_card(
    result: Json,
    identity: NodeIdentity,
    slot: Literal["extensions", "experimental"],
    *,
    draining: bool = False,
    has_tasks: bool = False,
) -> Json:
    """`result` with the node's identity. Before 2026-07-28 there are no `extensions`, hence the other slot.

    `draining`: whether peers are to use another node. `has_tasks`: whether calls may be answered with tasks.
    """
    capabilities = dict(result.get("capabilities") or {})
    card: Json = {"node_id": identity.node_id, "name": identity.name}
    if draining:
        card[DRAINING] = True
    capabilities[slot] = {**(capabilities.get(slot) or {}), MESH_EXTENSION: card}
    if has_tasks:
        capabilities[slot][TASKS_EXTENSION] = {}
    return {**result, "capabilities": capabilities}


def discovery(server: FastMCP) -> Json:
    """The result of `server/discover`, without the card."""
    result = DiscoverResult(
        supported_versions=list(MODERN_PROTOCOL_VERSIONS),
        capabilities=_CAPABILITIES,
        instructions=server.instructions,
    )
    shaped = _shaped("server/discover", LATEST_MODERN_VERSION, result)
    return {**shaped, "_meta": {SERVER_INFO_META_KEY: server_info(server)}}


def session_initialize_result(server: FastMCP, identity: NodeIdentity) -> Json:
    """The result of `initialize`; its `protocolVersion` is the one to offer, unless another was agreed."""
    result = InitializeResult(
        protocol_version=LATEST_HANDSHAKE_VERSION,
        capabilities=_CAPABILITIES,
        server_info=Implementation.model_validate(server_info(server)),
        instructions=server.instructions,
    )
    return with_card(_shaped("initialize", LATEST_HANDSHAKE_VERSION, result), identity, "experimental")


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


def _shaped(method: str, version: str, result: BaseModel) -> Json:
    raw: dict[str, Any] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return serialize_server_result(method, version, raw)


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
                return await here()
            if self._asks_others:
                return await self._node_status.ask(node, tool, arguments)
        except MeshError as exc:
            raise ToolError(str(exc)) from exc
        raise ToolError(f"This endpoint answers for node {self._own_name!r} alone.")


def _add_listings(server: FastMCP, node_status: NodeOperations, ask: _Answerer) -> None:
    @server.tool
    async def list_mcp_servers(node: OtherNode = None) -> dict[str, Any]:
        """List every configured MCP server and every peer node with its status."""

        async def here() -> Json:
            servers = [
                {key: value for key, value in entry.items() if key != "functions"} for entry in node_status.servers()
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
            names = [entry["name"] for entry in node_status.servers() if entry["connected"]]
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
