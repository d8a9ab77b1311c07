"""A view of the mesh: some of its servers and tools, under public names, names of the view, or a server's own names.

Read by `agent.server.views` for `/mcp/s/NAME`, `/mcp/v/NAME` and `/mcp?servers=...`. The one rule: a route keeps its
public name, by which calls are counted, logged and balanced; only what clients list, and the URIs that they see, may
be other ones. What a view does not select is in no part of its table, and so unknown there.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from operator import attrgetter
from types import MappingProxyType
from typing import Final, TypeAlias

from agent.model import Json, ViewSpec
from agent.routing.about import about_in
from agent.routing.names import SEPARATOR, public_name
from agent.routing.origins import listed_origin
from agent.routing.table import NAME_MEMBER, Fleet, Route, RouteKind, RouteTable
from agent.routing.uris import UriCodec

# Of the names by which clients find servers; a bound against hostile ones.
NAMES_REMEMBERED_MAX: Final = 1_000
_KINDS: Final = (RouteKind.TOOL, RouteKind.PROMPT, RouteKind.RESOURCE, RouteKind.TEMPLATE)
_Changed: TypeAlias = Mapping[tuple[RouteKind, str], tuple[Json, Route]]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a view shows of a table. `changed`: routes that are listed otherwise than in `whole`, and their sources."""

    view: ViewSpec
    whole: RouteTable
    table: RouteTable
    changed: _Changed


def has_server(view: ViewSpec, server: Route) -> bool:
    """Whether a view selects a server, by its name or one of its tags."""
    if view.alone:
        return not {server.namespace, server.public_name}.isdisjoint(view.servers)
    if not (view.servers or view.tags):
        return True
    origin = listed_origin(server.definition)
    own = origin.get("server", "")
    names = [server.namespace, own]
    by_node = f"{origin.get('node')}{SEPARATOR}{own}"
    if server.namespace == public_name(by_node):  # A service is no node's.
        names.append(by_node)
    if any(fnmatchcase(name, pattern) for pattern in view.servers for name in names):
        return True
    return not set(view.tags).isdisjoint(about_in(server.definition).get("tags", ()))


def has_tool(view: ViewSpec, *names: str) -> bool:
    """Whether a view shows a tool of a server that it selects; `names`: all that it goes by."""
    wanted = [pattern for pattern in view.tools if not pattern.startswith("!")]
    left_out = [pattern[1:] for pattern in view.tools if pattern.startswith("!")]
    if wanted and not any(fnmatchcase(name, pattern) for pattern in wanted for name in names):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in left_out for name in names)


def shows_tool(view: ViewSpec, tool: Route) -> bool:
    """Whether a view shows a tool, by its public name and what it says of itself."""
    return has_tool(view, *names_of(tool)) and not (view.read_only and not says_read_only(tool.definition))


def names_of(tool: Route) -> tuple[str, ...]:
    """The public name of a tool, and where that is a short one (`agent.routing.client_names`) the one between nodes.

    What operators wrote about the one holds for the other.
    """
    origin = listed_origin(tool.definition)
    if tool.fleet is not None or origin.get("scope") not in ("node", "private"):
        return (tool.public_name,)
    long = public_name(*(str(origin.get(member)) for member in ("node", "server", "tool")))
    return tuple(dict.fromkeys((tool.public_name, long)))


def says_read_only(definition: Json) -> bool:
    """Whether a tool says that it changes nothing; its server's claim."""
    hints = definition.get("annotations")
    return isinstance(hints, dict) and hints.get("readOnlyHint") is True


def find_server(table: RouteTable, name: str) -> Route | None:
    """The server of that public name (`github`, `node-b__files`), or the only one that its node calls so.

    One that is away is found as well. It is not listed where nothing of it is known but that it was there before this
    node was started.
    """
    away = {of_name: route for (kind, of_name), route in table.away.items() if kind is RouteKind.SERVER}
    servers = away | dict(table.servers.items())
    if (known := servers.get(name) or servers.get(public_name(name))) is not None:
        if known.listed or not known.definition:
            return known
        return next((route for route in servers.values() if route.listed and route.owner == known.owner), None)
    called_so = [
        route for route in servers.values() if route.listed and listed_origin(route.definition).get("server") == name
    ]
    return called_so[0] if len(called_so) == 1 else None


class FoundServers:
    """`find_server` for each request: what was found in a table is remembered while it is the same one."""

    def __init__(self) -> None:
        self._table: RouteTable | None = None
        self._found: dict[str, Route | None] = {}

    def __repr__(self) -> str:
        return f"<FoundServers {len(self._found)}>"

    def find(self, table: RouteTable, name: str) -> Route | None:
        """See `find_server`."""
        if self._table is not table or len(self._found) >= NAMES_REMEMBERED_MAX:
            self._table, self._found = table, {}
        if name not in self._found:
            self._found[name] = find_server(table, name)
        return self._found[name]


def unlisted_server(table: RouteTable, name: str) -> Route | None:
    """The server that is meant, if it was never listed, so that there is nothing to show yet."""
    return next(
        (
            route
            for route in table.unlisted
            if route.namespace in (name, public_name(name)) or listed_origin(route.definition).get("server") == name
        ),
        None,
    )


def show(whole: RouteTable, view: ViewSpec, before: Shown | None = None) -> Shown:
    """What `view` shows of `whole`. `before`: the same of an earlier table, whose definitions stay where they can."""
    return _Showing(whole, view, before).result()


class _Showing:
    """One table of one view. Lives for one call of `show`."""

    def __init__(self, whole: RouteTable, view: ViewSpec, before: Shown | None) -> None:
        self._whole = whole
        self._view = view
        self._known: _Changed = before.changed if before is not None and before.view == view else {}
        self._changed: dict[tuple[RouteKind, str], tuple[Json, Route]] = {}
        servers = [
            *whole.servers.values(),
            *(route for (kind, _), route in whole.away.items() if kind is RouteKind.SERVER),
        ]
        self._servers = [route for route in servers if route.listed and has_server(view, route)]
        self._owners = frozenset(route.owner for route in self._servers)
        self._tools = [tool for tool in self._of_owners(RouteKind.TOOL) if shows_tool(view, tool)]
        if view.tools and not (view.servers or view.tags):
            self._owners = frozenset(owner for tool in self._tools for owner in _owners(tool))
            self._servers = [route for route in self._servers if route.owner in self._owners]

    def result(self) -> Shown:
        tables = {kind: self._named(kind) for kind in _KINDS}
        whole, view, owners = self._whole, self._view, self._owners
        of_owners = {name: one for name, one in whole.namespaces.items() if owners.issuperset(_owners(one))}
        backends = {replica.backend_key for route in of_owners.values() for replica in route.replicas}
        table = RouteTable(
            tools=MappingProxyType(tables[RouteKind.TOOL]),
            prompts=MappingProxyType(tables[RouteKind.PROMPT]),
            resources=MappingProxyType(tables[RouteKind.RESOURCE]),
            templates=MappingProxyType(tables[RouteKind.TEMPLATE]),
            namespaces=MappingProxyType({} if view.alone else of_owners),
            servers=MappingProxyType(_owned(whole.servers, owners)),
            only=self._only(),
            # By which tasks find their way.
            parts=MappingProxyType({key: part for key, part in whole.parts.items() if key in backends}),
            away=MappingProxyType(dict(self._away())),
            unlisted=() if view.alone else tuple(route for route in whole.unlisted if has_server(view, route)),
            starting=whole.starting,
        )
        return Shown(view, whole, table, MappingProxyType(self._changed))

    def _only(self) -> Route | None:
        if not self._view.alone or not self._servers:
            return None
        return replace(self._servers[0], kind=RouteKind.NAMESPACE, namespace="")

    def _of_owners(self, kind: RouteKind) -> Iterator[Route]:
        for route in self._whole.listed(kind):
            if self._owners.issuperset(_owners(route)) and not (route.fleet is not None and self._view.alone):
                yield route
            elif route.fleet is not None and kind is RouteKind.TOOL:  # Of some nodes, by their own names.
                some = (one for one in _present(route.fleet) if one.owner in self._owners)
                yield from sorted(some, key=attrgetter("public_name"))
        if kind in (RouteKind.RESOURCE, RouteKind.TEMPLATE):
            yield from self._addresses(kind)

    def _addresses(self, kind: RouteKind) -> Iterator[Route]:
        """Addresses of the web of servers of the view that are listed as another server's, which it does not show."""
        routes = self._whole.of_kind(kind)
        found: dict[str, Route] = {}
        for _, route in sorted(routes.items()):
            if route.listed or route.shown is None or route.owner not in self._owners:
                continue
            address, definition = route.shown
            holder = routes.get(address)
            if holder is None or not self._owners.issuperset(_owners(holder)):
                found.setdefault(
                    address, replace(route, public_name=address, definition=definition, listed=True, shown=None)
                )
        yield from found.values()

    def _named(self, kind: RouteKind) -> dict[str, Route]:
        """The routes of one kind by the names that clients see; other names of what is not renamed resolve too."""
        shown = self._tools if kind is RouteKind.TOOL else list(self._of_owners(kind))
        names = _shown_names(kind, shown, self._view)
        found = {name: self._as_shown(kind, name, route) for name, route in zip(names, shown, strict=True)}
        if self._view.alone:
            return found
        kept = {
            _identity(one)
            for name, route in zip(names, shown, strict=True)
            if name == route.public_name
            for one in (route, *(_present(route.fleet) if route.fleet is not None else ()))
        }
        for name, route in self._whole.of_kind(kind).items():
            if not route.listed and route.owner in self._owners and _identity(route) in kept:
                found.setdefault(name, route)
        return found

    def _away(self) -> Iterator[tuple[tuple[RouteKind, str], Route]]:
        for (kind, public), route in self._whole.away.items():
            if not self._owners.issuperset(_owners(route)):
                continue
            if kind not in _KINDS:
                if not self._view.alone:
                    yield (kind, public), route
            elif route.listed and (kind is not RouteKind.TOOL or shows_tool(self._view, route)):
                (name,) = _shown_names(kind, [route], self._view)
                yield (kind, name), self._as_shown(kind, name, route)

    def _as_shown(self, kind: RouteKind, name: str, route: Route) -> Route:
        """The route as clients of the view list it; the same object as before where nothing has changed."""
        described = _said(self._view.descriptions, route) if kind is RouteKind.TOOL else None
        if name == route.public_name and described is None and not self._view.alone:
            return route
        known = self._known.get((kind, route.public_name))
        if known is not None and known[0] is route.definition:
            shown = replace(route, definition=known[1].definition, digest=known[1].digest, namespace=known[1].namespace)
        else:
            shown = _renamed(kind, name, route, described, alone=self._view.alone)
        self._changed[kind, route.public_name] = route.definition, shown
        return shown


def _owners(route: Route) -> tuple[str, ...]:
    """All that must be selected for a route to be shown: of a fleet the server of every node that is listed.

    A node that goes by its ID, as another one has its name, belongs to that one's views.
    """
    if route.fleet is None:
        return (route.owner,)
    members = (*_present(route.fleet), *route.fleet.away.values())
    return tuple(member.owner for member in members if member.listed)


def _present(fleet: Fleet) -> list[Route]:
    """The routes of single nodes, of those with another definition too."""
    return [*fleet.members.values(), *fleet.others.values()]


def _owned(routes: Mapping[str, Route], owners: frozenset[str]) -> dict[str, Route]:
    return {name: route for name, route in routes.items() if route.owner in owners}


def _identity(route: Route) -> tuple[str, object]:
    return route.owner, listed_origin(route.definition).get("tool")


def _shown_names(kind: RouteKind, routes: Sequence[Route], view: ViewSpec) -> list[str]:
    """What clients see in the place of public names. An alias that another tool has by right is not given."""
    if view.alone:
        return [_own_name(route) for route in routes]
    if kind is not RouteKind.TOOL or not view.aliases:
        return [route.public_name for route in routes]
    taken = {route.public_name for route in routes}
    return [_alias(route, view.aliases, taken) for route in routes]


def _alias(route: Route, aliases: Mapping[str, str], taken: AbstractSet[str]) -> str:
    alias = _said(aliases, route) or route.public_name
    return route.public_name if alias in taken else alias


def _said(about: Mapping[str, str], route: Route) -> str | None:
    """What a view says of a tool, by any of its names."""
    return next((about[name] for name in names_of(route) if name in about), None) if about else None


def _renamed(kind: RouteKind, name: str, route: Route, described: str | None, *, alone: bool) -> Route:
    definition = route.definition | {NAME_MEMBER[kind]: name}
    if described is not None:
        definition["description"] = described
    # Cursors name a list by the digests of its entries.
    changes = hashlib.sha256(f"{name}\0{described}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    shown = replace(route, digest=f"{route.digest}:{changes}")
    if not alone:
        return replace(shown, definition=definition)
    meta = UriCodec("", route.namespace).meta(definition.get("_meta"))
    return replace(shown, definition=definition | {"_meta": meta}, namespace="")


def _own_name(route: Route) -> str:
    name = listed_origin(route.definition).get("tool")
    return name if isinstance(name, str) else route.public_name
