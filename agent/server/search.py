"""Finding a tool among thousands: the three tools that stand for all others when a client asks for search mode.

The tools themselves are made in `agent.server.management`, for `/mcp`. Listed only in search mode
(`MESH_TOOL_MODE=search`, `?tools=search` on the endpoint, or the header `Mesh-Tools: search`), callable always.
`ToolSearch` keeps an index (`agent.server.tool_index`) of the present list. The one rule: `call_tool` bypasses no
check, it is unwrapped before routing and handled as the call that it names.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from typing import Final, TypeVar

from agent.errors import MCPError
from agent.lossless_json.exact import with_own_numbers
from agent.lossless_json.unread import Unread
from agent.model import Json
from agent.routing.table import RouteTable
from agent.rpc_codes import INVALID_PARAMS
from agent.server.apps import is_for_models
from agent.server.tool_index import ToolIndex

T = TypeVar("T")
CALL_TOOL: Final = "call_tool"
SEARCH_TOOLS: Final = frozenset({"search_tools", "describe_tool", CALL_TOOL})
LIMIT_MAX: Final = 50
MODE_HEADER: Final = "Mesh-Tools"
MODE_QUERY: Final = "tools"
# A result has summaries; describe_tool shows the whole description.
SUMMARY_CHARS_MAX: Final = 300
# Work on the index holds the event loop for so long at a time, and for one step of it more.
SLICE_S: Final = 0.002
# Entries of a list that are looked at together.
PART_LEN: Final = 1_000


# The arguments of a call_tool.
ASKED: Final = ("name", "arguments")


def wants_search(query: Mapping[str, str], headers: Mapping[str, str], *, default: bool) -> bool:
    """Whether this request asks for search mode; the URL beats the header, which beats the node's setting."""
    asked = query.get(MODE_QUERY) or headers.get(MODE_HEADER)
    return default if asked not in ("search", "full") else asked == "search"


def unwrapped(method: str, params: Json) -> Json | None:
    """The params of the call that a `call_tool` names; None for every other request. Raises `MCPError`."""
    if method != "tools/call" or params.get("name") != CALL_TOOL:
        return None
    asked = params.get("arguments")
    if isinstance(asked, Unread):
        asked = asked.parts(ASKED)
    name = asked.get("name") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(name, str) or name == CALL_TOOL:
        raise MCPError(code=INVALID_PARAMS, message="arguments.name: the name of another tool is required")
    arguments = asked.get("arguments")  # Checked by the call that it becomes.
    if isinstance(arguments, Unread) and not arguments.is_object:
        arguments = []  # Which is refused, whatever it holds.
    return {**params, "name": name, "arguments": {} if arguments is None else arguments}


class ToolSearch:
    """Searches the routed tools. Its index is made at the first search, 0.1 ms a tool, and follows the list then.

    All work on it is done in the event loop, in slices: others have their turns in between.
    """

    def __init__(self, routes: Callable[[], RouteTable]) -> None:
        self._routes = routes
        self._turn = asyncio.Lock()
        self._table: RouteTable | None = None
        # What is indexed, by the table's names.
        self._known: dict[str, Json] = {}
        self._index = ToolIndex()

    async def search(self, query: str, limit: int) -> Json:
        """Names and summaries of the best tools."""
        async with self._turn:
            slices = _Slices()
            await self._follow(slices)
            names = await self._found(query, limit, slices)
            tools = [{"name": name, "description": _summary(self._index.tool(name))} for name in names]
            return {"tools": tools, "count": len(tools), "of": len(self._known)}

    async def _follow(self, slices: "_Slices") -> None:
        """Bring the index to what is listed now. A search that is given up meanwhile leaves the rest to the next one.

        Tables are rebuilt far more often than lists change, and a definition is never changed in place.
        """
        table = self._routes()
        if table is self._table:
            return
        tools, known = table.tools, self._known
        changed: dict[str, Json] = {}
        async for routes in slices.of(tools.items()):
            changed |= {
                name: route.definition
                for name, route in routes
                if route.listed and known.get(name) is not route.definition
            }
        gone: list[str] = []
        async for names in slices.of(known):
            gone += [name for name in names if name not in tools or not tools[name].listed]
        # All of them go before the first one comes, since the names in definitions may have changed hands.
        for name in (*gone, *changed):
            await slices.turn()
            if (old := known.pop(name, None)) is not None:
                self._index.remove(old["name"])
        for name, definition in changed.items():
            await slices.turn()
            if is_for_models(definition):
                self._index.put(definition)
                known[name] = definition
        if self._index.is_worn:
            await self._renew(slices)
        self._table = table

    async def _renew(self, slices: "_Slices") -> None:
        fresh = ToolIndex()
        for definition in self._known.values():
            await slices.turn()
            fresh.put(definition)
        self._index = fresh

    async def _found(self, query: str, limit: int, slices: "_Slices") -> list[str]:
        search = self._index.steps(query, limit)
        while True:
            try:
                next(search)
            except StopIteration as end:
                names: list[str] = end.value
                return names
            await slices.turn()

    def describe(self, name: str) -> Json | None:
        """A routed tool's whole definition, None for a name that is unknown, or not for models."""
        route = self._routes().tools.get(name)
        return with_own_numbers(route.definition) if route is not None and is_for_models(route.definition) else None


class _Slices:
    """The time that one search may go on without a turn for others."""

    def __init__(self) -> None:
        self._until_s = time.perf_counter() + SLICE_S

    async def turn(self) -> None:
        """Let others have their turn, when it is time."""
        if time.perf_counter() >= self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.perf_counter() + SLICE_S

    async def of(self, found: Iterable[T]) -> AsyncIterator[tuple[T, ...]]:
        """Everything that was found, in parts that take a fraction of a slice each."""
        rest = iter(found)
        while part := tuple(islice(rest, PART_LEN)):
            yield part
            await self.turn()


def _summary(tool: Json) -> str:
    text = tool.get("description")
    text = text if isinstance(text, str) else ""
    return text if len(text) <= SUMMARY_CHARS_MAX else f"{text[:SUMMARY_CHARS_MAX]}…"
