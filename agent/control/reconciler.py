"""The node's picture of the mesh: catalog, overrides and servers in, links and route tables out.

One loop: woken by any change, it selects the desired peers, reconciles them with the actual links, rebuilds the route
tables, and notifies clients and discovery. A link's change costs what it touches: only that is selected, compared and
routed again. The one rule: the outcome is that of whole snapshots, and every resync looks at those, so a missed event
costs one resync and never a wrong state.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import is_
from types import MappingProxyType
from typing import Final

from agent import clock
from agent.config.values import StaticPeer
from agent.control.absence import AbsenceTracker
from agent.control.candidates import Selection
from agent.control.contributions import Contributing
from agent.control.departures import Departed, Departures
from agent.control.groups import Changes
from agent.control.maintenance import Maintenance, log_changes, maintenance_of
from agent.control.pinning import Pinning
from agent.control.selector import Selector
from agent.control.tables import MeshHooks, Tables
from agent.errors import MeshError, OverrideRefused
from agent.late import give_back_memory
from agent.links.actions import reconcile
from agent.links.link import Link
from agent.links.supervisor import Supervisor
from agent.model import PUBLIC_NAME_LEN_MAX, BackendSpec, LinkView, NodeIdentity, PeerSpec, ServerSpec, Suppression
from agent.routing.away import Absence
from agent.routing.client_names import AS_BETWEEN_NODES, ClientNames
from agent.routing.table import Route, RouteKind, RouteTable
from agent.state.overrides import OverrideStore
from agent.turns import in_parts, let_others
from discovery.model import Catalog, Instance

log = logging.getLogger(__name__)

# Repairs any missed event: a wake that was lost costs at most this long.
RESYNC_EVERY_S: Final = 30.0
# A timer may fire a clock's tick early. A step that finds nothing due yet would be followed by the next at once.
PAUSE_MIN_S: Final = 0.001
# So long after the last step links have been opened and lists been read, and what both took is given back.
CALM_S: Final = 5.0
# A step that took longer than this is followed by a rest as long as itself: many joins at once must not starve calls.
QUICK_STEP_S: Final = 0.01
# And by one so many times as long where only links have changed, of many, for a second at most: what they mean for
# calls, dispatch sees by itself, and hundreds that end at once are a few steps. Calls wait 0.5 s for the next table.
MANY_LINKS: Final = 100
LINKS_REST_FACTOR: Final = 5.0
LINKS_REST_MAX_S: Final = 1.0


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
        self.maintenance = Maintenance()
        self._own_maintenance = ""
        self._supervisor = supervisor
        self._store = store
        self._pinning = pinning
        self._hooks = hooks
        self._absences = AbsenceTracker(waits_for_catalog=waits_for_catalog)
        self._tables = Tables(
            own,
            supervisor,
            hooks,
            Contributing(own, name_len_max=name_len_max, pinned=pinned),
            servers=lambda: self.servers,
            client_names=client_names,
            pinning=pinning,
            remembered=remembered or {},
        )
        known = [(replica, route.away_since_s) for route in (remembered or {}).values() for replica in route.replicas]
        self._absences.remember({replica.backend_key: since_s or 0.0 for replica, since_s in known})
        self._selector = Selector(own, store)
        self._departures = Departures(self._selector.node_at, self._selector.key_of)
        self._desired: dict[str, BackendSpec] = {}
        self._changed: set[str] = set()  # Backend keys of links.
        self._whole_due_s: float | None = None  # None: now.
        self._made_of: tuple[object, ...] = ()
        self._noted_catalog: Catalog | None = None
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._generation = 0
        self._stepped = asyncio.Event()
        self._ended = False
        self.observed_generation = 0

    def __repr__(self) -> str:
        return f"<Mesh {self.own.name} links={len(self._supervisor.actual)} tools={len(self.routes.tools)}>"

    # What others read

    @property
    def routes(self) -> RouteTable:
        """What clients see."""
        return self._tables.routes

    @property
    def node_routes(self) -> RouteTable:
        """The same with the tools of fleets by their nodes, as other nodes list them."""
        return self._tables.node_routes

    @property
    def local_routes(self) -> RouteTable:
        """What other nodes see of our own servers."""
        return self._tables.local_routes

    @property
    def selection(self) -> Selection:
        """The peers that are wanted, and what is to be said of them."""
        return self._selector.selection

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

    def hiding(self, word: str) -> tuple[Suppression, ...]:
        """What would keep what the catalog calls so away, also where it has no link."""
        return self._selector.hiding(word)

    def keeping_away(self, word: str) -> Collection[Suppression]:
        """The orders that keep away what is called so, also where its node has another name by now."""
        return self._selector.keeping_away(word)

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
        """Request a step that looks at everything; returns the generation that it will have observed."""
        self._whole_due_s = None
        return self._request()

    def _request(self) -> int:
        self._generation += 1
        self._urgent.set()
        self._wake.set()
        return self._generation

    def link_changed(self, key: str) -> None:
        """Request a step soon: a link came up or went down, or offers something else."""
        self._changed.add(key)
        self._wake.set()

    def take_catalog(self, catalog: Catalog) -> None:
        """A new snapshot from discovery."""
        self.catalog = catalog
        self._absences.caught_catalog()
        self._request()

    def take_own_maintenance(self, reason: str) -> None:
        """What Consul's agent says of our own entry; empty for none."""
        if reason != self._own_maintenance:
            self._own_maintenance = reason
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
        await self._observed(self.wake())

    async def links_settled(self) -> None:
        """As `settled`, of what links have said that they changed."""
        await self._observed(self._request())

    async def _observed(self, generation: int) -> None:
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
                    async with asyncio.timeout(self._pause_s()):
                        await self._wake.wait()
                self._wake.clear()
                self._urgent.clear()
                generation, began_at_s = self._generation, clock.now_s()
                try:
                    await self.step()
                except Exception:  # The top of an eternal loop: a bug in one step must not end the node.
                    log.exception("a mesh step failed; the next change or resync tries again")
                    self._whole_due_s = None
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

    async def step(self) -> None:
        """Act on what has changed since the last one; `run` does so whenever it is woken."""
        changed = await self._have_links(self._taken_changes())
        await asyncio.sleep(0)
        await self._rebuild_routes(changed)

    def _pause_s(self) -> float:
        """Until the next resync, or until this node counts as started."""
        now_s = clock.now_s()
        due_s = RESYNC_EVERY_S if self._whole_due_s is None else max(0.0, self._whole_due_s - now_s)
        left_s = self._absences.start_left_s(now_s)
        return max(PAUSE_MIN_S, due_s if left_s is None else min(due_s, left_s))

    def _taken_changes(self) -> Collection[str] | None:
        """The links that this step has to look at; None: everything."""
        now_s, made_of = clock.now_s(), (self.servers, self._store.overrides, self._store.suppressions)
        known = (
            not self._selector.wants_all
            and len(made_of) == len(self._made_of)
            and all(map(is_, made_of, self._made_of))
        )
        changed, self._changed, self._made_of = self._changed, set(), made_of
        if known and not self.starting and self._whole_due_s is not None and now_s < self._whole_due_s:
            return changed
        self._whole_due_s = now_s + RESYNC_EVERY_S
        return None

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

    async def _have_links(self, changed: Collection[str] | None) -> Collection[str] | None:
        """Have the links that there should be. `changed`: those that did; None: look at everything.

        Returns the links that were changed, opened or closed.
        """
        names = [server.name for server in self.servers]
        gone = None if changed is None else [key for key in changed if self._supervisor.link(key) is None]
        catalog = self.catalog
        views = self._views_of(changed)
        peers = await self._selector.select(catalog, names, views, self.statics, gone=gone)
        await let_others(len(views))  # Of thousands of links each part takes a while.
        keys = self._desire(peers, gone) if gone is not None else self._desire_all()
        await let_others(len(keys))
        desired = {key: spec for key in keys if (spec := self._desired.get(key)) is not None}
        links = {key: link for key in keys if (link := self._supervisor.link(key)) is not None}
        actual = {key: link.spec for key, link in links.items()}
        self._note_maintenance(peers, everything=changed is None or catalog is not self._noted_catalog)
        self._noted_catalog = catalog
        views = self._views_of(None if changed is None else {*changed, *links})
        self._supervisor.apply(reconcile(desired, actual))
        removed = actual.keys() - desired.keys()
        now_s, some = clock.now_s(), changed is not None
        if desired or removed or not some:
            removed_specs = [actual[key] for key in removed]
            self._absences.note(desired, removed_specs, self._store.suppressions, now_s, some=some)
        self._departures.note(views, desired, removed, self._store.suppressions, now_s, some=some)
        for key in removed:
            self._hooks.backend_gone(key)
            if self._pinning is not None:
                self._pinning.forget(key)
        self._changed |= removed  # The next selection hears that they are not up any more.
        return None if changed is None else {*changed, *keys}

    def _views_of(self, keys: Collection[str] | None) -> tuple[LinkView, ...]:
        """The views of these links, as far as there are such; None: of all."""
        links = self._supervisor.links() if keys is None else map(self._supervisor.link, keys)
        return tuple([link.view for link in links if link is not None])

    def _desire_all(self) -> Collection[str]:
        servers: list[BackendSpec] = [server for server in self.servers if server.enabled]
        self._desired = {spec.key: spec for spec in [*servers, *self.selection.peers]}
        return self._desired.keys() | self._supervisor.actual.keys()

    def _desire(self, peers: Changes, gone: Iterable[str]) -> Collection[str]:
        """Take what has changed; returns its backend keys, and those of links that ended against their will."""
        keys = [key for key in gone if key in self._desired]
        for was, now in peers.values():
            spec = now or was
            assert spec is not None
            keys.append(spec.key)
            if now is None:
                self._desired.pop(spec.key, None)
            else:
                self._desired[spec.key] = now
        return keys

    def _note_maintenance(self, peers: Changes, *, everything: bool) -> None:
        specs = [spec for pair in peers.values() for spec in pair if spec is not None]
        if everything or any(spec.datacenter for spec in specs):
            far = (spec.key for spec in self._desired.values() if isinstance(spec, PeerSpec) and spec.datacenter)
            self._hooks.far(frozenset(far))
        if not everything and not any(spec.maintenance for spec in specs):
            return
        before, self.maintenance = (
            self.maintenance,
            maintenance_of(self.catalog, self.own.node_id, self._desired.values(), self._own_maintenance),
        )
        if self.maintenance != before:
            log_changes(before, self.maintenance, {spec.name for spec in self._desired.values()})
            self._hooks.drained(self.maintenance.backends)

    async def _rebuild_routes(self, changed: Collection[str] | None) -> None:
        async def absent(now_s: float) -> Absence:
            views, none = ((), ()) if changed is not None else (self.views(), None)
            found = self._absences.absence(views, self._tried(), now_s, gone=none)
            async for keys in in_parts(tuple(changed or ())):
                gone = [key for key in keys if self._supervisor.link(key) is None]
                found = self._absences.absence(self._views_of(keys), self._tried(), now_s, gone=gone)
            return found

        await self._tables.rebuild(changed, absent)

    def shown(self, table: RouteTable) -> RouteTable:
        """What clients of `/mcp` see of a table by nodes, all callers' or a single one's."""
        return self._tables.shown(table)

    def _tried(self) -> frozenset[str]:
        """The links whose first attempt has an outcome; looked at while this node has only begun."""
        links = {key: self._supervisor.link(key) for key in self._supervisor.actual} if self.starting else {}
        return frozenset(key for key, link in links.items() if link is not None and link.first_attempt.is_set())
