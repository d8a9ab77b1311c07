"""The tools of fleets in tables that are built on: what a change of one node makes of them.

Kept by the mesh beside its tables. Nearly all changes of a fleet are that a node comes or goes whose tools are those of
all others; that is one member more or less. The one rule: the outcome is that of `agent.routing.fleet.with_fleets`;
what is not as usual is left to it (None).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TypeAlias

from agent.model import PUBLIC_NAME_LEN_MAX
from agent.routing.away_names import copy_of
from agent.routing.fleet import Parts, bare_digest, grouped, joined, members_of, node_of, nodes_routes
from agent.routing.names import shown_name
from agent.routing.table import Root, Route, RouteKind, RouteTable

Decided: TypeAlias = Mapping[RouteKind, Collection[str]]
_KINDS = (RouteKind.RESOURCE, RouteKind.TEMPLATE, RouteKind.NAMESPACE)


@dataclass(frozen=True, slots=True)
class _Moved:
    """Members of one tool of a fleet, by what they were before and are now; the same of those that are away."""

    was: Sequence[Route]
    now: Sequence[Route]
    away_was: Sequence[Route]
    away_now: Sequence[Route]


class ShownFleets:
    """See the module. `writes`, `len_max`: as of `with_fleets`."""

    def __init__(self, writes: Sequence[str], len_max: int = PUBLIC_NAME_LEN_MAX) -> None:
        self._writes, self._len_max = writes, len_max
        self._tools: dict[str, set[str]] = {}  # Server -> its tools, of what is shown.

    def __repr__(self) -> str:
        return f"<ShownFleets {sorted(self._tools)}>"

    def learn(self, shown: RouteTable) -> None:
        """Which fleets there are, of a table that `with_fleets` has made."""
        self._tools = defaultdict(set)
        for route in shown.tools.values():
            if route.fleet is not None:
                self._tools[route.fleet.server].add(route.fleet.tool)

    def on(
        self, shown: RouteTable, before: RouteTable, after: RouteTable, decided: Decided
    ) -> tuple[RouteTable, Decided] | None:
        """The table of `after`, and all names that may lead elsewhere than in `shown`, which was made of `before`.

        `decided`: the names that may be others in `after` than in `before`. None: it has to be made of everything.
        """
        # Fleets that have no name, or are away as a whole, show there.
        if shown.conflicts != before.conflicts or shown.away is not before.away:
            return None
        moved = _moved(before, after, decided[RouteKind.TOOL])
        kinds = (RouteKind.TOOL, *_KINDS)
        if moved is None or any(_is_of_fleet(shown.of_kind(kind), name) for kind in kinds for name in decided[kind]):
            return None
        fleets = dict[str, Route]()
        for key, members in moved.items():
            name = shown_name(*key, len_max=self._len_max)
            route = self._moved_on(name, key, shown.tools.get(name), members, after)
            if route is None:
                return None
            fleets[name] = route
        tools = _laid_over(shown.tools, after.tools, decided[RouteKind.TOOL]) | fleets
        of_nodes = self._of_nodes(tools, {server for server, _ in moved})
        tables = {kind: _laid_over(shown.of_kind(kind), after.of_kind(kind), decided[kind]) for kind in _KINDS}
        for route in of_nodes:
            tables[route.kind][route.public_name] = route
        made = replace(
            after,
            tools=MappingProxyType(tools),
            resources=MappingProxyType(tables[RouteKind.RESOURCE]),
            templates=MappingProxyType(tables[RouteKind.TEMPLATE]),
            namespaces=MappingProxyType(tables[RouteKind.NAMESPACE]),
        )
        others = {kind: {route.public_name for route in of_nodes if route.kind is kind} for kind in RouteKind}
        others[RouteKind.TOOL] |= fleets.keys()
        return made, {kind: {*decided[kind], *names} for kind, names in others.items()}

    def _moved_on(
        self, name: str, key: tuple[str, str], known: Route | None, moved: _Moved, after: RouteTable
    ) -> Route | None:
        """The route of one tool of a fleet; None where it is not as it mostly is."""
        fleet = None if known is None else known.fleet
        if fleet is None or (fleet.server, fleet.tool) != key or fleet.others or not fleet.members:
            return None
        if name in after.tools or Root(key[0], of_node=False) in after.roots:
            return None
        first, shown = next(iter(fleet.members.items()))
        agreed, away = copy_of(fleet.members), copy_of(fleet.away)
        for member in moved.was:
            if node_of(member) == first or agreed.pop(node_of(member), None) is None:
                return None
        for member in moved.now:
            if node_of(member) < first or node_of(member) in agreed or bare_digest(member) != bare_digest(shown):
                return None
            agreed[node_of(member)] = member
        for route in moved.away_was:
            away.pop(node_of(route), None)
        away |= {node_of(route): route for route in moved.away_now}
        for member in moved.now:
            away.pop(node_of(member), None)
        parts = Parts(dict(sorted(agreed.items())) if moved.now else agreed, {}, away)
        may_write = any(fnmatchcase(name, pattern) for pattern in self._writes)
        return joined(name, key, parts, may_write=may_write, known=known)

    def _of_nodes(self, tools: Mapping[str, Route], servers: Iterable[str]) -> list[Route]:
        """What tells of the nodes of these fleets."""
        found: list[Route] = []
        for server in servers:
            members: dict[str, Route] = {}
            for tool in sorted(self._tools[server]):
                fleet = tools[shown_name(server, tool, len_max=self._len_max)].fleet
                assert fleet is not None
                members.update(copy_of(fleet.members))
            found += nodes_routes(server, members)
        return found


def _laid_over(shown: Mapping[str, Route], after: Mapping[str, Route], names: Iterable[str]) -> dict[str, Route]:
    """`shown` with these names as in `after`, where the tools of single nodes of fleets are not listed."""
    routes = copy_of(shown)
    for name in names:
        routes.pop(name, None)
        if (route := after.get(name)) is not None:
            routes[name] = replace(route, listed=False) if route.in_fleet and route.listed else route
    return routes


def _is_of_fleet(routes: Mapping[str, Route], name: str) -> bool:
    route = routes.get(name)
    return route is not None and route.fleet is not None


def _moved(before: RouteTable, after: RouteTable, names: Iterable[str]) -> dict[tuple[str, str], _Moved] | None:
    """What these names say of the members of fleets; None where one goes by its ID, since another has its name."""
    away = [(RouteKind.TOOL, name) for name in names]
    found = [[routes[name] for name in names if name in routes] for routes in (before.tools, after.tools)] + [
        [routes[named] for named in away if named in routes] for routes in (before.away, after.away)
    ]
    groups = [grouped(members_of(routes)) for routes in found]
    if any(not member.listed for group in groups for members in group.values() for member in members):
        return None
    keys = dict.fromkeys(key for group in groups for key in group)
    return {key: _Moved(*(group.get(key, ()) for group in groups)) for key in keys}
