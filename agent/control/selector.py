"""Selects the peers again when something that selecting reads has changed, and remembers which node answered where.

Used by the mesh once a step. A peer that fails again and again changes nothing of it, so a thousand that stay dead cost
no selection. The one rule: what is shown is always the outcome of `select` on what is there now.
"""

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from agent.config.values import StaticPeer
from agent.control.candidates import CatalogReader, Selection, url_key, url_of
from agent.control.selection import select
from agent.errors import DialledOurselves
from agent.model import LinkView, NodeIdentity, PeerSpec
from agent.peer_kind import PeerKind
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Instance

# URLs of nodes that moved away are forgotten when there are more than this.
LEARNED_MAX: Final = 10_000
# Selecting takes 10 ms for each thousand instances: beyond this a thread does it.
LARGE_CATALOG: Final = 500


class Selector:
    """See the module. Sole writer: the mesh. `selection`: the last outcome."""

    def __init__(self, own: NodeIdentity, store: OverrideStore) -> None:
        self._own, self._store = own, store
        self._reader = CatalogReader()
        self._learned: dict[str, str] = {}
        self._seen: dict[int, LinkView] = {}
        self._learned_changes = 0
        self._read: tuple[object, ...] = ()
        self._server_names: frozenset[str] = frozenset()
        self._keys: dict[str, str] = {}
        self.selection = Selection()

    def __repr__(self) -> str:
        return f"<Selector peers={len(self.selection.peers)} learned={len(self._learned)}>"

    async def select(
        self,
        catalog: Catalog,
        server_names: Collection[str],
        views: Sequence[LinkView],
        statics: Sequence[StaticPeer] = (),
    ) -> Selection:
        """Select anew, unless nothing that selecting reads has changed since it came to its end."""
        self._learn(views)
        names, up = frozenset(server_names), frozenset(view.key for view in views if view.connected)
        overrides, suppressions = self._store.overrides, self._store.suppressions
        read = (catalog, overrides, suppressions, statics, self._learned_changes, names, up)
        if read == self._read:
            return self.selection
        before = self.selection.peers
        selecting = partial(
            select,
            catalog,
            self._own,
            overrides=overrides,
            suppressions=suppressions,
            statics=statics,
            server_names=names,
            learned=dict(self._learned),
            connected=up,
            previous=before,
            freed=self._server_names - names,
            reader=self._reader,
        )
        is_large = len(catalog.instances) > LARGE_CATALOG
        self.selection = await asyncio.to_thread(selecting) if is_large else selecting()
        nodes = ((spec, spec.expected_node_id or self._learned.get(spec.target.url)) for spec in self.selection.peers)
        self._keys = {node_id: spec.key for spec, node_id in nodes if node_id is not None}
        self._server_names = names
        # It reads its own last outcome, too: it has come to its end when that is the same again.
        self._read = read if self.selection.peers == before else ()
        return self.selection

    def key_of(self, node_id: str) -> str:
        """The backend key of the peer that is this node; empty where there is none."""
        return self._keys.get(node_id, "")

    def node_at(self, url: str) -> str | None:
        """The node that answered at `url` last, None where none has."""
        return self._learned.get(url)

    def key_at(self, instance: Instance) -> str:
        """The backend key of the peer that this instance of a catalog is; empty where there is none."""
        if node_id := instance.meta.get("node_id"):
            return self.key_of(node_id)
        place = url_key(url_of(instance))
        return next((spec.key for spec in self.selection.peers if url_key(spec.target.url) == place), "")

    def forget_who_answered(self, url: str) -> None:
        """Forget which node answered at `url`: an operator has just added it, so it is dialled anew."""
        self._learned_changes += self._learned.pop(url, None) is not None
        self._seen = {}

    def _learn(self, views: Sequence[LinkView]) -> None:
        """Remember which node answered at which URL, so that one node named twice gets one link."""
        seen, self._seen = self._seen, {}
        for view in views:
            if not isinstance(view.spec, PeerSpec) or view.spec.kind is PeerKind.SERVER:
                continue
            self._seen[id(view)] = view
            if id(view) in seen:  # And held there, so that no other one can have its place.
                continue
            url, known = view.spec.target.url, self._learned.get(view.spec.target.url)
            # A plain server that is up has taken the place of a node.
            learned = None if view.connected else known
            if view.failure == DialledOurselves.__name__:
                learned = self._own.node_id
            elif view.identity is not None:
                learned = view.identity.node_id
            if learned != known:
                self._learned_changes += 1
                self._learned |= {url: learned} if learned is not None else {}
                if learned is None:
                    del self._learned[url]
        if len(self._learned) > LEARNED_MAX:
            present = {view.spec.target.url for view in views if isinstance(view.spec, PeerSpec)}
            self._learned = {url: node_id for url, node_id in self._learned.items() if url in present}
            self._learned_changes += 1
