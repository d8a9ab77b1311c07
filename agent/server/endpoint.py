"""One MCP endpoint, assembled: the servers of both eras, the management server behind them, and notifications.

Built by the wiring for `/mcp` and `/mcp/local`, and by `agent.server.views` for each view of the mesh. The one rule:
they differ in their route table and in what they say of themselves alone.
"""

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from aiohttp import web

from agent import __version__
from agent.dispatch.client_events import UpstreamEvents
from agent.dispatch.dispatcher import Dispatch
from agent.links.session_offers import SessionOffers
from agent.model import PEER_PATH, Json, NodeIdentity
from agent.routing.table import RouteTable
from agent.server.caller_views import CallerViews, PartOfTable, Tables
from agent.server.fast_path.connection import FastRequest
from agent.server.introduction import Introducer
from agent.server.limits import UNLIMITED, Limit, own_tools, refusals
from agent.server.listen import ListenStreams, Notices
from agent.server.lists import Definitions, ListIndex
from agent.server.node_operations import NodeOperations
from agent.server.one_server import OneServer
from agent.server.pages import PageLimits
from agent.server.preferences import USUAL, Preferences
from agent.server.request import BODY_BYTES_MAX, FROM_NODE_BYTES_MAX, headers_by_name, param_headers, speaks_json
from agent.server.search import ToolSearch
from agent.server.sessions.client_events import SessionNotifications
from agent.server.sessions.http import SessionServer, is_legacy
from agent.server.sessions.requests import SessionRequests
from agent.server.sessions.sealed_id import SessionSeal
from agent.server.sessions.started import SessionStarts
from agent.server.sessions.table import Sessions
from agent.server.sessions.upstream import UpstreamSessions
from agent.server.stateless import StatelessServer
from agent.server.task_seal import TaskSeal
from agent.server.view_tools import ViewTools
from agent.state.ended_sessions import EndedSessions
from agent.subscriptions.resources import ClientUpdates

# What stands in the place of the node's own tools, made of what searches the endpoint's tools.
OwnOf: TypeAlias = Callable[[ToolSearch | None], OneServer | ViewTools]
Serve: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the wiring needs of an endpoint."""

    path: str
    stateless: StatelessServer
    legacy: SessionServer
    sessions: Sessions
    streams: ListenStreams
    notices: Notices
    preferences: Preferences

    @property
    def has_clients(self) -> bool:
        """Whether any client has a session or a stream."""
        return self.sessions.count > 0 or self.streams.count > 0

    def add_to(self, app: web.Application, serve: Serve | None = None) -> None:
        """Register routes, lifespan and shutdown. `serve`: in place of `handle`, which it may call."""
        app.cleanup_ctx.append(self.sessions.cleanup_ctx)
        app.on_shutdown.append(self.shut_down)
        for path in (self.path, f"{self.path}/"):
            app.router.add_route("*", path, serve or self.handle)

    def close_streams(self) -> None:
        """End standing streams of both eras now and later; other requests go on. May be repeated."""
        self.streams.close()
        self.sessions.close_streams()

    def end_of_revoked(self, bindings: Container[str]) -> None:
        """End what callers began whose binding is not among these."""
        self.streams.end_of_revoked(bindings)
        self.sessions.end_of_revoked(bindings)

    async def handle(self, request: web.Request, *, is_usual: bool = False) -> web.StreamResponse:
        """Serve one HTTP request in its client's era. `is_usual`: so are all with its head, for this caller."""
        preferences = self.preferences.of(request)
        if not isinstance(preferences, Preferences):
            return preferences
        server = self.legacy if is_legacy(request) else self.stateless
        if is_usual and isinstance(request, FastRequest) and preferences is self.preferences:
            request.head.serve = partial(server.handle, preferences=preferences)
            by_name = headers_by_name(request)
            if speaks_json(request) and len(by_name) == len(request.headers) and not param_headers(request, by_name):
                request.head.start = partial(server.start, preferences=preferences)
        return await server.handle(request, preferences)

    async def shut_down(self, app: web.Application) -> None:
        """For `app.on_shutdown`: no client can connect any more."""
        self.streams.close()
        await self.sessions.on_shutdown(app)


def build_endpoint(
    path: str,
    *,
    identity: NodeIdentity,
    node_status: NodeOperations,
    routes: Callable[[], RouteTable],
    dispatch: Dispatch,
    list_changed: Callable[[str], None],
    session_event: Callable[[str], None],
    session_keys: Callable[[], Sequence[bytes]],
    updates: ClientUpdates,
    search_mode: bool | None = None,
    draining: Callable[[], bool] = lambda: False,
    limits: PageLimits | None = None,
    preferences: Preferences = USUAL,
    by_own_name: Callable[[str], None] | None = None,
    instructions: str | None = None,
    own: OwnOf | None = None,
    node_routes: Callable[[], RouteTable] | None = None,
    ended_ids: EndedSessions | None = None,
    offers: SessionOffers | None = None,
    part: PartOfTable | None = None,
    limit: Limit = UNLIMITED,
) -> Endpoint:
    """Assemble the endpoint at `path`.

    `list_changed` counts the notifications sent, `session_event` the events of sessions. `session_keys`: see
    `SessionSeal`. `search_mode`: whether clients get the search tools in place of all tools by default; None: there are
    none. `draining`: whether peers are to use another node. `limits`: of one page of a list; None: the usual ones.
    `preferences`: of clients that do not say. `by_own_name`, `node_routes`: see `ListIndex`. `instructions`: see
    `Introducer`. `own`: what stands in the place of the node's own tools. `ended_ids`: see `Sessions`. `offers`: what
    servers offer single callers, in their sessions. `part`: how `routes` is made of a whole table; None: it is whole.
    `limit`: what tokens of a reach see of that, to which `routes` is cut already.
    """
    search, of_nodes = None if search_mode is None else ToolSearch(routes), path.partition("#")[0] == PEER_PATH
    usual = partial(own_tools, limit.reach, identity.name, __version__, node_status, asks_others=not of_nodes)
    said = own(search) if own else usual(search=search)
    known_offers = SessionOffers() if offers is None else offers
    changes = SessionNotifications(events := UpstreamEvents(dispatch.link, known_offers))
    ended = EndedSessions() if ended_ids is None else ended_ids
    sessions = Sessions(session_event, changes.session_ended, SessionSeal(path, session_keys), ended_ids=ended)
    seal, is_whole = TaskSeal(session_keys), own is None and limit is UNLIMITED
    index: Json = {"search_mode": bool(search_mode), "limits": limits, "by_own_name": by_own_name, "task_seal": seal}
    index |= {"for_nodes": of_nodes, "view": "" if is_whole else path, "refusal": refusals(limit, said)}
    tables = Tables(routes, node_routes, part)
    views = _caller_views(tables, said.definitions(), index, offers=known_offers, own=identity, dispatch=dispatch)
    subscriber, start_task = partial(updates.resources.subscriber, routes), sessions.start_task
    upstream = UpstreamSessions(known_offers, dispatch.link, updates, routes, events, start_task=start_task, seal=seal)
    streams = ListenStreams(subscriber, upstream.of_tasks, upstream.of_sessions, seal)
    introduced = Introducer(routes, instructions, has_tools=own is None)
    stateless = StatelessServer(
        views=views,
        dispatch=dispatch,
        own=said,
        streams=streams,
        discover=lambda: said.discovery(identity, introduced(), draining=draining(), has_tasks=views.index.has_tasks()),
        events=events,
        start_task=start_task,
        body_bytes_max=FROM_NODE_BYTES_MAX if of_nodes else BODY_BYTES_MAX,
        hear_ended=ended.hear if of_nodes else None,
    )
    legacy = SessionServer(
        sessions=sessions,
        starts=SessionStarts(views=views, dispatch=dispatch, upstream=upstream),
        requests=SessionRequests(views=views, dispatch=dispatch, own=said, subscriber=subscriber, upstream=upstream),
        changes=changes,
        initialize_result=lambda: said.initialize_result(identity, introduced()),
    )
    notices = Notices((streams.tell, sessions.tell), list_changed)
    return Endpoint(path, stateless, legacy, sessions, streams, notices, preferences)


def _caller_views(
    tables: Tables,
    definitions: Definitions,
    index: Json,
    *,
    offers: SessionOffers,
    own: NodeIdentity,
    dispatch: Dispatch,
) -> CallerViews:
    """What the endpoint lists. `definitions`: of its own; `index`: what else `ListIndex` takes."""
    make_index = partial(ListIndex, own=definitions, node_id=own.node_id, **index)
    for_clients = not index["for_nodes"]
    return CallerViews(tables, make_index, offers=offers, own=own, link=dispatch.link, for_clients=for_clients)
