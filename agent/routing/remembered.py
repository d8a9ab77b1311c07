"""What is remembered of a name whose backends have all left: whose it was, and of a server its words of itself.

Called by `agent.routing.away` and `agent.routing.away_names`. Peers that come once and leave for good, as an
autoscaler's do, are remembered by the thousand, and definitions are most of what they list. The one rule: a name means
the same to views, fleets and refusals as before; the backend itself says anew what else it has.
"""

import sys
from dataclasses import replace
from typing import Any, Final

from agent.model import ORIGIN_META_KEY, Json
from agent.routing.about import ABOUT_META_KEY, about_in
from agent.routing.once import once
from agent.routing.origins import listed_origin
from agent.routing.table import Route, RouteKind

# Beside its node, what tells a name from others.
_SHARED: Final = ("server", "tool", "scope")
_READ_ONLY: Final[Json] = {"readOnlyHint": True}
_NO_PROPERTIES: Final[Json] = {"properties": {}}


def remembered(route: Route, made: dict[int, Json]) -> Route:
    """The route of a name that is away without what is not needed of it; itself, where that has gone.

    `made`: the definitions that were made up to now, by the identity of those in whose place they are, which live on
    for as long: the names of one entry share theirs.
    """
    if route.root is None:
        return route
    if route.kind is RouteKind.NAMESPACE:
        return replace(route, root=None)
    definition = made.get(id(route.definition))
    if definition is None:
        definition = made[id(route.definition)] = _definition(route)
    shown = None if route.shown is None else (route.shown[0], definition)
    return replace(route, definition=definition, digest="", shown=shown, hides_schema=False, root=None)


def _definition(route: Route) -> Json:
    """What views select by, what names it to clients, and how a call of a fleet names its nodes."""
    whole, only = route.definition, route.replicas[0]
    told = listed_origin(whole)
    # Nodes have the same servers and tools; what is a node's own is the very text that the route has anyway.
    origin: Json = {member: _one_text(told[member]) for member in _SHARED if member in told}
    for member, known in (("node", only.node_name), ("node_id", only.node_id)):
        if member in told:
            origin[member] = known if told[member] == known else told[member]
    meta: Json = {ORIGIN_META_KEY: origin}
    if route.kind is RouteKind.SERVER:
        # Who comes to a server that is away is greeted in its words.
        return {"_meta": meta | {ABOUT_META_KEY: about_in(whole)}}
    if route.kind is not RouteKind.TOOL:
        return {"_meta": meta}
    definition: Json = {"_meta": meta | _identity(whole.get("_meta"))}
    hints = whole.get("annotations")
    if isinstance(hints, dict) and hints.get("readOnlyHint") is True:
        definition["annotations"] = _READ_ONLY
    if route.in_fleet:
        definition["inputSchema"] = _properties(whole.get("inputSchema"))
    return definition


def _one_text(value: Any) -> Any:
    return sys.intern(value) if type(value) is str else value


def _identity(meta: Any) -> Json:
    """By what pages of MCP Apps call a tool (`agent.routing.own_names`)."""
    told, ui = (meta.get("fastmcp"), meta.get("ui")) if isinstance(meta, dict) else (None, None)
    if not (isinstance(told, dict) and isinstance(ui, dict) and "tool_hash" in told):
        return {}
    return {"fastmcp": {"tool_hash": told["tool_hash"]}, "ui": {"visibility": ui.get("visibility")}}


def _properties(schema: Any) -> Json:
    """The arguments that a fleet's may not be called like."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    names = [name for name in properties if "node" in name] if isinstance(properties, dict) else []
    return once({"properties": {name: {} for name in names}}) if names else _NO_PROPERTIES
