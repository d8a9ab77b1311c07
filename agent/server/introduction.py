"""What an endpoint says of the servers behind it when a client begins: their instructions and extensions, merged.

Read by `agent.server.endpoint` for `initialize` and `server/discover`. The one rule: a server's words stand under its
name and are bounded, so that one server can neither speak for another nor crowd the others out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agent.model import MESH_EXTENSION, TASKS_EXTENSION, UI_EXTENSION, Json
from agent.routing.about import about_in
from agent.routing.table import Route, RouteTable
from agent.server.apps import page_of

# Models read all of it with every conversation: a page or two for each of some servers.
INSTRUCTIONS_LEN_MAX: Final = 32_768
# Names alone are short; beyond these, `list_mcp_servers` has them all.
NAMES_MAX: Final = 200

# What a node announces for itself; no server's word counts.
_OWN_EXTENSIONS: Final = frozenset({MESH_EXTENSION, TASKS_EXTENSION})

# Lines that a reader could take for our heading of a server's words; a backslash makes plain text of them (CommonMark).
_LIKE_OURS: Final = re.compile(r"^(\W*?)(#\W*server\b)", re.IGNORECASE)

# The values of `MESH_INSTRUCTIONS`.
MERGED: Final = "merged"
NAMES: Final = "names"
OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class Introduction:
    """`instructions` follow those of the node itself, and are empty for none. `extensions`: settings by name."""

    instructions: str = ""
    extensions: Json = field(default_factory=dict)


NO_SERVERS: Final = Introduction()


class Introducer:
    """One endpoint's introduction, made anew for each route table that is asked for. `mode`: MERGED, NAMES or OFF.

    None: of an endpoint that other nodes use, which know its servers from its lists. `has_tools`: see `introduce`.
    """

    def __init__(self, routes: Callable[[], RouteTable], mode: str | None, *, has_tools: bool = True) -> None:
        self._routes = routes
        self._mode = mode
        self._has_tools = has_tools
        self._known: tuple[RouteTable, Introduction] | None = None

    def __call__(self) -> Introduction:
        """The introduction as of now."""
        if self._mode is None:
            return NO_SERVERS
        table = self._routes()
        if self._known is None or self._known[0] is not table:
            self._known = table, introduce(table, self._mode, has_tools=self._has_tools)
        return self._known[1]


def introduce(table: RouteTable, mode: str, *, has_tools: bool = True) -> Introduction:
    """Introduce the listed servers, by name. `has_tools`: the endpoint has the node's own tools, which show all."""
    servers = sorted((route for route in table.servers.values() if route.listed), key=lambda route: route.public_name)
    return Introduction(_instructions(servers, mode, has_tools=has_tools), _extensions(servers, table))


def _instructions(servers: list[Route], mode: str, *, has_tools: bool) -> str:
    if mode == OFF or not servers:
        return ""
    names = ", ".join(route.public_name for route in servers[:NAMES_MAX])
    more = f" and {len(servers) - NAMES_MAX} more" if len(servers) > NAMES_MAX else ""
    said = f"Servers: {names}{more}."
    if mode == NAMES:
        return said
    parts, room, left_out = [said], INSTRUCTIONS_LEN_MAX - len(said), 0
    for route in servers:
        text = about_in(route.definition).get("instructions")
        if text is None:
            continue
        # A line that looks like our heading would begin another server's words.
        part = f"## Server {route.public_name}\n{_without_headings(text)}"
        if len(part) > room:
            left_out += 1
            continue
        parts.append(part)
        room -= len(part)
    if left_out:
        where = "are shown by get_mcp_server_functions" if has_tools else "have no room here"
        parts.append(f"The instructions of {left_out} more servers {where}.")
    return "\n\n".join(parts)


def _without_headings(text: str) -> str:
    return "\n".join(_LIKE_OURS.sub(r"\1\\\2", line) for line in text.strip().splitlines())


def _extensions(servers: list[Route], table: RouteTable) -> Json:
    """What any server announces. Where several announce one, each adds settings, the first by name wins."""
    merged: Json = {}
    for route in servers:
        for name, settings in about_in(route.definition).get("extensions", {}).items():
            if name not in _OWN_EXTENSIONS:
                merged[name] = {**settings, **merged.get(name, {})}
    # Servers with pages need not announce anything: the definition of a tool names its page.
    if UI_EXTENSION not in merged and any(page_of(route.definition) for route in table.tools.values()):
        merged[UI_EXTENSION] = {}
    return merged
