"""Finding a tool among thousands: the three tools that stand for all others when a client asks for search mode.

The tools themselves are made in `agent.server.management`, for `/mcp`. Listed only in search mode
(`MESH_TOOL_MODE=search`, `?tools=search` on the endpoint, or the header `Mesh-Tools: search`), callable always.
`ToolIndex` is the full-text index (SQLite FTS5), `ToolSearch` keeps one for the present list. The one rule: `call_tool`
bypasses no check, it is unwrapped before routing and handled as the call that it names.
"""

import asyncio
import operator
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from agent.errors import MCPError
from agent.lossless_json.exact import with_own_numbers
from agent.model import Json
from agent.routing.origins import listed_origin
from agent.routing.table import RouteTable
from agent.rpc_codes import INVALID_PARAMS
from agent.server.apps import is_for_models

CALL_TOOL: Final = "call_tool"
SEARCH_TOOLS: Final = frozenset({"search_tools", "describe_tool", CALL_TOOL})
LIMIT_MAX: Final = 50
MODE_HEADER: Final = "Mesh-Tools"
MODE_QUERY: Final = "tools"
# A result has summaries; describe_tool shows the whole description.
SUMMARY_CHARS_MAX: Final = 300
# Only the first words of a query count; a pasted document is not a query.
WORDS_MAX: Final = 32
# The text of one tool in the index; a longer description is cut.
TEXT_CHARS_MAX: Final = 8_000
# A word in the name counts more than one in the description, and that more than one in a parameter.
_WEIGHTS: Final = "8.0, 4.0, 2.0, 1.0"
_WORD: Final = re.compile(r"\w+")
# `getForecast` and `HTTPServer` are two words each; underscores and dashes part words anyway.
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class ToolIndex:
    """An index over tools as they are listed. Threads take turns."""

    def __init__(self, tools: Iterable[Json]) -> None:
        self._turn = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        # An index that is dropped without `close` would make Python 3.13 warn.
        weakref.finalize(self, self._database.close)
        self._database.execute(
            "CREATE VIRTUAL TABLE tools USING fts5"
            " (name, title, description, parameters, listed UNINDEXED,"
            " tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        self._database.executemany("INSERT INTO tools VALUES (?, ?, ?, ?, ?)", (_row(tool) for tool in tools))

    def close(self) -> None:
        """Free the memory, once no search is under way."""
        with self._turn:
            self._database.close()

    def search(self, query: str, limit: int) -> list[str]:
        """Names of the tools that have any of the query's words, best first; every tool by name for an empty query."""
        words = _words(query)
        if not words:
            return self._found("SELECT listed FROM tools ORDER BY listed LIMIT ?", limit)
        # Quoted, so that AND, NEAR, * and the like are words too; the last one may be the beginning of one.
        match = " OR ".join(f'"{word}"' for word in words) + f' OR "{words[-1]}" *'
        return self._found(
            f"SELECT listed FROM tools WHERE tools MATCH ? ORDER BY bm25(tools, {_WEIGHTS}), listed LIMIT ?",  # noqa: S608 - the weights are ours
            match,
            limit,
        )

    def _found(self, select: str, *values: object) -> list[str]:
        with self._turn:
            return [name for (name,) in self._database.execute(select, values)]


def wants_search(query: Mapping[str, str], headers: Mapping[str, str], *, default: bool) -> bool:
    """Whether this request asks for search mode; the URL beats the header, which beats the node's setting."""
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
    arguments = asked.get("arguments")  # Checked by the call that it becomes.
    return {**params, "name": name, "arguments": {} if arguments is None else arguments}


class ToolSearch:
    """Searches the routed tools. Its index belongs to one list of tools and is made at the first search.

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
        tools = (route for route in table.listed_tools() if is_for_models(route.definition))
        listed = {route.definition["name"]: route.definition for route in tools}
        if index is not None and _same(listed, self._listed):
            self._table = table
            return index
        fresh = await asyncio.to_thread(ToolIndex, listed.values())
        self._table, self._listed, self._index = table, listed, fresh
        if index is not None:
            await asyncio.to_thread(index.close)  # A search whose caller was cancelled may still use it.
        return fresh

    def describe(self, name: str) -> Json | None:
        """A routed tool's whole definition, None for a name that is unknown, or not for models."""
        route = self._routes().tools.get(name)
        return with_own_numbers(route.definition) if route is not None and is_for_models(route.definition) else None


def _row(tool: Json) -> tuple[str, str, str, str, str]:
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    parameters: list[str] = []
    if isinstance(properties, dict):
        for name, described in properties.items():
            parameters.append(_parted(name))
            if isinstance(described, dict):
                parameters.append(_text(described.get("description")))
    name = _text(tool.get("name"))
    # A public name may be cut, or lack non-Latin letters; the server's own name is complete.
    own = _text(listed_origin(tool).get("tool"))
    known_as = name if own in name else f"{name} {own}"
    texts = _parted(known_as), _text(tool.get("title")), _text(tool.get("description")), " ".join(parameters)
    return *(text[:TEXT_CHARS_MAX] for text in texts), name  # type: ignore[return-value]  # four texts and the name


def _words(query: str) -> Sequence[str]:
    return _WORD.findall(_parted(query).replace("_", " "))[:WORDS_MAX]


def _parted(text: str) -> str:
    return _CAMEL.sub(" ", text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _same(listed: Mapping[str, Json], known: Mapping[str, Json]) -> bool:
    """Whether the very same definitions, which are never changed in place, are listed in the same order."""
    return len(listed) == len(known) and all(map(operator.is_, listed.values(), known.values()))


def _summary(tool: Json) -> str:
    text = tool.get("description")
    text = text if isinstance(text, str) else ""
    return text if len(text) <= SUMMARY_CHARS_MAX else f"{text[:SUMMARY_CHARS_MAX]}…"
