"""Who wants to be told of which resources, and the backends that can tell: public URIs in front, theirs behind.

Subscribers belong to the MCP endpoints; links ask what is wanted of their backend and tell what happens. Each wish is
resolved by the route table of its endpoint, again whenever that changes, and every replica is followed. The one rule:
once a subscriber has been told that it is subscribed, whatever may have been missed is told to it as one update.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from agent.errors import RpcError
from agent.links.following import URI_BYTES_PER_STREAM_MAX, URIS_PER_STREAM_MAX, chunks
from agent.model import BackendSpec, PeerScope, PeerSpec
from agent.resource_wishes import INVALID_PARAMS, URI_LEN_MAX, Tables, Way, Wish, WishKey, with_parents

log = logging.getLogger(__name__)

# A bound on memory and on fan-out. A client may have what fits into one stream of a link: who watches more looks at
# the wrong end.
SUBSCRIPTIONS_MAX: Final = 10_000
# A backend that has not agreed by then is told of later: the subscriber gets an update when it has.
SETTLE_TIMEOUT_S: Final = 3.0

INTERNAL_ERROR: Final = -32603

Tell = Callable[[str], None]


class WatchingLink(Protocol):
    """What is needed of a link."""

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        ...

    def look_at_wishes(self) -> None:
        """What is wanted of its backend has changed."""
        ...


class UpdatesRecorder(Protocol):
    """Who counts; the metrics do."""

    def subscribed(self, count: int) -> None:
        """So many subscriptions there are now."""
        ...

    def resource_updated(self) -> None:
        """A subscriber was told of an update."""
        ...


class Subscriber:
    """One client, or one stream of one. `tell` gets public URIs, must not block, and may be called at any time."""

    def __init__(self, updates: "ResourceUpdates", tables: Tables, tell: Tell, *, across_gateways: bool) -> None:
        self.tell = tell
        self._updates = updates
        self._place = (tables, across_gateways)
        self._wishes: dict[str, Wish] = {}

    def __repr__(self) -> str:
        return f"<Subscriber {len(self._wishes)} URIs>"

    @property
    def uris(self) -> frozenset[str]:
        """What it is subscribed to."""
        return frozenset(self._wishes)

    async def add(self, uris: Iterable[str]) -> dict[str, RpcError]:
        """Subscribe to public URIs; returns those that are refused, and why. Waits 3 s for the backends' word.

        Raises:
            RpcError: it would be too many, for this subscriber or for the node; nothing has changed then.
        """
        wanted = dict.fromkeys(uris)
        new = [uri for uri in wanted if uri not in self._wishes]
        self._updates.check_room([*self._wishes, *new], len(new))
        refusals = {
            uri: RpcError(INVALID_PARAMS, f"uri: longer than {URI_LEN_MAX} characters")
            for uri in new
            if len(uri) > URI_LEN_MAX
        }
        for uri in new:
            if uri not in refusals:
                self._wishes[uri] = self._updates.wish((*self._place, uri), self)
        self._updates.tell_links()
        wishes = {uri: self._wishes[uri] for uri in wanted if uri in self._wishes}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    for wish in wishes.values():
                        await wish.settled.wait()
        except asyncio.CancelledError:
            self.remove(new)
            raise
        for uri, wish in wishes.items():
            if (refusal := wish.refusal()) is not None:
                refusals[uri] = refusal
            else:
                wish.granted = True
        self.remove(uri for uri in refusals if uri in self._wishes)
        return refusals

    def remove(self, uris: Iterable[str]) -> None:
        """Unsubscribe; what it is not subscribed to is no matter."""
        for uri in tuple(uris):
            if (wish := self._wishes.pop(uri, None)) is not None:
                self._updates.drop(wish, self)
        self._updates.tell_links()

    def close(self) -> None:
        """Unsubscribe from everything."""
        self.remove(self._wishes)


class ResourceUpdates:
    """All wishes of a node; the `Watch` of its links. Sole writer: the event loop, through the methods."""

    def __init__(self, link: Callable[[str], WatchingLink | None], recorder: UpdatesRecorder) -> None:
        self._link = link
        self._recorder = recorder
        self._wishes: dict[WishKey, Wish] = {}
        self._ways: dict[str, dict[str, Way]] = {}
        self._changed: set[str] = set()
        self.subscriptions = 0

    def __repr__(self) -> str:
        return f"<ResourceUpdates {self.subscriptions} subscriptions to {len(self._wishes)} URIs>"

    def subscriber(self, tables: Tables, tell: Tell, *, across_gateways: bool = True) -> Subscriber:
        """Somebody who may subscribe to what `tables` lists.

        `across_gateways`: False for another node that asks us as a gateway; two gateways that tell each other would
        never come to an end.
        """
        return Subscriber(self, tables, tell, across_gateways=across_gateways)

    def routes_changed(self) -> None:
        """The route tables are others: find out anew who can tell."""
        for wish in self._wishes.values():
            self._resolve(wish)
        self.tell_links()

    # What links ask and tell (`agent.links.following.Watch`)

    def wanted(self, backend_key: str) -> frozenset[str]:
        """The URIs that this backend is to tell of."""
        ways = self._ways.get(backend_key, {})
        return frozenset(uri for uri, way in ways.items() if way.refusal is None)

    def settled(self, backend_key: str, uri: str, refusal: RpcError | None) -> None:
        """A backend follows a URI from now on, or refuses to."""
        way = self._ways.get(backend_key, {}).get(uri)
        if way is None:
            return
        way.agreed, way.refusal = refusal is None, refusal
        for wish in tuple(way.wishes):
            if way.agreed and wish.granted:
                self._tell(wish, wish.uri)
            elif refusal is not None and wish.granted:
                log.warning("MCP resource updates refused", extra={"backend": backend_key, "reason": refusal.message})
            wish.look()

    def updated(self, backend_key: str, uri: str) -> None:
        """A backend says that a resource has changed; one whose URI is too long counts as what it is below."""
        ways = self._ways.get(backend_key, {})
        for followed in with_parents(uri):
            if (way := ways.get(followed)) is not None:
                # What is told waits for clients that do not read: it has to be bounded in number and length.
                below = uri[len(followed) :] if len(uri) <= URI_LEN_MAX else ""
                for wish in tuple(way.wishes):
                    self._tell(wish, wish.uri + below)

    # What subscribers do

    def check_room(self, own: list[str], more: int) -> None:
        """Raises `RpcError` when a subscriber to `own`, the last `more` of them new, would be too much."""
        if len(chunks(own)) > 1:
            text = f"{URIS_PER_STREAM_MAX} resources, or {URI_BYTES_PER_STREAM_MAX} bytes of their URIs, a client"
            raise RpcError(INTERNAL_ERROR, f"Subscription limit reached: {text}")
        if self.subscriptions + more > SUBSCRIPTIONS_MAX:
            raise RpcError(INTERNAL_ERROR, f"Subscription limit reached: {SUBSCRIPTIONS_MAX} resources on this node")

    def wish(self, key: WishKey, subscriber: Subscriber) -> Wish:
        """The wish of `key`, shared by all who have it. What refused before is asked again."""
        wish = self._wishes.get(key)
        if wish is None:
            wish = self._wishes[key] = Wish(key)
            self._resolve(wish)
        for way in wish.ways:
            if way.refusal is not None:
                way.refusal = None
                self._changed.add(way.backend_key)
        wish.look()
        wish.subscribers[subscriber] = None
        self.subscriptions += 1
        self._recorder.subscribed(self.subscriptions)
        return wish

    def drop(self, wish: Wish, subscriber: Subscriber) -> None:
        """A subscriber wants it no longer."""
        del wish.subscribers[subscriber]
        self.subscriptions -= 1
        self._recorder.subscribed(self.subscriptions)
        if not wish.subscribers:
            del self._wishes[wish.key]
            for way in tuple(wish.ways):
                self._part(wish, way)

    def tell_links(self) -> None:
        """Let the links look at what has changed."""
        changed, self._changed = self._changed, set()
        for backend_key in changed:
            link = self._link(backend_key)
            if link is not None:
                link.look_at_wishes()

    # Inside

    def _resolve(self, wish: Wish) -> None:
        route = wish.tables().resolve_uri(wish.uri)
        replicas = route.replicas if route is not None else ()
        wanted = {
            (replica.backend_key, replica.remote_name)
            for replica in replicas
            if wish.across_gateways or not self._is_gateway(replica.backend_key)
        }
        for way in tuple(wish.ways):
            if (way.backend_key, way.uri) not in wanted:
                self._part(wish, way)
        for backend_key, uri in wanted:
            self._join(wish, self._ways.setdefault(backend_key, {}).setdefault(uri, Way(backend_key, uri)))
        wish.look()

    def _join(self, wish: Wish, way: Way) -> None:
        if way in wish.ways:
            return
        wish.ways[way] = way.wishes[wish] = None
        self._changed.add(way.backend_key)
        if way.agreed and wish.granted:
            self._tell(wish, wish.uri)

    def _part(self, wish: Wish, way: Way) -> None:
        del wish.ways[way], way.wishes[wish]
        if not way.wishes:
            of_backend = self._ways[way.backend_key]
            del of_backend[way.uri]
            if not of_backend:
                del self._ways[way.backend_key]
            self._changed.add(way.backend_key)

    def _is_gateway(self, backend_key: str) -> bool:
        link = self._link(backend_key)
        return link is not None and isinstance(link.spec, PeerSpec) and link.spec.scope is PeerScope.MESH

    def _tell(self, wish: Wish, uri: str) -> None:
        for subscriber in tuple(wish.subscribers):
            subscriber.tell(uri)
            self._recorder.resource_updated()
