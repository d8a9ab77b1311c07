"""The node's picture of the mesh: catalog, overrides and servers in, links and route tables out.

One loop: woken by any change, it selects the desired peers, reconciles them with the actual links, rebuilds the route
tables, and notifies clients and discovery. The one rule: everything is recomputed from whole snapshots, so a missed
event costs one resync and never a wrong state.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from agent import clock
from agent.config.values import StaticPeer
from agent.control.absence import AbsenceTracker
from agent.control.candidates import Selection
from agent.control.contributions import Contributing, contribution_of, read_large, size_of, table_digest
from agent.control.departures import Departed, Departures
from agent.control.maintenance import Maintenance, log_changes, maintenance_of
from agent.control.pinning import Pinning
from agent.control.selector import Selector
from agent.errors import MeshError, OverrideRefused
from agent.late import give_back_memory
from agent.links.actions import reconcile
from agent.links.link import Link
from agent.links.supervisor import Supervisor
from agent.model import PUBLIC_NAME_LEN_MAX, BackendSpec, LinkView, NodeIdentity, PeerSpec, ServerSpec
from agent.routing.away import Absence, awaited_owners, with_away, without_private
from agent.routing.build import build_routes, changed_kinds, is_outdated, local_contributions
from agent.routing.client_names import AS_BETWEEN_NODES, ClientNames
from agent.routing.fleet import changed_only_in_fleets
from agent.routing.table import Contribution, Route, RouteKind, RouteTable
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Instance

log = logging.getLogger(__name__)

# A table of as many entries takes 10 ms for each thousand to build: beyond this a thread does it.
LARGE_TABLE: Final = 1000
# A peer that has listed nothing is two names in each of two tables.
UNLISTED_ENTRIES: Final = 2

# Repairs any missed event: a wake that was lost costs at most this long.
RESYNC_EVERY_S: Final = 30.0
# So long after the last step links have been opened and lists been read, and what both took is given back.
CALM_S: Final = 5.0
# A step that took longer than this is followed by a rest as long as itself: many joins at once must not starve calls.
QUICK_STEP_S: Final = 0.01
# And by one so many times as long where only links have changed, of many, for a second at most: what they mean for
# calls, dispatch sees by itself, and hundreds that end at once are a few steps. Calls wait 0.5 s for the next table.
MANY_LINKS: Final = 100
LINKS_REST_FACTOR: Final = 5.0
LINKS_REST_MAX_S: Final = 1.0


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


class Mesh:
    """See the module. Sole writer of catalog, servers and tables; the override store writes itself.

    Long because one step reads and writes all of it: catalog, servers, links and route tables.
    """

    def __init__(
        self,
        *,
        own: NodeIdentity,
        supervisor: Supervisor,
        store: OverrideStore,
        statics: Sequence[StaticPeer],
        hooks: MeshHooks,
        waits_for_catalog: bool = False,
        name_len_max: int = PUBLIC_NAME_LEN_MAX,
        pinned: Mapping[str, frozenset[str]] = MappingProxyType({}),
        remembered: Mapping[tuple[RouteKind, str], Route] | None = None,
        client_names: ClientNames = AS_BETWEEN_NODES,
        pinning: Pinning | None = None,
    ) -> None:
        """`waits_for_catalog`: discovery is on, so the node has only begun before the first catalog is there.

        `name_len_max`: of the names of tools and prompts that clients see. `remembered`: names of peers' things that
        were known before this node was started, as away. `client_names`: what is made of the table by nodes.
        `pinning`: what is left out of offers; None: nothing.
        """
        self.own = own
        self.statics = tuple(statics)
        self.catalog = Catalog()
        self.servers: tuple[ServerSpec, ...] = ()
        self.routes = RouteTable(starting=True)
        self.node_routes = self.routes  # The same with the tools of fleets by their nodes, as other nodes list them.
        self.local_routes = RouteTable(starting=True)
        self.selection = Selection()
        self.maintenance = Maintenance()
        self._supervisor = supervisor
        self._store = store
        self._contributing = Contributing(own, name_len_max=name_len_max, pinned=pinned)
        self._remembered = remembered or {}
        self._client_names = client_names
        self._pinning = pinning
        self._hooks = hooks
        self._absences = AbsenceTracker(waits_for_catalog=waits_for_catalog)
        away = [(replica, route.away_since_s) for route in self._remembered.values() for replica in route.replicas]
        self._absences.remember({replica.backend_key: since_s or 0.0 for replica, since_s in away})
        self._absence = Absence(starting=True)
        self._contributions: tuple[Contribution, ...] = ()
        self._selector = Selector(own, store)
        self._departures = Departures(self._selector.node_at, self._selector.key_of)
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._generation = 0
        self._stepped = asyncio.Event()
        self._ended = False
        self.observed_generation = 0

    def __repr__(self) -> str:
        return f"<Mesh {self.own.name} links={len(self._supervisor.actual)} tools={len(self.routes.tools)}>"

    # What others read

    def views(self) -> tuple[LinkView, ...]:
        """Every link's view."""
        return self._supervisor.views()

    def peer_views(self) -> list[LinkView]:
        """Every peer's link, by name."""
        peers = [view for view in self.views() if isinstance(view.spec, PeerSpec)]
        return sorted(peers, key=lambda view: view.spec.name)

    def link(self, key: str) -> Link | None:
        """The link of a backend, None when there is none."""
        return self._supervisor.link(key)

    def departed(self) -> Sequence[Departed]:
        """The peers that went in the last hour, the latest first."""
        return self._departures.shown(clock.now_s())

    def heard_of(self, node_id: str) -> None:
        """A node has reached us: if the link to it is down, the way to it may be open again."""
        link = self._supervisor.link(self._selector.key_of(node_id))
        if link is not None and not link.view.connected:
            link.reached()

    def answers(self, instance: Instance) -> bool:
        """Whether a link to what this instance of a catalog is, is up."""
        link = self._supervisor.link(self._selector.key_at(instance))
        return link is not None and link.view.connected

    def find_peer(self, name: str) -> LinkView | None:
        """The link of a peer, found by its name or one of its aliases."""
        peers = self.peer_views()
        found = [view for view in peers if view.spec.name == name]
        found += [view for view in peers if isinstance(view.spec, PeerSpec) and name in view.spec.aliases]
        return found[0] if found else None

    def find_node(self, name: str) -> LinkView | None:
        """The connected link to the node that calls itself so, or that we call so; None when there is none."""
        nodes = [view for view in self.views() if view.identity is not None and view.connected]
        return next((v for v in nodes if v.identity and v.identity.name == name), None) or next(
            (v for v in nodes if isinstance(v.spec, PeerSpec) and name in (v.spec.name, *v.spec.aliases)), None
        )

    @property
    def starting(self) -> bool:
        """Whether first attempts are still open: of our own servers, and of the links of the first catalog."""
        return self._absences.starting

    def view_of(self, name: str) -> LinkView:
        """The link of a server, else of a peer, found by its name or one of its aliases. Raises `MeshError`."""
        servers = {view.spec.name: view for view in self.views() if isinstance(view.spec, ServerSpec)}
        configured = {view.spec.configured_name: view for view in servers.values() if isinstance(view.spec, ServerSpec)}
        found = servers.get(name) or self.find_peer(name) or (configured.get(name) if name else None)
        if found is not None:
            return found
        if any(server.name == name and not server.enabled for server in self.servers):
            raise MeshError(f"MCP server {name!r} is disabled in the servers file.")
        known = ", ".join(sorted(view.spec.name for view in self.views())) or "none"
        raise MeshError(f"There is no MCP server or peer named {name!r}. Known: {known}.")

    def name_of(self, node_id: str) -> str | None:
        """What the node with this ID calls itself, as far as this one is linked with it."""
        identities = (view.identity for view in self.views() if view.connected)
        return next((one.name for one in identities if one is not None and one.node_id == node_id), None)

    # What changes the picture

    def wake(self) -> int:
        """Request a step; returns the generation that it will have observed."""
        self._generation += 1
        self._urgent.set()
        self._wake.set()
        return self._generation

    def link_changed(self) -> None:
        """Request a step soon: a link came up or went down, or offers something else."""
        self._wake.set()

    def take_catalog(self, catalog: Catalog) -> None:
        """A new snapshot from discovery."""
        self.catalog = catalog
        self._absences.caught_catalog()
        self.wake()

    def take_servers(self, servers: Sequence[ServerSpec]) -> None:
        """A new configuration of local servers."""
        self.servers = tuple(servers)
        self.wake()

    def forget_who_answered(self, url: str) -> None:
        """Forget which node answered at `url`: an operator has just added it, so it is dialled anew."""
        self._selector.forget_who_answered(url)

    async def settled(self) -> None:
        """Request a step and wait until it has acted. Raises `OverrideRefused` (503) when there will be none."""
        generation = self.wake()
        while self.observed_generation < generation:
            if self._ended:
                raise OverrideRefused(503, "stopping", "This node is stopping")
            await self._stepped.wait()

    async def reload(self, name: str, timeout_s: float) -> None:
        """Dial a server or peer anew and wait for the outcome. Raises `MeshError`: unknown.

        At most `timeout_s`, and for a server as much more as it may take to start.
        """
        await self.settled()
        link = self._supervisor.link(self.view_of(name).key)
        assert link is not None
        attempted = link.reload()
        start_s = link.spec.start_timeout_s if isinstance(link.spec, ServerSpec) else 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s + start_s):
                await attempted.wait()
        await self.settled()

    # The loop

    async def run(self) -> None:
        """Step whenever woken, and every `RESYNC_EVERY_S` without, until cancelled."""
        loop, given_back = asyncio.get_running_loop(), None
        self.wake()  # Overrides and static peers are there from the start; without discovery nothing else may happen.
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    left_s = self._absences.start_left_s(clock.now_s())
                    async with asyncio.timeout(RESYNC_EVERY_S if left_s is None else left_s):
                        await self._wake.wait()
                self._wake.clear()
                self._urgent.clear()
                generation, began_at_s = self._generation, clock.now_s()
                try:
                    await self._step()
                    await asyncio.sleep(0)  # Others have their turn: of thousands of links each part takes a while.
                    await self._rebuild_routes()
                except Exception:  # The top of an eternal loop: a bug in one step must not end the node.
                    log.exception("a mesh step failed; the next change or resync tries again")
                self._note_step(generation)
                # Opening links takes far more memory than holding them.
                if given_back is not None:
                    given_back.cancel()
                given_back = loop.call_later(CALM_S, give_back_memory)
                took_s = clock.now_s() - began_at_s
                if took_s > QUICK_STEP_S:
                    await self._rest(took_s)
        finally:
            if given_back is not None:
                given_back.cancel()
            self._ended = True
            self._note_step(self.observed_generation)

    async def _rest(self, took_s: float) -> None:
        await asyncio.sleep(took_s)
        more_s = min(LINKS_REST_FACTOR * took_s, LINKS_REST_MAX_S) - took_s
        if len(self._supervisor.links()) <= MANY_LINKS:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, more_s)):
                await self._urgent.wait()

    def _note_step(self, generation: int) -> None:
        self.observed_generation = generation
        stepped, self._stepped = self._stepped, asyncio.Event()
        stepped.set()

    async def _step(self) -> None:
        names = [server.name for server in self.servers]
        self.selection = await self._selector.select(self.catalog, names, self.views(), self.statics)
        views = self.views()
        wanted: list[BackendSpec] = [server for server in self.servers if server.enabled]
        desired = {spec.key: spec for spec in [*wanted, *self.selection.peers]}
        self._note_maintenance(desired.values())
        self._hooks.far(frozenset(spec.key for spec in self.selection.peers if spec.datacenter))
        actual = self._supervisor.actual
        self._supervisor.apply(reconcile(desired, actual))
        removed = actual.keys() - desired.keys()
        now_s = clock.now_s()
        self._absences.note(desired, [actual[key] for key in removed], self._store.suppressions, now_s)
        self._departures.note(views, desired, removed, self._store.suppressions, now_s)
        for key in removed:
            self._hooks.backend_gone(key)
            if self._pinning is not None:
                self._pinning.forget(key)

    def _note_maintenance(self, desired: Iterable[BackendSpec]) -> None:
        before, self.maintenance = self.maintenance, maintenance_of(self.catalog, self.own.node_id, desired)
        if self.maintenance != before:
            log_changes(before, self.maintenance)
            self._hooks.drained(self.maintenance.backends)

    def _contributed(self) -> tuple[Contribution, ...]:
        parts = self._contributing.parts(self.views())
        pinning, before = self._pinning, {part.backend_key: part for part in self._contributions}
        if pinning is None:
            return tuple(parts)
        found: list[Contribution] = []
        for part in parts:
            if not pinning.concerns(part):
                found.append(part)
            elif not pinning.waits(part):
                found.append(replace(part, blocked=blocked) if (blocked := pinning.blocked(part)) else part)
            elif part.backend_key in before:
                # Too large to be looked at here, it stays as it was: the change that brought it wakes the mesh again.
                found.append(before[part.backend_key])
        return tuple(found)

    async def _rebuild_routes(self) -> None:
        if self._pinning is not None:
            # Of other nodes nothing is pinned.
            views = (v for v in self.views() if v.connected and (v.identity is None or isinstance(v.spec, ServerSpec)))
            await self._pinning.look_at_large(contribution_of(view, self.own) for view in views)
        contributions = self._contributed()
        known = await read_large(contributions, self.own, self.routes.parts)
        if known is not self.routes.parts:
            contributions = self._contributed()  # Read again after the await.
        now_s = clock.now_s()
        absence = self._absences.absence(self.views(), self._tried(), now_s)
        before, before_local, before_shown = self.node_routes, self.local_routes, self.routes
        if self._remembered and not absence.starting:
            # Only now is it known which of their backends are wanted; until now every name might exist.
            before, self._remembered = replace(before, away=MappingProxyType({**self._remembered, **before.away})), {}
        rebuild = contributions != self._contributions or is_outdated(before, now_s)
        if not rebuild and absence.leaves_as_is(self._absence):
            return
        self._contributions, self._absence = contributions, absence

        def made() -> tuple[RouteTable, RouteTable, RouteTable]:
            routes, local = before, before_local
            if rebuild:
                kinds = {part.backend_key: part.kind for part in contributions}
                awaited = awaited_owners(before, kinds, absence, now_s)
                routes = build_routes(contributions, self.own, before, now_s, known, awaited=awaited, for_clients=True)
                local = build_routes(local_contributions(contributions), self.own, before_local, now_s, routes.parts)
            by_nodes = with_away(before, routes, absence, self.own, now_s)
            own = with_away(before_local, local, without_private(absence), self.own, now_s)
            return by_nodes, self.shown(by_nodes), own

        # Both in a thread, once they are large: all that they read is frozen.
        entries = sum(size_of(part.offer) for part in contributions) + UNLISTED_ENTRIES * len(absence.unlisted)
        is_large = entries > LARGE_TABLE
        tables = await asyncio.to_thread(made) if is_large else made()
        self.node_routes, self.routes, self.local_routes = tables
        self._notify(before_shown, before_local)

    def shown(self, table: RouteTable) -> RouteTable:
        """What clients of `/mcp` see of a table by nodes, all callers' or a single one's."""
        return self._client_names.of(table, self.own, self.servers, self.routes)

    def _tried(self) -> frozenset[str]:
        """The links whose first attempt has an outcome; looked at while this node has only begun."""
        links = {key: self._supervisor.link(key) for key in self._supervisor.actual} if self.starting else {}
        return frozenset(key for key, link in links.items() if link is not None and link.first_attempt.is_set())

    def _notify(self, before: RouteTable, before_local: RouteTable) -> None:
        """Notify of new tables."""
        self._hooks.routes_changed()
        changed = changed_kinds(before, self.routes)
        in_fleets = changed_only_in_fleets(before, self.routes, changed)
        self._hooks.fleets_changed(in_fleets)
        self._hooks.mesh_changed(changed - in_fleets)
        local = changed_kinds(before_local, self.local_routes)
        if RouteKind.SERVER in local or before_local.places() != self.local_routes.places():
            local |= {RouteKind.RESOURCE}  # Other nodes read it there.
        self._hooks.local_changed(local)
        if local:
            self._hooks.offer_changed(table_digest(self.local_routes))
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
