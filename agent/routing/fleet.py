"""One tool for a whole fleet: a server of scope `fleet` on many nodes shows each of its tools once, for all of them.

Called by the mesh with every new route table for clients; other nodes see such a server as one of scope `node`, with a
word in its origins. The one rule: only what is exactly the same on two nodes is one; the most frequent definition is
shown, the others are findings and are not called.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final

from agent.lossless_json.raw import exact
from agent.model import ORIGIN_META_KEY, PUBLIC_NAME_LEN_MAX, Json, ServerScope
from agent.routing.build import nearness
from agent.routing.chunked import Chunked
from agent.routing.digest import definition_digest
from agent.routing.names import node_alias, shown_name
from agent.routing.origins import listed_origin
from agent.routing.output_schemas import is_shown_in_sessions
from agent.routing.table import Conflict, ConflictReason, Fleet, Replica, Root, Route, RouteKind, RouteTable
from agent.routing.uris import UriCodec

# What an argument may say in the place of a node's name.
ANY: Final = "any"
ALL: Final = "all"
# More names than these are no help to a model, and cost it a page in each tool.
NAMES_LISTED_MAX: Final = 100
# Of the template of one node.
NODE_VARIABLE: Final = "node"
NODE_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
# How the owner of a fleet's names begins; the server follows.
FLEET_OWNER: Final = "fleet:"
# A row of the result of several nodes: how it went on one of them.
OUTCOMES: Final = ("ok", "tool_error", "error", "not_executed", "unknown", "away")
_ARGUMENTS: Final = ("node", "mesh_node")
_ROWS: Final[Json] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "node": {"type": "string"},
            "outcome": {"type": "string", "enum": list(OUTCOMES)},
            "content": {"type": "array", "items": {"type": "object"}},
            "structuredContent": {"type": "object"},
        },
        "required": ["node", "outcome", "content"],
    },
}
_RESULTS: Final = "results"
# Keywords of an output schema beside which one more member may be described.
_PLAIN: Final = frozenset(
    {"type", "properties", "required", "$defs", "definitions", "title", "description", "additionalProperties"}
)


def with_fleets(
    table: RouteTable, writes: Sequence[str], len_max: int = PUBLIC_NAME_LEN_MAX, before: RouteTable | None = None
) -> RouteTable:
    """`table` with the tools of fleets shown once each; `table` itself where there are none.

    `writes`: globs of the names of tools that may run on several nodes though they are not read-only. `len_max`: of
    the names that clients see. `before`: what was made of an earlier table; what has not changed is the same object.
    """
    members = grouped(members_of(table.tools.values()))
    away = grouped(members_of(route for (kind, _), route in table.away.items() if kind is RouteKind.TOOL))
    if not members and not away:
        return table
    tools, gone, conflicts = dict[str, Route](), dict[tuple[RouteKind, str], Route](), list[Conflict]()
    fleets: dict[str, dict[str, Route]] = defaultdict(dict)
    for server, tool in sorted(members.keys() | away.keys()):
        name = shown_name(server, tool, len_max=len_max)
        holder = table.roots.get(Root(server, of_node=False))
        if holder is None and (taken := tools.get(name) or table.tools.get(name)) is not None:
            holder = taken.owner
        if holder is not None:
            conflicts.append(Conflict(name, holder, (f"{FLEET_OWNER}{server}",), ConflictReason.OWNER))
            continue
        may_write = any(fnmatchcase(name, pattern) for pattern in writes)
        key = server, tool
        known = None if before is None else before.tools.get(name)
        present = members[key] or away[key]
        route = _fleet_route(name, key, present, away[key], may_write=may_write, known=known)
        assert route.fleet is not None
        if not members[key]:
            gone[RouteKind.TOOL, name] = route
            continue
        tools[name] = route
        fleets[server] |= route.fleet.members
        for member in members[key]:
            tools[member.public_name] = replace(member, listed=False)
        if route.fleet.others:
            others = tuple(
                sorted(one.replicas[0].backend_key for one in members[key] if node_of(one) in route.fleet.others)
            )
            shown = route.fleet.members[route.fleet.shown].replicas[0].backend_key
            conflicts.append(Conflict(name, shown, others, ConflictReason.DEFINITION))
    more = [nodes_routes(server, Chunked.of(members), namespaces_of(members)) for server, members in fleets.items()]
    return replace(
        table,
        tools=Chunked.of(table.tools).changed(tools),
        resources=Chunked.of(table.resources).changed({one.public_name: one for one, _, _ in more}),
        templates=Chunked.of(table.templates).changed({one.public_name: one for _, one, _ in more}),
        namespaces=Chunked.of(table.namespaces).changed({one.public_name: one for _, _, one in more}),
        away=MappingProxyType({**table.away, **gone}) if gone else table.away,
        conflicts=(*table.conflicts, *sorted(set(conflicts) - set(table.conflicts), key=lambda one: one.name)),
    )


def changed_only_in_fleets(
    before: RouteTable,
    after: RouteTable,
    changed: Collection[RouteKind],
    names: Mapping[RouteKind, Collection[str]] | None = None,
) -> frozenset[RouteKind]:
    """The kinds of `changed` whose lists differ in nothing but what the nodes of fleets have.

    `names`: all others are as they were; None: any may differ.
    """
    looked_at = {kind: None if names is None else names.get(kind, ()) for kind in changed}
    return frozenset(
        kind
        for kind, some in looked_at.items()
        if _beside_fleets(before, kind, some) == _beside_fleets(after, kind, some)
    )


def nodes_uri(server: str) -> str:
    """The resource that lists the nodes of a fleet."""
    return f"mesh-fleet://{server}/nodes"


def nodes_routes(
    server: str, members: Chunked[str, Route], namespaces: Chunked[str | None, str]
) -> tuple[Route, Route, Route]:
    """The resource with the nodes of a fleet, the template of one of them, and the namespace of both.

    They are listed where the tools do not name the nodes, and can always be read. `namespaces`: as of `Fleet`.
    """
    fleet = Fleet(server, "", NODE_VARIABLE, members, {}, Chunked(), several=False, namespaces=namespaces)
    listed, owner, uri = len(members) > NAMES_LISTED_MAX, f"{FLEET_OWNER}{server}", nodes_uri(server)
    meta = {ORIGIN_META_KEY: {"server": server, "scope": ServerScope.FLEET.value, "nodes": len(members)}}
    said = {"name": f"nodes of {server}", "mimeType": "application/json", "_meta": meta}
    one = f"{uri}/{{{NODE_VARIABLE}}}"
    return (
        Route(RouteKind.RESOURCE, uri, {"uri": uri, **said}, str(len(members)), (), listed, owner, fleet=fleet),
        Route(RouteKind.TEMPLATE, one, {"uriTemplate": one, **said}, "", (), listed, owner, fleet=fleet),
        Route(RouteKind.NAMESPACE, server, {}, "", (), listed=False, owner=owner, fleet=fleet),
    )


def _beside_fleets(table: RouteTable, kind: RouteKind, names: Collection[str] | None) -> dict[str, Json]:
    """What is listed of one kind, without what fleets have; their prompts and resources are those of single nodes."""
    routes = table.of_kind(kind)
    return {
        name: route.definition
        for name, route in (
            routes.items() if names is None else ((name, routes[name]) for name in names if name in routes)
        )
        if route.listed and route.fleet is None and listed_origin(route.definition).get("fleet") is not True
    }


def members_of(routes: Iterable[Route]) -> list[Route]:
    """One route for each tool of each node. Of two nodes of one name, only one has it; the other goes by its ID."""
    found = [route for route in routes if route.in_fleet]
    by_name = [route for route in found if route.listed]
    named = {route.owner for route in by_name}
    by_id = {
        (route.owner, listed_origin(route.definition).get("tool")): route for route in found if route.owner not in named
    }
    return [*by_name, *by_id.values()]


def grouped(routes: Iterable[Route]) -> defaultdict[tuple[str, str], list[Route]]:
    """The routes by their server and its tool."""
    groups: defaultdict[tuple[str, str], list[Route]] = defaultdict(list)
    for route in routes:
        origin = listed_origin(route.definition)
        server, tool = origin.get("server"), origin.get("tool")
        if isinstance(server, str) and isinstance(tool, str):
            groups[server, tool].append(route)
    return groups


def node_of(route: Route) -> str:
    """What a call names the node by: its name, or one made with its ID where that is another node's, or a word."""
    origin = listed_origin(route.definition)
    name = str(origin.get("node"))
    return name if route.listed and name not in (ANY, ALL) else node_alias(name, str(origin.get("node_id")))


def _fleet_route(
    name: str,
    key: tuple[str, str],
    members: Sequence[Route],
    away: Sequence[Route],
    *,
    may_write: bool,
    known: Route | None,
) -> Route:
    """One route for the members of a fleet that agree. `known`: what it was before, whose definition may still hold."""
    by_digest: dict[str, list[Route]] = defaultdict(list)
    for member in members:
        by_digest[bare_digest(member)].append(member)
    count = Counter({digest: len(group) for digest, group in by_digest.items()})
    digest = min(count, key=lambda one: (-count[one], one))
    agreed = {node_of(member): member for member in sorted(by_digest[digest], key=node_of)}
    others = {node_of(member): member for member in members if node_of(member) not in agreed}
    gone = {node_of(route): route for route in away if node_of(route) not in agreed}
    parts = Parts(
        shown=next(iter(agreed)),
        agreed=Chunked.of(agreed),
        others=others,
        away=Chunked.of(gone),
        namespaces=namespaces_of(agreed),
        replicas=tuple(sorted((one for member in agreed.values() for one in member.replicas), key=nearness)),
        sticky=any(member.sticky for member in agreed.values()),
    )
    return joined(name, key, parts, may_write=may_write, known=known)


@dataclass(frozen=True, slots=True)
class Parts:
    """The members of a fleet's tool by what calls name their nodes by: see `Fleet`, and `Route` of those that agree."""

    shown: str
    agreed: Chunked[str, Route]
    others: Mapping[str, Route]
    away: Chunked[str, Route]
    namespaces: Chunked[str | None, str]
    replicas: tuple[Replica, ...]
    sticky: bool


def namespaces_of(members: Mapping[str, Route]) -> Chunked[str | None, str]:
    """Of the URIs of each node, by its ID."""
    return Chunked.of(
        {one.node_id: member.namespace for _, member in sorted(members.items()) for one in member.replicas}
    )


def joined(name: str, key: tuple[str, str], parts: Parts, *, may_write: bool, known: Route | None) -> Route:
    """The route of a fleet's tool. `known`: what it was before, whose definition may still hold."""
    (server, tool), shown = key, parts.agreed[parts.shown]
    several = may_write or _is_read_only(shown.definition)
    fleet = Fleet(
        server=server,
        tool=tool,
        argument=_argument(shown.definition),
        members=parts.agreed,
        others=parts.others,
        away=parts.away,
        several=several,
        namespaces=parts.namespaces,
        shown=parts.shown,
    )
    definition = _merged(name, shown.definition, fleet)
    if known is not None and known.definition == definition:
        definition = known.definition  # Lists of the very same objects are not written anew.
    return replace(
        shown,
        public_name=name,
        definition=definition,
        digest=definition_digest(RouteKind.TOOL, definition),
        replicas=parts.replicas,
        owner=f"{FLEET_OWNER}{server}",
        sticky=parts.sticky,
        too_large=shown.too_large,
        hides_schema="outputSchema" in definition and not is_shown_in_sessions(definition["outputSchema"]),
        in_fleet=False,
        fleet=fleet,
    )


def bare_digest(member: Route) -> str:
    """The digest of a definition without what its node's name puts into it: the URI of its page."""
    meta = member.definition.get("_meta")
    bare = UriCodec("", member.namespace).meta(meta)
    if bare is meta:
        return member.digest
    return definition_digest(RouteKind.TOOL, member.definition | {"_meta": bare})


def _is_read_only(definition: Json) -> bool:
    annotations = definition.get("annotations")
    return isinstance(annotations, dict) and annotations.get("readOnlyHint") is True


def _argument(definition: Json) -> str:
    """The name of the argument that names nodes: one that the tool does not have."""
    taken = _properties(definition["inputSchema"])
    name = next((one for one in _ARGUMENTS if one not in taken), _ARGUMENTS[-1])
    while name in taken:
        name += "_"
    return name


def _properties(schema: Json) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _merged(name: str, definition: Json, fleet: Fleet) -> Json:
    """The definition that clients see."""
    schema = exact(definition["inputSchema"])
    required = schema.get("required")
    merged = {
        **definition,
        "name": name,
        "inputSchema": {
            **schema,
            "properties": {fleet.argument: _node_schema(fleet), **_properties(schema)},
            "required": [fleet.argument, *(required if isinstance(required, list) else ())],
        },
        "_meta": {**definition["_meta"], ORIGIN_META_KEY: _origin(fleet)},
    }
    if fleet.several and isinstance(definition.get("outputSchema"), dict):
        merged["outputSchema"] = _with_results(exact(definition["outputSchema"]))
    return merged


def _origin(fleet: Fleet) -> Json:
    said = {"server": fleet.server, "tool": fleet.tool, "scope": ServerScope.FLEET.value}
    return {**said, "nodes": len(fleet.members), "argument": fleet.argument}


def _node_schema(fleet: Fleet) -> Json:
    listed = len(fleet.members) <= NAMES_LISTED_MAX
    names = sorted(fleet.members) if listed else []
    words = [ANY, *([ALL] if fleet.several else [])]
    one: Json = {"type": "string", "enum": [*names, *words]} if listed else {"type": "string", "pattern": NODE_PATTERN}
    about = f"Where to run it: the name of a node, or '{ANY}' for the least busy one"
    if not listed:
        about += f" (the resource {nodes_uri(fleet.server)} lists the nodes)"
    if not fleet.several:
        return {**one, "description": about}
    item: Json = {"type": "string", "enum": names} if listed else one
    many = {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}
    return {"anyOf": [one, many], "description": f"{about}; a list of names, or '{ALL}', asks several at once"}


def _with_results(own: Json) -> Json:
    """The output schema of a tool that may answer as one node does, or with the rows of several.

    References in it are from its root, so its members stay there.
    """
    if own.get("type") != "object" or not _PLAIN.issuperset(own) or not isinstance(own.get("properties", {}), dict):
        return {"type": "object", "properties": {_RESULTS: {}}}
    properties = _properties(own)
    rows = {"anyOf": [properties[_RESULTS], _ROWS]} if _RESULTS in properties else _ROWS
    merged = {member: value for member, value in own.items() if member != "required"}
    merged["properties"] = {**properties, _RESULTS: rows}
    required = own.get("required")
    if isinstance(required, list) and required:
        merged["anyOf"] = [{"required": required}, {"required": [_RESULTS]}]
    return merged
