"""What one endpoint lists for callers whose sessions with servers gained something: a tool, a resource, a prompt.

Asked by the servers of both eras for each request; nearly always no caller has an offer of its own. The one rule: a
caller's lists, and the names that its requests find, come from the same table.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from agent.client.affinity import affinity_key, is_of_session
from agent.dispatch.callable_link import CallableLink
from agent.links.session_offers import NO_OFFERS, SessionOffers
from agent.model import AFFINITY_META_KEY, Json, NodeIdentity, Offer
from agent.routing.build import changed_kinds
from agent.routing.callers import table_of_caller
from agent.routing.table import RouteTable
from agent.server.listen import LIST_OF
from agent.server.lists import ListIndex

# Callers whose tables are kept ready; one is made anew from the table of all.
VIEWS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class PartOfTable:
    """What an endpoint shows of a `whole` table, by nodes: `shown` makes the one of the other."""

    whole: Callable[[], RouteTable]
    shown: Callable[[RouteTable], RouteTable]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one endpoint for all callers: its own, what it lists for nodes that import it, and its origin.

    `node_routes`: see `ListIndex`. `part`: None where `routes` is the whole table.
    """

    routes: Callable[[], RouteTable]
    node_routes: Callable[[], RouteTable] | None = None
    part: PartOfTable | None = None

    def whole(self) -> RouteTable:
        """The table of all by nodes, of whose contributions callers' tables are made."""
        return self.routes() if self.part is None else self.part.whole()

    def shown(self, whole: RouteTable) -> RouteTable:
        """What the endpoint shows of such a table."""
        return whole if self.part is None else self.part.shown(whole)


class MakeIndex(Protocol):
    """Makes the index over a table."""

    def __call__(self, routes: Callable[[], RouteTable], *, node_routes: Callable[[], RouteTable] | None) -> ListIndex:
        """See `ListIndex`."""
        ...


class _View:
    """One caller's tables, made anew for each table of all and each change of its offers."""

    def __init__(self, affinity: str, views: "CallerViews") -> None:
        self._affinity = affinity
        self._views = views
        self._of: tuple[RouteTable, Mapping[str, Offer]] | None = None
        self._known = RouteTable(), RouteTable()

    def table(self) -> RouteTable:
        return self._tables()[1]

    def whole(self) -> RouteTable:
        return self._tables()[0]

    def _tables(self) -> tuple[RouteTable, RouteTable]:
        of_all, offers = self._views.tables.routes(), self._views.offers.of(self._affinity)
        if self._of is None or self._of[0] is not of_all or self._of[1] is not offers:
            self._of = of_all, offers
            whole = self._views.made(offers)
            self._known = whole, self._views.tables.shown(whole)
        return self._known


class CallerViews:
    """See the module. `index`: that of all callers. `link`: by backend key."""

    def __init__(
        self,
        tables: Tables,
        make_index: MakeIndex,
        *,
        offers: SessionOffers,
        own: NodeIdentity,
        link: Callable[[str], CallableLink | None],
        for_clients: bool,
    ) -> None:
        self.tables = tables
        self.offers = offers
        self.index = make_index(tables.routes, node_routes=tables.node_routes)
        self._own = own
        self._make_index = make_index
        self._link = link
        self._for_clients = for_clients
        self._views: OrderedDict[str, tuple[_View, ListIndex]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<CallerViews of {len(self._views)} callers>"

    def index_of(self, params: Json, session_id: str | None = None) -> ListIndex:
        """The index for a request: of a session of ours, or of one that another node names in `params`."""
        if not self.offers:
            return self.index
        affinity = _affinity(params, session_id)
        if affinity is None or not self.offers.of(affinity):
            return self.index
        return self._view(affinity)[1]

    async def read(self, params: Json, session_id: str | None = None) -> bool:
        """Read what may have changed in the sessions of the caller of a request; False where nothing may have.

        Bounded in time (`agent.links.offer_keeper.CHANGE_WAIT_S`).
        """
        affinity = _affinity(params, session_id) if self.offers else None
        unread = [] if affinity is None else self.offers.unread(affinity)
        if affinity is None or not unread:
            return False
        async with asyncio.TaskGroup() as group:
            for key in unread:
                if (link := self._link(key)) is not None:
                    group.create_task(link.read_as_caller(affinity), name=f"lists of a session with {key}")
        return True

    def offers_of(self, session_id: str) -> Mapping[str, Offer]:
        """What the caller with this session of ours is offered for itself; the same object until that changes."""
        return self.offers.of(_affinity({}, session_id) or "") if self.offers else NO_OFFERS

    def changed_lists(self, before: Mapping[str, Offer], after: Mapping[str, Offer]) -> Iterable[str]:
        """Which lists look different to a caller now: "tools", "prompts", "resources"."""
        was, now = (self.tables.shown(self.made(offers)) for offers in (before, after))
        kinds = changed_kinds(was, now)
        return sorted({LIST_OF[kind] for kind in kinds if kind in LIST_OF})

    def made(self, offers: Mapping[str, Offer]) -> RouteTable:
        """The table by nodes of a caller with these offers."""
        whole = self.tables.whole()
        return table_of_caller(whole, offers, self._own, for_clients=self._for_clients) if offers else whole

    def _view(self, affinity: str) -> tuple[_View, ListIndex]:
        known = self._views.get(affinity)
        if known is None:
            view = _View(affinity, self)
            node_routes = None if self.tables.node_routes is None else view.whole
            known = self._views[affinity] = view, self._make_index(view.table, node_routes=node_routes)
            if len(self._views) > VIEWS_MAX:
                self._views.popitem(last=False)
        self._views.move_to_end(affinity)
        return known


def _affinity(params: Json, session_id: str | None) -> str | None:
    """The key of a caller with a session, as `agent.dispatch` has it."""
    if session_id is not None:
        return affinity_key(params, session_id)
    meta = params.get("_meta")
    told = meta.get(AFFINITY_META_KEY) if isinstance(meta, dict) else None
    return told if isinstance(told, str) and is_of_session(told) else None
