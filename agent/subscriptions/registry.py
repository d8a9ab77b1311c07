"""Subscriptions of clients under public names, and the upstreams that send their updates under the backends' names.

Subscribers belong to the MCP endpoints; links read which names of their backend are wanted and pass on what it sends.
Each subscription is resolved by the route table of its endpoint, again whenever that changes, and every replica is
followed. Subclasses are for resources and for tasks. The one rule: once a subscription was granted, its subscriber gets
every update, and one more wherever one may have been missed.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from agent.client.streams import Subject
from agent.errors import RpcError
from agent.links.follower import NAME_BYTES_PER_STREAM_MAX, NAMES_PER_STREAM_MAX, chunks
from agent.model import BackendSpec, PeerScope, PeerSpec
from agent.routing.table import Route, RouteTable
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS

log = logging.getLogger(__name__)

Tables: TypeAlias = Callable[[], RouteTable]
# The endpoint's table that resolves it, whether gateways count, and the public name.
SubscriptionKey: TypeAlias = tuple[Tables, bool, str]
# What subscribers get.
News = TypeVar("News")

# A bound on memory and on fan-out. One client may have as many as fit into one stream of a link; more than that is no
# honest use.
SUBSCRIPTIONS_MAX: Final = 10_000
# A backend that has not acknowledged by then does so later: the subscriber gets one update then.
SETTLE_TIMEOUT_S: Final = 3.0

# Delivers news to a subscriber; must not block, and may be called at any time.
Tell: TypeAlias = Callable[[News], None]


class Upstream(Generic[News]):
    """One name of one backend, behind one or more subscriptions.

    `agreed`: the backend sends updates of it; `refusal`: it does not; `over`: no more updates can come. `owed`: an
    update may have been missed, and the present state has to be read.
    """

    def __init__(self, backend_key: str, name: str) -> None:
        self.backend_key = backend_key
        self.name = name
        self.agreed = False
        self.over = False
        self.owed = False
        self.refusal: RpcError | None = None
        self.subscriptions: dict[Subscription[News], None] = {}

    def __repr__(self) -> str:
        return f"<Upstream {self.backend_key} {'agreed' if self.agreed else 'refused' if self.refusal else 'asked'}>"


class Subscription(Generic[News]):
    """A public name that clients of one endpoint follow.

    `settled`: every backend behind it has agreed or refused. `granted`: a client got the answer that it is subscribed.
    """

    def __init__(self, key: SubscriptionKey) -> None:
        self.key = key
        self.tables, self.across_gateways, self.name = key
        self.subscribers: dict[Subscriber[News], None] = {}
        self.upstreams: dict[Upstream[News], None] = {}
        self.settled = asyncio.Event()
        self.granted = False

    def __repr__(self) -> str:
        return f"<Subscription {list(self.upstreams)} of {len(self.subscribers)}>"

    def update_settled(self) -> None:
        """An upstream has changed: wake the waiters when every backend has answered."""
        if all(upstream.agreed or upstream.refusal is not None for upstream in self.upstreams):
            self.settled.set()
        else:
            self.settled.clear()

    def refusal(self, without_backend: RpcError) -> RpcError | None:
        """Why no updates will come: there is no backend (`without_backend`), or all have refused; the first error."""
        if not self.upstreams:
            return without_backend
        refusals = [upstream.refusal for upstream in self.upstreams if upstream.refusal is not None]
        return refusals[0] if len(refusals) == len(self.upstreams) else None


class WatchingLink(Protocol):
    """What the registry needs of a link."""

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        ...

    def look_at_subscriptions(self) -> None:
        """The names that are wanted of its backend have changed."""
        ...


@dataclass(frozen=True, slots=True)
class Counts:
    """The metrics. `followed` takes the present number of subscriptions; `delivered` counts news for one subscriber."""

    followed: Callable[[int], None]
    delivered: Callable[[], None]


class Subscriber(Generic[News]):
    """One client, or one stream of one. `tell` gets news under public names.

    `client`: the affinity of a client with a session. `is_node`: another node, which knows its clients itself.
    """

    def __init__(
        self,
        registry: "SubscriptionRegistry[News]",
        tables: Tables,
        tell: Tell[News],
        *,
        across_gateways: bool,
        client: str | None,
        is_node: bool,
    ) -> None:
        self.tell = tell
        self._client, self._is_node = client, is_node
        self._in_own_sessions: set[tuple[str, str]] = set()  # Names and the backends that tell of them there.
        self._registry = registry
        self._place = (tables, across_gateways)
        self._subscriptions: dict[str, Subscription[News]] = {}

    def __repr__(self) -> str:
        return f"<Subscriber {len(self._subscriptions)} subscriptions>"

    @property
    def names(self) -> frozenset[str]:
        """What it is subscribed to."""
        return frozenset(self._subscriptions)

    def told_in_own_session(self, name: str, backend_key: str) -> None:
        """The backend tells of this name in a session of this client's own, so news for all would come twice."""
        if name in self._subscriptions:
            self._in_own_sessions.add((name, backend_key))

    def own_session_ended(self, backend_key: str) -> None:
        """The client's session there has ended: news for all is for this client again."""
        self._in_own_sessions = {known for known in self._in_own_sessions if known[1] != backend_key}

    def hears(self, name: str, backend_key: str, client: str | None) -> bool:
        """Whether news is for this subscriber. `client`: the one in whose session the backend told it; None: all."""
        if client is not None:
            return self._is_node or client == self._client
        return (name, backend_key) not in self._in_own_sessions

    async def add(self, names: Iterable[str]) -> dict[str, RpcError]:
        """Subscribe to public names; returns those that are refused, and why. Waits 3 s for the backends.

        Raises:
            RpcError: it would be too many, for this subscriber or for the node; nothing has changed then.
        """
        registry = self._registry
        wanted = dict.fromkeys(names)
        new = [name for name in wanted if name not in self._subscriptions]
        registry.check_room([*self._subscriptions, *new], len(new))
        refusals: dict[str, RpcError] = {}
        for name in new:
            if len(name) > registry.name_len_max:
                text = f"{registry.subject.parameter}: longer than {registry.name_len_max} characters"
                refusals[name] = RpcError(INVALID_PARAMS, text)
            else:
                self._subscriptions[name] = registry.subscription((*self._place, name), self)
        registry.notify_links()
        subscriptions = {name: self._subscriptions[name] for name in wanted if name in self._subscriptions}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    for subscription in subscriptions.values():
                        await subscription.settled.wait()
        except asyncio.CancelledError:
            self.remove(new)
            raise
        for name, subscription in subscriptions.items():
            if (refusal := subscription.refusal(registry.refusal_without_backend(name))) is not None:
                refusals[name] = refusal
            else:
                subscription.granted = True
        self.remove(name for name in refusals if name in self._subscriptions)
        return refusals

    def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe; names without a subscription are ignored."""
        gone = frozenset(names)
        self._in_own_sessions = {known for known in self._in_own_sessions if known[0] not in gone}
        for name in gone:
            if (subscription := self._subscriptions.pop(name, None)) is not None:
                self._registry.drop(subscription, self)
        self._registry.notify_links()

    def close(self) -> None:
        """Unsubscribe from everything."""
        self.remove(self._subscriptions)


class SubscriptionRegistry(ABC, Generic[News]):
    """All subscriptions of one subject on a node; the `Watch` of its links. Sole writer: the event loop.

    `subject`: resources or tasks, in the protocol's terms. `name_len_max`: of a public name, in characters.
    """

    subject: Subject
    name_len_max: int

    def __init__(self, link: Callable[[str], WatchingLink | None], counts: Counts) -> None:
        self._link = link
        self._counts = counts
        self._subscriptions: dict[SubscriptionKey, Subscription[News]] = {}
        self._upstreams: dict[str, dict[str, Upstream[News]]] = {}
        self._changed: set[str] = set()
        self.count = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.count} subscriptions to {len(self._subscriptions)} names>"

    def subscriber(
        self,
        tables: Tables,
        tell: Tell[News],
        *,
        across_gateways: bool = True,
        client: str | None = None,
        is_node: bool = False,
    ) -> Subscriber[News]:
        """A new subscriber to names of `tables`. `client` and `is_node`: see `Subscriber`.

        `across_gateways`: False for another node that uses us as a gateway; two gateways that follow each other would
        send updates in a circle.
        """
        return Subscriber(self, tables, tell, across_gateways=across_gateways, client=client, is_node=is_node)

    def routes_changed(self) -> None:
        """New route tables: resolve every subscription again."""
        for subscription in self._subscriptions.values():
            self._resolve(subscription)
        self.notify_links()

    # What a subject decides

    @abstractmethod
    def route(self, tables: Tables, name: str) -> Route | None:
        """The route of a public name; None when there is none."""

    @abstractmethod
    def refusal_without_backend(self, name: str) -> RpcError:
        """The error for a subscription without a backend."""

    @abstractmethod
    def may_have_missed(self, subscription: Subscription[News], upstream: Upstream[News]) -> None:
        """A granted subscription has a new upstream: make up for the updates before it."""

    # What links call (`agent.links.follower.Watch`)

    def wanted(self, backend_key: str) -> frozenset[str]:
        """The backend's own names that it shall send updates of."""
        upstreams = self._upstreams.get(backend_key, {})
        return frozenset(name for name, upstream in upstreams.items() if upstream.refusal is None and not upstream.over)

    def owed(self, backend_key: str) -> frozenset[str]:
        """The backend's own names whose present state has to be read."""
        upstreams = self._upstreams.get(backend_key, {})
        return frozenset(name for name, upstream in upstreams.items() if upstream.owed)

    def settled(self, backend_key: str, name: str, refusal: RpcError | None) -> None:
        """A backend sends updates of a name from now on, or refuses to."""
        upstream = self._upstreams.get(backend_key, {}).get(name)
        if upstream is None:
            return
        upstream.agreed, upstream.refusal = refusal is None, refusal
        upstream.owed &= upstream.agreed
        for subscription in tuple(upstream.subscriptions):
            if upstream.agreed and subscription.granted:
                self.may_have_missed(subscription, upstream)
            elif refusal is not None and subscription.granted:
                extra = {"subject": self.subject.parameter, "backend": backend_key, "reason": refusal.message}
                log.warning("MCP updates refused", extra=extra)
            subscription.update_settled()

    # What subscribers call

    def check_room(self, own: list[str], more: int) -> None:
        """Raises `RpcError` when a subscriber to `own`, the last `more` of them new, would be too much."""
        if len(chunks(own)) > 1:
            text = f"{NAMES_PER_STREAM_MAX} of a kind, or {NAME_BYTES_PER_STREAM_MAX} bytes of their names, a client"
            raise RpcError(INTERNAL_ERROR, f"Subscription limit reached: {text}")
        if self.count + more > SUBSCRIPTIONS_MAX:
            raise RpcError(INTERNAL_ERROR, f"Subscription limit reached: {SUBSCRIPTIONS_MAX} of a kind on this node")

    def subscription(self, key: SubscriptionKey, subscriber: Subscriber[News]) -> Subscription[News]:
        """The subscription of `key`, shared by all its subscribers. Upstreams that refused before are tried again."""
        subscription = self._subscriptions.get(key)
        if subscription is None:
            subscription = self._subscriptions[key] = Subscription(key)
            self._resolve(subscription)
        for upstream in subscription.upstreams:
            if upstream.over:
                self.may_have_missed(subscription, upstream)
            if upstream.refusal is not None:
                upstream.refusal = None
                self._changed.add(upstream.backend_key)
        subscription.update_settled()
        subscription.subscribers[subscriber] = None
        self.count += 1
        self._counts.followed(self.count)
        return subscription

    def drop(self, subscription: Subscription[News], subscriber: Subscriber[News]) -> None:
        """A subscriber gives up a subscription."""
        del subscription.subscribers[subscriber]
        self.count -= 1
        self._counts.followed(self.count)
        if not subscription.subscribers:
            del self._subscriptions[subscription.key]
            for upstream in tuple(subscription.upstreams):
                self._part(subscription, upstream)

    def notify_links(self) -> None:
        """Let each link whose wanted names have changed read them."""
        changed, self._changed = self._changed, set()
        for backend_key in changed:
            link = self._link(backend_key)
            if link is not None:
                try:
                    link.look_at_subscriptions()
                except Exception:  # The others are not told again.
                    log.exception("MCP link could not look at its subscriptions", extra={"backend": backend_key})

    # Inside

    def _upstream(self, backend_key: str, name: str) -> Upstream[News] | None:
        return self._upstreams.get(backend_key, {}).get(name)

    def _resolve(self, subscription: Subscription[News]) -> None:
        route = self.route(subscription.tables, subscription.name)
        replicas = route.replicas if route is not None else ()
        wanted = {
            (replica.backend_key, replica.remote_name)
            for replica in replicas
            if subscription.across_gateways or not self._is_gateway(replica.backend_key)
        }
        for upstream in tuple(subscription.upstreams):
            if (upstream.backend_key, upstream.name) not in wanted:
                self._part(subscription, upstream)
        for backend_key, name in wanted:
            self._join(
                subscription, self._upstreams.setdefault(backend_key, {}).setdefault(name, Upstream(backend_key, name))
            )
        subscription.update_settled()

    def _join(self, subscription: Subscription[News], upstream: Upstream[News]) -> None:
        if upstream in subscription.upstreams:
            return
        subscription.upstreams[upstream] = upstream.subscriptions[subscription] = None
        self._changed.add(upstream.backend_key)
        if upstream.agreed and subscription.granted:
            self.may_have_missed(subscription, upstream)

    def _part(self, subscription: Subscription[News], upstream: Upstream[News]) -> None:
        del subscription.upstreams[upstream], upstream.subscriptions[subscription]
        if not upstream.subscriptions:
            of_backend = self._upstreams[upstream.backend_key]
            del of_backend[upstream.name]
            if not of_backend:
                del self._upstreams[upstream.backend_key]
            self._changed.add(upstream.backend_key)

    def _is_gateway(self, backend_key: str) -> bool:
        link = self._link(backend_key)
        return link is not None and isinstance(link.spec, PeerSpec) and link.spec.scope is PeerScope.MESH

    def _tell(self, subscription: Subscription[News], news: News) -> None:
        for subscriber in tuple(subscription.subscribers):
            self._tell_one(subscriber, news)

    def _tell_one(self, subscriber: Subscriber[News], news: News) -> None:
        subscriber.tell(news)
        self._counts.delivered()
