"""Who wants to be told of what, and the backends that can tell: public names in front, theirs behind.

Subscribers belong to the MCP endpoints; links ask what is wanted of their backend and tell what happens. Each wish is
resolved by the route table of its endpoint, again whenever that changes, and every replica is followed. What is wished
for, resources or tasks, says a subclass. The one rule: once a subscriber has been told that it is subscribed, whatever
may have been missed is told to it.
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

INVALID_PARAMS: Final = -32602

Tables: TypeAlias = Callable[[], RouteTable]
# Whose table resolves it, whether gateways may be asked, and the public name.
WishKey: TypeAlias = tuple[Tables, bool, str]
# What subscribers are told.
News = TypeVar("News")


class Way(Generic[News]):
    """One backend's name that stands behind wishes.

    `agreed`: the backend follows it; `refusal`: it does not want to; `over`: nothing more can come of it. `owed`: who
    wants it may have missed something, and it is to be asked for.
    """

    def __init__(self, backend_key: str, name: str) -> None:
        self.backend_key = backend_key
        self.name = name
        self.agreed = False
        self.over = False
        self.owed = False
        self.refusal: RpcError | None = None
        self.wishes: dict[Wish[News], None] = {}

    def __repr__(self) -> str:
        return f"<Way {self.backend_key} {'agreed' if self.agreed else 'refused' if self.refusal else 'asked'}>"


class Wish(Generic[News]):
    """A public name of which somebody of one endpoint wants to be told.

    `settled`: every backend behind it has agreed or refused. `granted`: a subscriber was told that it is subscribed.
    """

    def __init__(self, key: WishKey) -> None:
        self.key = key
        self.tables, self.across_gateways, self.name = key
        self.subscribers: dict[Subscriber[News], None] = {}
        self.ways: dict[Way[News], None] = {}
        self.settled = asyncio.Event()
        self.granted = False

    def __repr__(self) -> str:
        return f"<Wish {list(self.ways)} of {len(self.subscribers)}>"

    def look(self) -> None:
        """A way has changed: wake who waits for the backends' word, or let them wait."""
        if all(way.agreed or way.refusal is not None for way in self.ways):
            self.settled.set()
        else:
            self.settled.clear()

    def refusal(self, nobody: RpcError) -> RpcError | None:
        """Why nobody will tell: no backend can be asked (`nobody`), or all have refused, in the first one's words."""
        if not self.ways:
            return nobody
        refusals = [way.refusal for way in self.ways if way.refusal is not None]
        return refusals[0] if len(refusals) == len(self.ways) else None


log = logging.getLogger(__name__)

# A bound on memory and on fan-out. A client may have what fits into one stream of a link: who watches more looks at
# the wrong end.
SUBSCRIPTIONS_MAX: Final = 10_000
# A backend that has not agreed by then is told of later: the subscriber hears of it when it has.
SETTLE_TIMEOUT_S: Final = 3.0

INTERNAL_ERROR: Final = -32603

# Takes news; must not block, and may be called at any time.
Tell: TypeAlias = Callable[[News], None]


class WatchingLink(Protocol):
    """What is needed of a link."""

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        ...

    def look_at_wishes(self) -> None:
        """What is wanted of its backend has changed."""
        ...


@dataclass(frozen=True, slots=True)
class Counts:
    """Who counts; the metrics do. `followed`: so many subscriptions there are now; `told`: a subscriber got news."""

    followed: Callable[[int], None]
    told: Callable[[], None]


class Subscriber(Generic[News]):
    """One client, or one stream of one. `tell` gets news under public names."""

    def __init__(
        self, subscriptions: "Subscriptions[News]", tables: Tables, tell: Tell[News], *, across_gateways: bool
    ) -> None:
        self.tell = tell
        self._subscriptions = subscriptions
        self._place = (tables, across_gateways)
        self._wishes: dict[str, Wish[News]] = {}

    def __repr__(self) -> str:
        return f"<Subscriber {len(self._wishes)} wishes>"

    @property
    def names(self) -> frozenset[str]:
        """What it is subscribed to."""
        return frozenset(self._wishes)

    async def add(self, names: Iterable[str]) -> dict[str, RpcError]:
        """Subscribe to public names; returns those that are refused, and why. Waits 3 s for the backends' word.

        Raises:
            RpcError: it would be too many, for this subscriber or for the node; nothing has changed then.
        """
        subscriptions = self._subscriptions
        wanted = dict.fromkeys(names)
        new = [name for name in wanted if name not in self._wishes]
        subscriptions.check_room([*self._wishes, *new], len(new))
        refusals: dict[str, RpcError] = {}
        for name in new:
            if len(name) > subscriptions.name_len_max:
                text = f"{subscriptions.subject.parameter}: longer than {subscriptions.name_len_max} characters"
                refusals[name] = RpcError(INVALID_PARAMS, text)
            else:
                self._wishes[name] = subscriptions.wish((*self._place, name), self)
        subscriptions.tell_links()
        wishes = {name: self._wishes[name] for name in wanted if name in self._wishes}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    for wish in wishes.values():
                        await wish.settled.wait()
        except asyncio.CancelledError:
            self.remove(new)
            raise
        for name, wish in wishes.items():
            if (refusal := wish.refusal(subscriptions.nobody_tells(name))) is not None:
                refusals[name] = refusal
            else:
                wish.granted = True
        self.remove(name for name in refusals if name in self._wishes)
        return refusals

    def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe; what it is not subscribed to is no matter."""
        for name in tuple(names):
            if (wish := self._wishes.pop(name, None)) is not None:
                self._subscriptions.drop(wish, self)
        self._subscriptions.tell_links()

    def close(self) -> None:
        """Unsubscribe from everything."""
        self.remove(self._wishes)


class Subscriptions(ABC, Generic[News]):
    """All wishes of one subject on a node; the `Watch` of its links. Sole writer: the event loop, through the methods.

    `subject`: what is wished for, in the protocol's words. `name_len_max`: of a public name, in characters.
    """

    subject: Subject
    name_len_max: int

    def __init__(self, link: Callable[[str], WatchingLink | None], counts: Counts) -> None:
        self._link = link
        self._counts = counts
        self._wishes: dict[WishKey, Wish[News]] = {}
        self._ways: dict[str, dict[str, Way[News]]] = {}
        self._changed: set[str] = set()
        self.count = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.count} subscriptions to {len(self._wishes)} names>"

    def subscriber(self, tables: Tables, tell: Tell[News], *, across_gateways: bool = True) -> Subscriber[News]:
        """Somebody who may subscribe to what `tables` leads to.

        `across_gateways`: False for another node that asks us as a gateway; two gateways that tell each other would
        never come to an end.
        """
        return Subscriber(self, tables, tell, across_gateways=across_gateways)

    def routes_changed(self) -> None:
        """The route tables are others: find out anew who can tell."""
        for wish in self._wishes.values():
            self._resolve(wish)
        self.tell_links()

    # What a subject decides

    @abstractmethod
    def route(self, tables: Tables, name: str) -> Route | None:
        """Who can tell of a public name; None: nobody, or it is no such name."""

    @abstractmethod
    def nobody_tells(self, name: str) -> RpcError:
        """Why a wish that no backend stands behind is refused."""

    @abstractmethod
    def may_have_missed(self, wish: Wish[News], way: Way[News]) -> None:
        """A granted wish is followed anew by this way: make up for what happened before."""

    # What links ask and tell (`agent.links.follower.Watch`)

    def wanted(self, backend_key: str) -> frozenset[str]:
        """The names, as this backend knows them, that it is to tell of."""
        ways = self._ways.get(backend_key, {})
        return frozenset(name for name, way in ways.items() if way.refusal is None and not way.over)

    def owed(self, backend_key: str) -> frozenset[str]:
        """The names of which the backend is to be asked how they stand."""
        ways = self._ways.get(backend_key, {})
        return frozenset(name for name, way in ways.items() if way.owed)

    def settled(self, backend_key: str, name: str, refusal: RpcError | None) -> None:
        """A backend follows a name from now on, or refuses to."""
        way = self._ways.get(backend_key, {}).get(name)
        if way is None:
            return
        way.agreed, way.refusal = refusal is None, refusal
        way.owed &= way.agreed
        for wish in tuple(way.wishes):
            if way.agreed and wish.granted:
                self.may_have_missed(wish, way)
            elif refusal is not None and wish.granted:
                extra = {"subject": self.subject.parameter, "backend": backend_key, "reason": refusal.message}
                log.warning("MCP updates refused", extra=extra)
            wish.look()

    # What subscribers do

    def check_room(self, own: list[str], more: int) -> None:
        """Raises `RpcError` when a subscriber to `own`, the last `more` of them new, would be too much."""
        if len(chunks(own)) > 1:
            text = f"{NAMES_PER_STREAM_MAX} of a kind, or {NAME_BYTES_PER_STREAM_MAX} bytes of their names, a client"
            raise RpcError(INTERNAL_ERROR, f"Subscription limit reached: {text}")
        if self.count + more > SUBSCRIPTIONS_MAX:
            raise RpcError(INTERNAL_ERROR, f"Subscription limit reached: {SUBSCRIPTIONS_MAX} of a kind on this node")

    def wish(self, key: WishKey, subscriber: Subscriber[News]) -> Wish[News]:
        """The wish of `key`, shared by all who have it. What refused before is asked again."""
        wish = self._wishes.get(key)
        if wish is None:
            wish = self._wishes[key] = Wish(key)
            self._resolve(wish)
        for way in wish.ways:
            if way.over:
                self.may_have_missed(wish, way)
            if way.refusal is not None:
                way.refusal = None
                self._changed.add(way.backend_key)
        wish.look()
        wish.subscribers[subscriber] = None
        self.count += 1
        self._counts.followed(self.count)
        return wish

    def drop(self, wish: Wish[News], subscriber: Subscriber[News]) -> None:
        """A subscriber wants it no longer."""
        del wish.subscribers[subscriber]
        self.count -= 1
        self._counts.followed(self.count)
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

    def _way(self, backend_key: str, name: str) -> Way[News] | None:
        return self._ways.get(backend_key, {}).get(name)

    def _resolve(self, wish: Wish[News]) -> None:
        route = self.route(wish.tables, wish.name)
        replicas = route.replicas if route is not None else ()
        wanted = {
            (replica.backend_key, replica.remote_name)
            for replica in replicas
            if wish.across_gateways or not self._is_gateway(replica.backend_key)
        }
        for way in tuple(wish.ways):
            if (way.backend_key, way.name) not in wanted:
                self._part(wish, way)
        for backend_key, name in wanted:
            self._join(wish, self._ways.setdefault(backend_key, {}).setdefault(name, Way(backend_key, name)))
        wish.look()

    def _join(self, wish: Wish[News], way: Way[News]) -> None:
        if way in wish.ways:
            return
        wish.ways[way] = way.wishes[wish] = None
        self._changed.add(way.backend_key)
        if way.agreed and wish.granted:
            self.may_have_missed(wish, way)

    def _part(self, wish: Wish[News], way: Way[News]) -> None:
        del wish.ways[way], way.wishes[wish]
        if not way.wishes:
            of_backend = self._ways[way.backend_key]
            del of_backend[way.name]
            if not of_backend:
                del self._ways[way.backend_key]
            self._changed.add(way.backend_key)

    def _is_gateway(self, backend_key: str) -> bool:
        link = self._link(backend_key)
        return link is not None and isinstance(link.spec, PeerSpec) and link.spec.scope is PeerScope.MESH

    def _tell(self, wish: Wish[News], news: News) -> None:
        for subscriber in tuple(wish.subscribers):
            subscriber.tell(news)
            self._counts.told()
