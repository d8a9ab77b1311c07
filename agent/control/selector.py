"""Selects again what a change concerns of the peers, and remembers which node answered where.

Used by the mesh once a step. A peer that fails again and again changes nothing that selecting reads, so a thousand that
stay dead cost no selection, and a link that comes up or goes down costs that of its own group (`agent.control.groups`).
The one rule: what is shown is always the outcome of `select` on what is there now.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from agent.config.values import StaticPeer
from agent.control.candidates import CatalogReader, Finding, Selection, own_entries, url_key, url_of, with_learned
from agent.control.groups import Changes, Entry, Groups, Plan, Surroundings
from agent.control.maintenance import LostMaintenance
from agent.control.selection import hiding, not_kept_away, of_entries
from agent.errors import DialledOurselves
from agent.model import LinkView, NodeIdentity, Override, PeerSpec, Suppression
from agent.peer_kind import PeerKind
from agent.state.overrides import OverrideStore
from agent.turns import in_parts
from discovery.model import Catalog, Instance

# URLs of nodes that moved away are forgotten when there are more than this.
LEARNED_MAX: Final = 10_000
# Reading and selecting takes 10 ms for each thousand instances: beyond this a thread does it.
LARGE_CATALOG: Final = 500


class Selector:
    """See the module. Sole writer: the mesh."""

    def __init__(self, own: NodeIdentity, store: OverrideStore) -> None:
        self._own, self._store = own, store
        self._reader = CatalogReader()
        self._groups, self._lost_maintenance = Groups(own), LostMaintenance()
        self._learned: dict[str, str] = {}
        self._forgotten: set[str] = set()
        self._seen: dict[str, LinkView] = {}  # Links to peers, by backend key.
        self._connected: set[str] = set()
        self._read: tuple[Catalog | None, Sequence[Override], Sequence[Suppression], Sequence[StaticPeer]]
        self._read = None, (), (), ()
        self._entries: Sequence[Entry] = ()
        self._findings: tuple[Finding, ...] = ()
        self._server_names: frozenset[str] = frozenset()
        self._keys: dict[str, str] = {}
        self._failed = False  # The last time, so what had changed then is lost.
        self._selection: Selection | None = Selection()

    def __repr__(self) -> str:
        return f"<Selector {self._groups!r} learned={len(self._learned)}>"

    @property
    def selection(self) -> Selection:
        """The last outcome, put together for the asking."""
        if self._selection is None:
            self._selection = self._groups.chosen(self._findings)
        return self._selection

    @property
    def wants_all(self) -> bool:
        """Whether `select` has to be called with the views of all links."""
        return bool(self._forgotten)

    async def select(
        self,
        catalog: Catalog,
        server_names: Collection[str],
        views: Sequence[LinkView],
        statics: Sequence[StaticPeer] = (),
        *,
        gone: Collection[str] | None = None,
    ) -> Changes:
        """Select again what has changed since the last time; returns the peers that are other ones now, by name.

        `views`: of all links; with `gone`, of those that have changed, and the backend keys of those that there are no
        more.
        """
        everything, self._failed = self._failed, True
        touched = await self._learn(views, gone)
        names = frozenset(server_names)
        everything |= names != self._server_names
        around = Surroundings(names, self._server_names - names, self._learned, self._connected)
        read = catalog, self._store.overrides, self._store.suppressions, statics
        known = self._read[0] is catalog and self._read[1:] == read[1:]

        def planned() -> tuple[Sequence[Entry], Plan]:
            entries = self._entries if self._read[0] is catalog else self._reader.read(catalog, self._own.node_id)
            things = None if known else [*entries, *read[1], *read[2], *read[3]]
            return entries, self._groups.plan(around, touched, things, everything=everything)

        much = everything or not known or self._groups.unsettled_count + len(touched) > LARGE_CATALOG
        is_large = len(catalog.instances) > LARGE_CATALOG and much
        entries, plan = await asyncio.to_thread(planned) if is_large else planned()
        if self._read[0] is not catalog:
            findings = self._findings
            self._findings = (*own_entries(catalog, self._own), *self._lost_maintenance.of(catalog))
            if findings != self._findings:
                self._selection = None
        self._read, self._entries, self._server_names = read, entries, names
        if plan.made or plan.gone:
            self._selection = None
        self._note_keys(plan)
        self._failed = False
        return self._groups.take(plan)

    def key_of(self, node_id: str) -> str:
        """The backend key of the peer that is this node; empty where there is none."""
        return self._keys.get(node_id, "")

    def node_at(self, url: str) -> str | None:
        """The node that answered at `url` last, None where none has."""
        return self._learned.get(url)

    def hiding(self, word: str) -> tuple[Suppression, ...]:
        """What would keep the catalog's entries of that name or service ID away, linked or not, where nothing does."""
        entries = not_kept_away(self._entries, self._store.suppressions, word)
        return tuple(hiding(entry, entry.name, self._learned) for entry in entries)

    def keeping_away(self, word: str) -> Collection[Suppression]:
        """The orders that keep away what is called so, also where its node has another name by now."""
        entries = (with_learned(entry, self._learned) for entry in self._entries)
        return of_entries(self._store.suppressions, entries, word)

    def key_at(self, instance: Instance) -> str:
        """The backend key of the peer that this instance of a catalog is; empty where there is none."""
        if node_id := instance.meta.get("node_id"):
            return self.key_of(node_id)
        place = url_key(url_of(instance))
        return next((spec.key for spec in self._groups.peers_of(place) if url_key(spec.target.url) == place), "")

    def forget_who_answered(self, url: str) -> None:
        """Forget which node answered at `url`: an operator has just added it, so it is dialled anew."""
        self._forgotten.add(url)

    def _note_keys(self, plan: Plan) -> None:
        """Keep which peer is which node."""
        for group in plan.gone:
            for node_id, _ in group.nodes:
                self._keys.pop(node_id, None)
        for group in plan.made:
            self._keys.update(group.nodes)

    async def _learn(self, views: Sequence[LinkView], gone: Collection[str] | None) -> set[str]:
        """Remember what is up, and which node answered at which URL, so that one node named twice gets one link.

        Returns the words of all that is otherwise than before.
        """
        forgotten, self._forgotten = self._forgotten, set()  # What comes meanwhile is for the next time.
        touched = self._forget({url for url in forgotten if url in self._learned})
        peers = [(view, view.spec) for view in views if isinstance(view.spec, PeerSpec)]
        if gone is None:
            gone = self._seen.keys() - {view.key for view, _ in peers}
        for key in gone:
            if self._seen.pop(key, None) is not None and key in self._connected:
                self._connected.discard(key)
                touched.add(key.partition(":")[2])
        async for part in in_parts(peers):
            for view, spec in part:
                if self._seen.get(spec.key) is view and not forgotten:
                    continue
                self._seen[spec.key] = view
                if view.connected != (spec.key in self._connected):
                    self._connected ^= {spec.key}
                    touched.add(spec.name)
                touched |= self._learned_of(view, spec)
        if len(self._learned) > LEARNED_MAX:
            present = {view.spec.target.url for view in self._seen.values() if isinstance(view.spec, PeerSpec)}
            touched |= self._forget(self._learned.keys() - present)
        return touched

    def _forget(self, urls: Collection[str]) -> set[str]:
        return {word for url in urls for word in (url_key(url), self._learned.pop(url))}

    def _learned_of(self, view: LinkView, spec: PeerSpec) -> set[str]:
        """Take who answered at the URL of a link; the words that this concerns, none for no news."""
        if spec.kind is PeerKind.SERVER:
            return set()
        url, known = spec.target.url, self._learned.get(spec.target.url)
        # A plain server that is up has taken the place of a node.
        learned = None if view.connected else known
        if view.failure == DialledOurselves.__name__:
            learned = self._own.node_id
        elif view.identity is not None:
            learned = view.identity.node_id
        if learned == known:
            return set()
        if learned is None:
            del self._learned[url]
        else:
            self._learned[url] = learned
        return {url_key(url), *({learned, known} - {None})}  # type: ignore[arg-type]  # None is taken out
