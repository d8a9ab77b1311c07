"""Finding a tool among thousands: the three tools that stand for all others when a client asks for search mode.

Added to the management server of `/mcp`; listed only in search mode (`MESH_TOOL_MODE=search`, `?tools=search` on the
endpoint, or the header `Mesh-Tools: search`), callable always. The one rule: `call_tool` is no way around anything, it
is unwrapped before routing and goes on as the call that it names.
"""

import asyncio
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic import Field

from agent.core.exact_json import with_own_numbers
from agent.core.route_table import RouteTable
from agent.model import Json
from agent.tool_index import ToolIndex

CALL_TOOL: Final = "call_tool"
SEARCH_TOOLS: Final = frozenset({"search_tools", "describe_tool", CALL_TOOL})
LIMIT_MAX: Final = 50
MODE_HEADER: Final = "Mesh-Tools"
MODE_QUERY: Final = "tools"
# A result names and describes; a whole description is what describe_tool is for.
SUMMARY_CHARS_MAX: Final = 300


def wants_search(query: Mapping[str, str], headers: Mapping[str, str], *, default: bool) -> bool:
    """Whether this request asks for search mode; the URL's word beats the header's, which beats the node's setting."""
    asked = query.get(MODE_QUERY) or headers.get(MODE_HEADER)
    return default if asked not in ("search", "full") else asked == "search"


def unwrapped(method: str, params: Json) -> Json | None:
    """The params of the call that a `call_tool` names; None for every other request. Raises `MCPError`."""
    if method != "tools/call" or params.get("name") != CALL_TOOL:
        return None
    asked = params.get("arguments")
    name = asked.get("name") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(name, str) or name == CALL_TOOL:
        raise MCPError(code=INVALID_PARAMS, message="arguments.name: the name of another tool is required")
    arguments = asked.get("arguments")  # Judged where it is routed, unless it is not there.
    return {**params, "name": name, "arguments": {} if arguments is None else arguments}


class ToolSearch:
    """Searches the routed tools. Its index belongs to one list of tools and is made when first asked for.

    Making it takes half a second for 10,000 tools, and searching it up to that, so both happen in a thread.
    """

    def __init__(self, routes: Callable[[], RouteTable]) -> None:
        self._routes = routes
        self._turn = asyncio.Lock()
        self._table: RouteTable | None = None
        self._listed: dict[str, Json] = {}
        self._index: ToolIndex | None = None

    async def search(self, query: str, limit: int) -> Json:
        """Names and summaries of the best tools."""
        async with self._turn:
            index = await self._present()
            names = await asyncio.to_thread(index.search, query, limit)
            found = [self._listed[name] for name in names]
            tools = [{"name": tool["name"], "description": _summary(tool)} for tool in found]
            return {"tools": tools, "count": len(tools), "of": len(self._listed)}

    async def _present(self) -> ToolIndex:
        """The index of what is listed now. Tables are rebuilt far more often than lists change."""
        table, index = self._routes(), self._index
        if index is not None and table is self._table:
            return index
        listed = {route.public_name: route.definition for route in table.listed_tools()}
        if index is not None and _same(listed, self._listed):
            self._table = table
            return index
        fresh = await asyncio.to_thread(ToolIndex, listed.values())
        self._table, self._listed, self._index = table, listed, fresh
        if index is not None:
            await asyncio.to_thread(index.close)  # A search that nobody waits for any more may still be at it.
        return fresh

    def describe(self, name: str) -> Json | None:
        """A routed tool's whole definition, None for an unknown name."""
        route = self._routes().tools.get(name)
        return None if route is None else with_own_numbers(route.definition)


def add_search_tools(server: FastMCP, search: ToolSearch) -> None:
    """Register the three tools."""

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


def _same(listed: Mapping[str, Json], known: Mapping[str, Json]) -> bool:
    """Whether the very same definitions, which are never changed in place, are listed in the same order."""
    return len(listed) == len(known) and all(map(operator.is_, listed.values(), known.values()))


def _summary(tool: Json) -> str:
    text = tool.get("description")
    text = text if isinstance(text, str) else ""
    return text if len(text) <= SUMMARY_CHARS_MAX else f"{text[:SUMMARY_CHARS_MAX]}…"
