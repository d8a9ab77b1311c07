"""The tools of fleets in tables that are built on: what a change of one node makes of them.

Kept by the mesh beside its tables. Nearly all changes of a fleet are that a node comes or goes whose tools are those of
all others; that is one member more or less. The one rule: the outcome is that of `agent.routing.fleet.with_fleets`;
what is not as usual is left to it (None).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from agent.model import PUBLIC_NAME_LEN_MAX
from agent.routing.build import replicas_with, replicas_without
from agent.routing.chunked import Chunked
from agent.routing.fleet import (
    Parts,
    bare_digest,
    grouped,
    joined,
    members_of,
    namespaces_of,
    node_of,
    nodes_routes,
    nodes_uri,
)
from agent.routing.names import shown_name
from agent.routing.table import Replica, Root, Route, RouteKind, RouteTable

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
        tools = Chunked.of(shown.tools).changed({**_laid_over(after.tools, decided[RouteKind.TOOL]), **fleets})
        of_nodes = self._of_nodes(shown, tools, moved)
        over = {kind: _laid_over(after.of_kind(kind), decided[kind]) for kind in _KINDS}
        for route in of_nodes:
            over[route.kind][route.public_name] = route
        tables = {kind: Chunked.of(shown.of_kind(kind)).changed(over[kind]) for kind in _KINDS}
        made = replace(
            after,
            tools=tools,
            resources=tables[RouteKind.RESOURCE],
            templates=tables[RouteKind.TEMPLATE],
            namespaces=tables[RouteKind.NAMESPACE],
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
        assert known is not None
        away = fleet.away.changed({node_of(route): None for route in moved.away_was})
        away = away.changed(
            {node_of(route): route for route in moved.away_now} | {node_of(one): None for one in moved.now}
        )
        agreed = fleet.members.changed({node_of(member): None for member in moved.was})
        spaces = _spaces_on(fleet.namespaces, moved)
        replicas: tuple[Replica, ...] | None = known.replicas
        for replica in (one for member in moved.was for one in member.replicas):
            replicas = None if replicas is None else replicas_without(replicas, replica)
        shown, names = fleet.members[fleet.shown], [node_of(member) for member in moved.now]
        agree = all(bare_digest(member) == bare_digest(shown) for member in moved.now)
        if replicas is None or not agree or any(name in agreed for name in names):
            return None
        for replica in (one for member in moved.now for one in member.replicas):
            replicas = replicas_with(replicas, replica)
        agreed = agreed.changed(dict(zip(names, moved.now, strict=True)))
        # A node of two names has one of the places.
        if not agreed or len(spaces) != len(agreed):
            return None
        parts = Parts(
            shown=min((fleet.shown, *names)) if fleet.shown in agreed else min(agreed),
            agreed=agreed,
            others={},
            away=away,
            namespaces=spaces,
            replicas=replicas,
            # One node whose server needs it is enough.
            sticky=any(one.sticky for one in moved.now)
            or (known.sticky and any(member.sticky for member in agreed.values())),
        )
        may_write = any(fnmatchcase(name, pattern) for pattern in self._writes)
        return joined(name, key, parts, may_write=may_write, known=known)

    def _of_nodes(
        self, shown: RouteTable, tools: Mapping[str, Route], moved: Mapping[tuple[str, str], _Moved]
    ) -> list[Route]:
        """What tells of the nodes of these fleets."""
        found: list[Route] = []
        for server in {server for server, _ in moved}:
            names = [shown_name(server, tool, len_max=self._len_max) for tool in sorted(self._tools[server])]
            fleets = [fleet for name in names if (fleet := tools[name].fleet) is not None]
            known = shown.resources[nodes_uri(server)].fleet
            assert known is not None
            nodes = {node_of(member) for of, one in moved.items() if of[0] == server for member in (*one.was, *one.now)}
            # Of several tools the last says how the node is reached, as where all is made anew.
            now = {node: _last(fleet.members.get(node) for fleet in fleets) for node in nodes}
            members = known.members.changed(now)
            gone = [known.members[node] for node in nodes if node in known.members]
            spaces = _spaces_on(
                known.namespaces, _Moved(gone, [one for one in now.values() if one is not None], (), ())
            )
            if len(spaces) != len(members):
                spaces = namespaces_of(members)
            found += nodes_routes(server, members, spaces)
        return found


def _last(members: Iterable[Route | None]) -> Route | None:
    """The last of those that there are."""
    return next((one for one in reversed(list(members)) if one is not None), None)


def _spaces_on(namespaces: Chunked[str | None, str], moved: _Moved) -> Chunked[str | None, str]:
    """The namespaces of a fleet's nodes, where each node has one name."""
    gone: dict[str | None, str | None] = {one.node_id: None for member in moved.was for one in member.replicas}
    return namespaces.changed(gone | {one.node_id: member.namespace for member in moved.now for one in member.replicas})


def _laid_over(after: Mapping[str, Route], names: Iterable[str]) -> dict[str, Route | None]:
    """These names as in `after`, where the tools of single nodes of fleets are not listed."""
    found = {name: after.get(name) for name in names}
    return {
        name: replace(route, listed=False) if route is not None and route.in_fleet and route.listed else route
        for name, route in found.items()
    }


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
