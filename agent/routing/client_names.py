"""The names that clients of this node see: own servers without the node's name where that is wanted, then fleets.

Called by the mesh with every new table by nodes. The one rule: between nodes nothing changes. A short name stands for
this node's own server whatever other nodes have, connected or away, so that none of them coming or going renames it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from agent.model import PUBLIC_NAME_LEN_MAX, NodeIdentity, ServerScope, ServerSpec
from agent.routing.fleet import with_fleets
from agent.routing.names import name_beginning, node_alias, public_name, shown_name
from agent.routing.origins import NODE_OWNER, listed_origin
from agent.routing.table import NAME_MEMBER, Root, Route, RouteKind, RouteTable

# A resource's URI says where it is, and is in results; only what a model reads as a name gets shorter.
_KINDS: Final = (RouteKind.TOOL, RouteKind.PROMPT, RouteKind.SERVER)
_SHORT_SCOPES: Final = (ServerScope.NODE, ServerScope.PRIVATE)


@dataclass(frozen=True, slots=True)
class ClientNames:
    """How the table by nodes becomes that of clients.

    `len_max`: of the names of tools and prompts. `fleet_writes`: see `agent.routing.fleet`. `short`: own servers of
    scope `node` and `private` go without the name of this node. `pinned`: names that other nodes
    alone may have, by the IDs of those; this one takes none by a short name either.
    """

    len_max: int = PUBLIC_NAME_LEN_MAX
    fleet_writes: tuple[str, ...] = ()
    short: bool = False
    pinned: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))

    def of(
        self, table: RouteTable, own: NodeIdentity, servers: Iterable[ServerSpec], before: RouteTable | None = None
    ) -> RouteTable:
        """The table of clients. `servers`: all that are configured, running or not. `before`: the one up to now."""
        if self.short:
            ours = (spec.name for spec in servers if spec.scope in _SHORT_SCOPES)
            names = {name for name in ours if name not in self.pinned or own.node_id in self.pinned[name]}
            table = with_short_names(table, own, names, self.len_max, before)
        return with_fleets(table, self.fleet_writes, self.len_max, before)


# Names between nodes, but for fleets.
AS_BETWEEN_NODES: Final = ClientNames()


def with_short_names(
    table: RouteTable,
    own: NodeIdentity,
    servers: Collection[str],
    len_max: int = PUBLIC_NAME_LEN_MAX,
    before: RouteTable | None = None,
) -> RouteTable:
    """`table` with the tools, prompts and names of these own servers listed without the node's name.

    Their long names resolve as before. What another node offers under the same first part is not shown; by the name of
    its node it can still be used. Another node that is called as such a server goes by its name and ID. `before`: what
    was made of an earlier table; equal definitions are the same object.
    """
    if not servers:
        return table
    owners = {f"{NODE_OWNER}{own.node_id}/{server}": server for server in servers}
    roots = {Root(server, of_node=False): owner for owner, server in owners.items()}
    namesakes = {
        owner: server
        for server in servers
        if (owner := table.roots.get(Root(server, of_node=True))) not in (None, f"{NODE_OWNER}{own.node_id}")
    }
    hidden = frozenset(table.roots[root] for root in roots if root in table.roots)
    shortened = _Shortened(owners, hidden, namesakes, len_max)
    known = RouteTable() if before is None else before
    tables = {
        kind: MappingProxyType(dict(shortened.routes(kind, table.of_kind(kind), known.of_kind(kind))))
        for kind in _KINDS
    }
    return replace(
        table,
        tools=tables[RouteKind.TOOL],
        prompts=tables[RouteKind.PROMPT],
        servers=tables[RouteKind.SERVER],
        away=MappingProxyType(dict(shortened.away(table.away))),
        unlisted=(*shortened.places(table.unlisted), *table.unlisted),
        roots=MappingProxyType({**table.roots, **roots}),
    )


@dataclass(frozen=True, slots=True)
class _Shortened:
    """`owners`: of what is shortened, with their servers; `hidden`: of what others have in the place of short names.

    `namesakes`: the owners of other nodes' names that are those of such servers.
    """

    owners: Mapping[str, str]
    hidden: frozenset[str]
    namesakes: Mapping[str, str]
    len_max: int

    def routes(
        self, kind: RouteKind, routes: Mapping[str, Route], known: Mapping[str, Route]
    ) -> Iterator[tuple[str, Route]]:
        """Those of one kind by the names that resolve; short ones come last, and so in the place of any others."""
        shorts: dict[str, Route] = {}
        for name, route in routes.items():
            if route.owner in self.hidden:
                continue
            if (short := self._short(kind, route) or self._by_id(kind, name, route)) is None:
                yield name, route
                continue
            shown = _shown_as(kind, short, route, known.get(short))
            if route.listed:
                shorts[short] = shown
            if route.owner in self.owners:
                yield name, replace(route, listed=False, definition=shown.definition)
        yield from shorts.items()

    def away(self, routes: Mapping[tuple[RouteKind, str], Route]) -> Iterator[tuple[tuple[RouteKind, str], Route]]:
        """The same of what is away; the longest away stays the first."""
        for (kind, name), route in routes.items():
            found = self.routes(kind, {name: route}, {}) if kind in _KINDS else [(name, route)]
            for shown_as, one in found:
                yield (kind, shown_as), one

    def places(self, unlisted: Iterable[Route]) -> Iterator[Route]:
        """What short names of servers that were never listed begin with, in front of what other nodes' begin with."""
        for place in unlisted:
            if place.listed and (server := self.owners.get(place.owner)) is not None:
                yield replace(place, public_name=name_beginning(server), listed=False)

    def _short(self, kind: RouteKind, route: Route) -> str | None:
        server, tool = self.owners.get(route.owner), listed_origin(route.definition).get("tool")
        if server is None or kind is RouteKind.SERVER:
            return server
        return shown_name(server, tool, len_max=self.len_max) if isinstance(tool, str) else None

    def _by_id(self, kind: RouteKind, name: str, route: Route) -> str | None:
        """How a thing of another node, which is called as a server of ours, goes in the place of its first name."""
        server = self.namesakes.get(route.owner.partition("/")[0])
        if server is None or not name.startswith(name_beginning(server)):
            return None
        origin = listed_origin(route.definition)
        node, node_id, its_server, tool = (str(origin.get(key)) for key in ("node", "node_id", "server", "tool"))
        parts = node_alias(node, node_id), its_server
        return public_name(*parts) if kind is RouteKind.SERVER else shown_name(*parts, tool, len_max=self.len_max)


def _shown_as(kind: RouteKind, short: str, route: Route, known: Route | None) -> Route:
    if kind is RouteKind.SERVER:
        return replace(route, public_name=short)
    definition = route.definition | {NAME_MEMBER[kind]: short}
    if known is not None and known.definition == definition:
        definition = known.definition
    return replace(route, public_name=short, definition=definition)
