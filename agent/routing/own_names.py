"""Finds a route by the name that its server gave it, for pages of MCP Apps, which know no other.

A page that a host renders calls its server by the server's own names, and the host forwards them as they are
(io.modelcontextprotocol/ui). Read by `agent.server.lists` where a name is in no list. The one rule: a public name
always wins, and an own name counts only where exactly one server has it, those that are away included.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agent.model import Json
from agent.routing.names import public_uri
from agent.routing.origins import listed_origin
from agent.routing.table import Route, RouteKind, RouteTable

# An error names so many of those that it may mean.
CANDIDATES_SHOWN_MAX: Final = 10
_KINDS: Final = (RouteKind.TOOL, RouteKind.PROMPT, RouteKind.RESOURCE, RouteKind.TEMPLATE)
# FastMCP's pages call a tool by its identity and its name (FastMCP 4, `fastmcp.server.providers.addressing`).
_HASHED: Final = re.compile(r"([0-9a-f]{12})_.+", re.DOTALL)
_WEB: Final = re.compile(r"https?://[^/?#{}]+", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"\{([+#./;?&]?)[^{}]*\}")
# What an expanded variable may hold, by its operator (RFC 6570); without one, it may be encoded but for the slash.
_EXPANDED: Final = {"+": ".+", "#": "(?:#.*)?", "/": "(?:/.*)?", ".": "(?:\\..*)?", ";": ".*", "?": ".*", "&": ".*"}


@dataclass(frozen=True, slots=True)
class OwnNames:
    """The routes of one table, and what is away, by their servers' own names. Of a service all replicas are one."""

    named: Mapping[tuple[RouteKind, str], Sequence[Route]]
    hashed: Mapping[str, Sequence[Route]]
    templates: Sequence[tuple[str, Route]]
    sites: Mapping[str, Mapping[str, Route]]

    @classmethod
    def of_table(cls, table: RouteTable) -> "OwnNames":
        """Index a table."""
        named: dict[tuple[RouteKind, str], list[Route]] = defaultdict(list)
        hashed: dict[str, list[Route]] = defaultdict(list)
        for kind in _KINDS:
            for route in (*table.listed(kind), *_away(table, kind)):
                if (name := _own_name(route)) is not None:
                    named[kind, name].append(route)
                if kind is RouteKind.TOOL and (identity := _identity(route.definition)) is not None:
                    hashed[identity].append(route)
        templates = [
            (name, route) for (kind, name), routes in named.items() if kind is RouteKind.TEMPLATE for route in routes
        ]
        sites: dict[str, dict[str, Route]] = defaultdict(dict)
        for (kind, name), routes in named.items():
            if kind in (RouteKind.RESOURCE, RouteKind.TEMPLATE) and (site := _site(name)):
                sites[site] |= {route.owner: route for route in routes}
        return cls(named, hashed, templates, sites)

    def find(self, kind: RouteKind, name: str) -> Sequence[Route]:
        """The routes of each server that has it: one is the answer, several are candidates."""
        found = self.named.get((kind, name), ())
        if not found and kind is RouteKind.TOOL and (hashed := _HASHED.fullmatch(name)):
            found = self.hashed.get(hashed[1], ())
        return found

    def find_uri(self, uri: str, table: RouteTable) -> Sequence[Route]:
        """As `find`, of a resource, also of one that only a template of its server covers.

        Servers link to addresses of the web that they list nowhere: one is the only server's that lists others there.
        """
        found = self.named.get((RouteKind.RESOURCE, uri), ())
        if found:
            return found
        covering = {route.owner: route for template, route in self.templates if _covers(template, uri)}
        covering = covering or dict(self.sites.get(_site(uri), {}))
        reads = [table.find_uri(public_uri(route.namespace, uri)) for route in covering.values()]
        return [route for route in reads if route is not None]


def candidates(routes: Iterable[Route]) -> list[str]:
    """The public names that a caller may have meant."""
    return sorted(route.public_name for route in routes)[:CANDIDATES_SHOWN_MAX]


def _away(table: RouteTable, kind: RouteKind) -> list[Route]:
    return [route for (of_kind, _), route in table.away.items() if of_kind is kind and route.listed]


def _own_name(route: Route) -> str | None:
    name = listed_origin(route.definition).get("tool")
    return name if isinstance(name, str) else None


def _identity(definition: Json) -> str | None:
    """FastMCP's identity of a tool that pages may call."""
    meta = definition.get("_meta")
    told, ui = (meta.get("fastmcp"), meta.get("ui")) if isinstance(meta, dict) else (None, None)
    visibility = ui.get("visibility") if isinstance(ui, dict) else None
    identity = told.get("tool_hash") if isinstance(told, dict) else None
    return identity if isinstance(identity, str) and isinstance(visibility, list) and "app" in visibility else None


def _site(uri: str) -> str:
    """Scheme and host of an address of the web; empty for any other URI."""
    found = _WEB.match(uri)
    return "" if found is None else found[0].lower()


def _covers(template: str, uri: str) -> bool:
    if not uri.startswith(template.partition("{")[0]):
        return False
    return _pattern(template).fullmatch(uri) is not None


@lru_cache(maxsize=1024)
def _pattern(template: str) -> re.Pattern[str]:
    """The URIs that a template may expand to, and few others."""
    parts, end = [], 0
    for variable in _VARIABLE.finditer(template):
        parts += [re.escape(template[end : variable.start()]), _EXPANDED.get(variable[1], "[^/]+")]
        end = variable.end()
    return re.compile("".join(parts) + re.escape(template[end:]), re.DOTALL)
