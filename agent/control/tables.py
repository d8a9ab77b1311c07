"""The route tables of what links contribute: for clients, for other nodes behind a gateway, and of our own servers.

Kept by the mesh, one rebuild a step. What a link's change concerns is decided again (`agent.routing.rebuild`), and
clients are notified of the lists that it is in. The one rule: what a thread reads here is frozen, or read by
nothing else for that time; after a failure all is made anew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from agent import clock
from agent.control.contributions import Contributing, contribution_of, read_large, size_of, table_digest
from agent.control.pinning import Pinning
from agent.links.supervisor import Supervisor
from agent.model import LinkView, NodeIdentity, ServerSpec
from agent.routing.away import Absence, without_private
from agent.routing.build import changed_kinds, imported, is_outdated, local_contributions
from agent.routing.client_names import ClientNames
from agent.routing.fleet import changed_only_in_fleets
from agent.routing.fleet_on import Decided, ShownFleets
from agent.routing.rebuild import Rebuilt, RouteBuilder
from agent.routing.table import Contribution, Imported, Route, RouteKind, RouteTable
from agent.turns import in_parts, let_others

log = logging.getLogger(__name__)

# As many entries take 10 ms for each thousand to read and to decide: beyond this a thread does it.
LARGE_TABLE: Final = 1000
# A peer that has listed nothing is two names in each of two tables.
UNLISTED_ENTRIES: Final = 2

# What may come back, by the time.
Absent = Callable[[float], Awaitable[Absence]]


@dataclass(frozen=True, slots=True)
class MeshHooks:
    """Who is notified: clients of both endpoints of changed lists, discovery of our offer's digest.

    `routes_changed` is called with every new pair of route tables, also where no list has changed. `fleets_changed`: in
    the place of `mesh_changed`, of lists that differ only in what nodes of fleets have. `drained`: the
    backends in maintenance, after each change of them; `far`: those in other datacentres.
    """

    mesh_changed: Callable[[frozenset[RouteKind]], None]
    local_changed: Callable[[frozenset[RouteKind]], None]
    offer_changed: Callable[[str], None]
    backend_gone: Callable[[str], None]
    routes_changed: Callable[[], None] = lambda: None
    fleets_changed: Callable[[frozenset[RouteKind]], None] = lambda _kinds: None
    drained: Callable[[frozenset[str]], None] = lambda _backends: None
    far: Callable[[frozenset[str]], None] = lambda _backends: None


class Tables:
    """See the module. Sole writer: the mesh, by `rebuild`."""

    def __init__(
        self,
        own: NodeIdentity,
        supervisor: Supervisor,
        hooks: MeshHooks,
        contributing: Contributing,
        *,
        servers: Callable[[], Iterable[ServerSpec]],
        client_names: ClientNames,
        pinning: Pinning | None,
        remembered: Mapping[tuple[RouteKind, str], Route],
    ) -> None:
        """`servers`: all that are configured. The others: see `Mesh`."""
        self.routes = self.node_routes = self.local_routes = RouteTable(starting=True)
        self._own, self._supervisor, self._hooks, self._contributing = own, supervisor, hooks, contributing
        self._servers, self._client_names, self._pinning, self._remembered = servers, client_names, pinning, remembered
        self._fleets = ShownFleets(client_names.fleet_writes, client_names.len_max)
        self._absence = Absence(starting=True)
        self._begin()

    def __repr__(self) -> str:
        return f"<Tables backends={len(self._contributions)} tools={len(self.routes.tools)}>"

    def shown(self, table: RouteTable) -> RouteTable:
        """What clients of `/mcp` see of a table by nodes, all callers' or a single one's."""
        return self._client_names.of(table, self._own, self._servers(), self.routes)

    async def rebuild(self, changed: Collection[str] | None, absent: Absent) -> None:
        """Have the tables of what links offer now. `changed`: the links that may; None: all."""
        if self._pinning is not None:
            # Of other nodes nothing is pinned.
            up = [view for view in self._views(changed) if view.connected]
            views = (view for view in up if view.identity is None or isinstance(view.spec, ServerSpec))
            await self._pinning.look_at_large([contribution_of(view, self._own) for view in views])
        fresh = await self._contributed(changed)
        read = await read_large([part for part in fresh.values() if part], self._own, self.node_routes.parts)
        if read is not self.node_routes.parts:
            fresh = await self._contributed(changed)  # Read again after the await.
        now_s = clock.now_s()
        absence = await absent(now_s)
        await let_others(len(fresh))
        before, before_local, before_shown = self.node_routes, self.local_routes, self.routes
        is_less = absence.expected is not self._absence.expected and not self._absence.expected <= absence.expected
        everything = is_outdated(before, now_s) or is_outdated(before_local, now_s) or is_less
        if self._remembered and not absence.starting:
            # Only now is it known which of their backends are wanted; until now every name might exist.
            before, everything = replace(before, away=MappingProxyType({**self._remembered, **before.away})), True
            self._remembered = {}
        if not fresh and not everything and absence.leaves_as_is(self._absence):
            return
        self._absence = absence
        went = [known for key in fresh if (known := self._contributions.get(key)) is not None]
        for key, part in fresh.items():
            if part is None:
                del self._contributions[key]
            else:
                self._contributions[key] = part

        def made() -> _Made:
            parts = {
                key: None if part is None else imported(part, self._own, read.get(key)) for key, part in fresh.items()
            }
            routes = self._all.rebuilt(before, parts, absence, now_s, everything=everything)
            own = without_private(absence)
            local = self._local.rebuilt(before_local, _local_of(parts), own, now_s, everything=everything).table
            shown, decided = self._shown_of(routes, before, before_shown)
            changed_lists = changed_kinds(before_shown, shown, decided, tasks=routes.tasks)
            in_fleets = changed_only_in_fleets(before_shown, shown, changed_lists, decided)
            return _Made(
                routes.table, local, shown, changed_lists - in_fleets, in_fleets, *_local_changes(before_local, local)
            )

        # In a thread, once there is much to decide: what goes is as much as what comes.
        looked_at = (*went, *(self._contributions.values() if everything else fresh.values()))
        entries = UNLISTED_ENTRIES * len(absence.unlisted) + (len(before.tools) if self._is_shown_otherwise else 0)
        try:
            found = await asyncio.to_thread(made) if _are_many(entries, looked_at) else made()
        except BaseException:
            self._begin()
            raise
        self.node_routes, self.local_routes, self.routes = found.routes, found.local, found.shown
        self._notify(found, before_shown)

    def _begin(self) -> None:
        """Begin with no contribution: all that there are will be new ones."""
        self._all, self._local = RouteBuilder(self._own), RouteBuilder(self._own, for_clients=False)
        self._contributions: dict[str, Contribution] = {}

    @property
    def _is_shown_otherwise(self) -> bool:
        """Whether clients may see anything in another way than other nodes."""
        return self._client_names.short or self._all.has_fleets

    def _shown_of(
        self, routes: Rebuilt, before: RouteTable, before_shown: RouteTable
    ) -> tuple[RouteTable, Decided | None]:
        """What clients see now, and the names that may lead elsewhere than `before_shown`; None: any may."""
        if not self._is_shown_otherwise:
            return routes.table, routes.decided if before_shown is before else None
        if not (self._client_names.short or routes.whole or before_shown is before):
            moved = self._fleets.on(before_shown, before, routes.table, routes.decided)
            if moved is not None:
                return moved
        shown = self.shown(routes.table)
        self._fleets.learn(shown)
        return shown, None

    def _views(self, keys: Collection[str] | None) -> Sequence[LinkView]:
        if keys is None:
            return self._supervisor.views()
        return [link.view for key in keys if (link := self._supervisor.link(key)) is not None]

    async def _contributed(self, changed: Collection[str] | None) -> dict[str, Contribution | None]:
        """The contributions that are other ones than before, by backend key; None for one that is there no more."""
        views = {view.key: view for view in self._views(changed) if view.connected}
        found: dict[str, Contribution | None] = {}
        async for keys in in_parts(tuple(self._contributions if changed is None else changed)):
            for key in keys:
                if key not in views:
                    self._contributing.forget(key)
                    if key in self._contributions:
                        found[key] = None
        async for some in in_parts(list(views.items())):
            for key, view in some:
                part = self._allowed(self._contributing.part(view))
                if part is not None and part != self._contributions.get(key):
                    found[key] = part
        return found

    def _allowed(self, part: Contribution) -> Contribution | None:
        """The contribution without what is blocked; None: it stays as it was.

        Too large to be looked at here, it has come since it was: the change that brought it wakes the mesh again.
        """
        pinning = self._pinning
        if pinning is None or not pinning.concerns(part):
            return part
        if pinning.waits(part):
            return None
        return replace(part, blocked=blocked) if (blocked := pinning.blocked(part)) else part

    def _notify(self, made: "_Made", before: RouteTable) -> None:
        """Notify of new tables; `before`: what clients saw."""
        self._hooks.routes_changed()
        self._hooks.fleets_changed(made.in_fleets)
        self._hooks.mesh_changed(made.changed)
        self._hooks.local_changed(made.local_changed)
        if made.local_digest is not None:
            self._hooks.offer_changed(made.local_digest)
        if self.routes.conflicts == before.conflicts:
            return
        for conflict in set(self.routes.conflicts) - set(before.conflicts):
            log.warning(
                "name conflict",
                extra={
                    "public_name": conflict.name,
                    "holder": conflict.holder,
                    "others": conflict.others,
                    "reason": conflict.reason,
                },
            )


@dataclass(frozen=True, slots=True)
class _Made:
    """New tables, and whose lists look different: clients' (`in_fleets`: only in what nodes of fleets have), nodes'.

    `local_digest`: of what other nodes see of our own servers, None where it is as it was.
    """

    routes: RouteTable
    local: RouteTable
    shown: RouteTable
    changed: frozenset[RouteKind]
    in_fleets: frozenset[RouteKind]
    local_changed: frozenset[RouteKind]
    local_digest: str | None


def _are_many(entries: int, parts: Iterable[Contribution | None]) -> bool:
    """Whether these entries and those of parts are many; to count thousands of offers takes a while, too."""
    for part in parts:
        if entries > LARGE_TABLE:
            break
        entries += 0 if part is None else size_of(part.offer)
    return entries > LARGE_TABLE


def _local_changes(before: RouteTable, local: RouteTable) -> tuple[frozenset[RouteKind], str | None]:
    changed = changed_kinds(before, local)
    if RouteKind.SERVER in changed or before.places() != local.places():
        changed |= {RouteKind.RESOURCE}  # Other nodes read it there.
    return changed, table_digest(local) if changed else None


def _local_of(parts: Mapping[str, Imported | None]) -> dict[str, Imported | None]:
    """What of it other nodes see: our own servers that are not private. What never was there is none."""
    return {
        key: part if part is not None and local_contributions([part.source]) else None for key, part in parts.items()
    }
