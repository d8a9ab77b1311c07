"""The node's picture of the mesh: catalog, overrides and servers in, links and route tables out.

One loop: woken by any change, it selects the peers that are wanted, reconciles them with the links that are there,
rebuilds the route tables, and tells who listens. The one rule: everything is recomputed from whole snapshots, so a
missed event costs one resync and never a wrong state.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.core.digest import offer_digest
from agent.core.reconcile import reconcile
from agent.core.route_table import Contribution, ContributionKind, RouteKind, RouteTable
from agent.core.routes import build_routes, changed_kinds, local_contributions
from agent.core.selection import Finding, Override, Selection, Suppression, select
from agent.errors import MeshError, OverrideRefused
from agent.links.supervisor import Supervisor
from agent.model import BackendSpec, LinkView, NodeIdentity, PeerSpec, ServerSpec
from agent.overrides import OverrideStore
from agent.settings_values import StaticPeer
from discovery.model import Catalog

log = logging.getLogger(__name__)

# Repairs whatever was missed; a wake that was lost costs at most this long.
RESYNC_EVERY_S: Final = 30.0
# URLs of nodes that moved away are forgotten when there are more than this.
LEARNED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class MeshHooks:
    """Whom the mesh tells: clients of both endpoints which lists changed, and discovery the digest of our offer."""

    mesh_changed: Callable[[frozenset[RouteKind]], None]
    local_changed: Callable[[frozenset[RouteKind]], None]
    offer_changed: Callable[[str], None]
    backend_gone: Callable[[str], None]


class Mesh:
    """See the module. Sole writer of catalog, servers and tables; the override store writes itself."""

    def __init__(
        self,
        *,
        own: NodeIdentity,
        supervisor: Supervisor,
        store: OverrideStore,
        statics: Sequence[StaticPeer],
        peer_token: Callable[[], str | None],
        hooks: MeshHooks,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.own = own
        self.tasks = tasks
        self.catalog = Catalog()
        self.servers: tuple[ServerSpec, ...] = ()
        self.routes = RouteTable()
        self.local_routes = RouteTable()
        self._supervisor = supervisor
        self._store = store
        self._statics = tuple(statics)
        self._peer_token = peer_token
        self._hooks = hooks
        self._selection = Selection()
        self._learned: dict[str, str] = {}
        self._contributions: tuple[Contribution, ...] = ()
        self._wake = asyncio.Event()
        self._generation = 0
        self._observed = asyncio.Condition()
        self.observed_generation = 0

    def __repr__(self) -> str:
        return f"<Mesh {self.own.name} links={len(self._supervisor.actual)} tools={len(self.routes.tools)}>"

    # What others read

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What selection had to say: names given anew, instances left out."""
        return self._selection.findings

    @property
    def suppressions(self) -> tuple[Suppression, ...]:
        """Discovered peers that an operator removed."""
        return self._store.suppressions

    def views(self) -> tuple[LinkView, ...]:
        """Every link as it stands."""
        return self._supervisor.views()

    def peer_views(self) -> list[LinkView]:
        """Every peer's link, by name."""
        peers = [view for view in self.views() if isinstance(view.spec, PeerSpec)]
        return sorted(peers, key=lambda view: view.spec.name)

    def view_of(self, name: str) -> LinkView:
        """The link of a server or peer, found by its name or one of its aliases. Raises `MeshError`."""
        for view in self.views():
            aliases = view.spec.aliases if isinstance(view.spec, PeerSpec) else ()
            if view.spec.name == name or name in aliases:
                return view
        known = ", ".join(sorted(view.spec.name for view in self.views())) or "none"
        raise MeshError(f"There is no MCP server or peer named {name!r}. Known: {known}.")

    # What changes the picture

    def wake(self) -> int:
        """Ask for a step; returns the generation that it will have observed."""
        self._generation += 1
        self._wake.set()
        return self._generation

    def take_catalog(self, catalog: Catalog) -> None:
        """A new snapshot from discovery."""
        self.catalog = catalog
        self.wake()

    def take_servers(self, servers: Sequence[ServerSpec]) -> None:
        """A new configuration of local servers."""
        self.servers = tuple(servers)
        self.wake()

    async def put_override(self, override: Override) -> bool:
        """Keep an operator's word about a peer, durably. Returns whether it is a new one.

        Raises `OverrideRefused` (409) when the name belongs to a server, to our own node, or to another URL.
        """
        self._refuse_taken_name(override)
        created = all(known.name != override.name for known in self._store.overrides)
        try:
            await self._store.put(override)
        finally:
            generation = self.wake()
        await self._observe(generation)
        link = self._supervisor.link(f"peer:{override.name}")
        if not created and link is not None and not link.view.connected:
            link.reload()
        return created

    async def withdraw_override(self, name: str) -> None:
        """Take back an override that turned out to be impossible."""
        await self._store.remove(name)
        await self._observe(self.wake())

    async def remove_peer(self, name: str) -> None:
        """Remove an override, and suppress the peer when discovery names it too.

        Raises `OverrideRefused`: 404 unknown, 409 for a static peer.
        """
        view = next((v for v in self.peer_views() if name in (v.spec.name, *_aliases(v.spec))), None)
        override = next((known for known in self._store.overrides if known.name == name), None)
        if override is None and view is None:
            raise OverrideRefused(404, "unknown_peer", f"There is no peer named {name!r}.")
        if override is None and view is not None and any(static.name == view.spec.name for static in self._statics):
            raise OverrideRefused(409, "static_peer", f"Peer {name!r} comes from MESH_PEERS; remove it there.")
        try:
            for suppression in self._selection.discovered.get(name if view is None else view.spec.name, ()):
                await self._store.suppress(suppression)
            if override is not None:
                await self._store.remove(name)
        finally:
            generation = self.wake()
        await self._observe(generation)

    async def first_attempt(self, name: str, timeout_s: float) -> LinkView | None:
        """Wait for the first outcome of a peer's present link, at most `timeout_s`; None when it has no link."""
        link = self._supervisor.link(f"peer:{name}")
        if link is None:
            return next((v for v in self.peer_views() if name in _aliases(v.spec)), None)
        await _within(link.first_attempt, timeout_s)
        return link.view

    async def reload(self, name: str, timeout_s: float) -> None:
        """Dial a server or peer anew and wait for the outcome, at most `timeout_s`."""
        await self._observe(self.wake())
        link = self._supervisor.link(self.view_of(name).key)
        assert link is not None
        await _within(link.reload(), timeout_s)
        await self._observe(self.wake())

    # The loop

    async def run(self) -> None:
        """Step whenever woken, and every `RESYNC_EVERY_S` without."""
        while True:
            try:
                async with asyncio.timeout(RESYNC_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            generation = self._generation
            try:
                self._step()
            except Exception:  # The top of an eternal loop: a bug in one step must not end the node.
                log.exception("a mesh step failed; the next change or resync tries again")
            async with self._observed:
                self.observed_generation = generation
                self._observed.notify_all()

    def _step(self) -> None:
        views = self.views()
        self._learn(views)
        self._selection = select(
            self.catalog,
            self.own,
            overrides=self._store.overrides,
            suppressions=self._store.suppressions,
            statics=self._statics,
            server_names=frozenset(server.name for server in self.servers),
            learned=self._learned,
            connected=frozenset(v.key for v in views if v.connected),
            previous=self._selection.peers,
            peer_token=self._peer_token(),
        )
        wanted: list[BackendSpec] = [server for server in self.servers if server.enabled]
        desired = {spec.key: spec for spec in [*wanted, *self._selection.peers]}
        actual = self._supervisor.actual
        self._supervisor.apply(reconcile(desired, actual))
        for key in actual.keys() - desired.keys():
            self._hooks.backend_gone(key)
        self._rebuild_routes()

    def _learn(self, views: Sequence[LinkView]) -> None:
        """Remember which node answered at which URL, so that one node named twice gets one link."""
        for view in views:
            if isinstance(view.spec, PeerSpec) and view.identity is not None:
                self._learned[view.spec.target.url] = view.identity.node_id
        if len(self._learned) > LEARNED_MAX:
            present = {view.spec.target.url for view in views if isinstance(view.spec, PeerSpec)}
            self._learned = {url: node_id for url, node_id in self._learned.items() if url in present}

    def _rebuild_routes(self) -> None:
        contributions = tuple(
            contribution_of(view, self.own) for view in sorted(self.views(), key=lambda v: v.key) if view.connected
        )
        if contributions == self._contributions:
            return
        self._contributions = contributions
        before, before_local = self.routes, self.local_routes
        self.routes = build_routes(contributions, self.own, before)
        self.local_routes = build_routes(local_contributions(contributions), self.own, before_local)
        self._hooks.mesh_changed(changed_kinds(before, self.routes))
        local = changed_kinds(before_local, self.local_routes)
        self._hooks.local_changed(local)
        if local:
            self._hooks.offer_changed(table_digest(self.local_routes))
        for conflict in set(self.routes.conflicts) - set(before.conflicts):
            log.warning(
                "name conflict",
                extra={"public_name": conflict.name, "holder": conflict.holder, "reason": conflict.reason},
            )

    async def _observe(self, generation: int) -> None:
        async with self._observed:
            await self._observed.wait_for(lambda: self.observed_generation >= generation)

    def _refuse_taken_name(self, override: Override) -> None:
        name, url = override.name, override.target.url
        if name == self.own.name:
            raise OverrideRefused(409, "own_node", f"peer_name: {name!r} is this node's own name.")
        if any(server.name == name for server in self.servers):
            raise OverrideRefused(409, "name_taken", f"peer_name: {name!r} is an MCP server of this node.")
        taken = {static.name: static.url for static in self._statics}
        taken |= {known.name: known.target.url for known in self._store.overrides}
        if taken.get(name, url) != url:
            raise OverrideRefused(
                409, "name_taken", f"peer_name: {name!r} is already {taken[name]}; remove that or choose another name."
            )


def contribution_of(view: LinkView, own: NodeIdentity) -> Contribution:
    """What a connected link brings to the route tables."""
    if isinstance(view.spec, ServerSpec):
        return Contribution(view.key, ContributionKind.SERVER, view.spec.name, own, view.spec.scope, view.offer)
    kind = ContributionKind.PLAIN_PEER if view.identity is None else ContributionKind.MESH_PEER
    return Contribution(view.key, kind, view.spec.name, view.identity, None, view.offer, view.spec.scope)


def table_digest(table: RouteTable) -> str:
    """A digest of all that a table lists; equal digests spare other nodes a listing."""
    listed = (table.listed_tools(), table.listed_prompts(), table.listed_resources(), table.listed_templates())
    return offer_digest(*([route.definition for route in routes] for routes in listed))


def _aliases(spec: BackendSpec) -> tuple[str, ...]:
    return spec.aliases if isinstance(spec, PeerSpec) else ()


async def _within(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
