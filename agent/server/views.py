"""Views of the mesh as endpoints of their own: `/mcp/s/NAME`, `/mcp/v/NAME`, and `/mcp?servers=...` or `?tags=...`.

One server as itself, a selection that an operator has named, and one that a client names in its URL; each of them, and
`/mcp` itself, once more for each reach of tokens that limit their clients. An endpoint is made when a client first asks
for it, and dropped when it has been idle. The one rule: whatever the mesh adds (failover,
both eras, tokens, sessions that survive) holds here too, and nothing outside the view does.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

from aiohttp import web

from agent import clock
from agent.authority.caller import caller
from agent.authority.grant import WHOLE, Reach
from agent.model import SINGLE_PATH, VIEW_PATH, Json, ViewSpec
from agent.routing.about import about_in
from agent.routing.away import away_words
from agent.routing.build import changed_kinds
from agent.routing.fleet import changed_only_in_fleets
from agent.routing.table import RouteTable
from agent.routing.view import FoundServers, Shown, show, unlisted_server
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.server.caller_views import PartOfTable
from agent.server.endpoint import Endpoint, OwnOf, Serve
from agent.server.limits import UNLIMITED, Limit, part_of
from agent.server.listen import INTERVAL_S
from agent.server.one_server import OneServer
from agent.server.request import refuse, refuse_for_now
from agent.server.view_tools import ViewTools

# An answer to an unknown name shows so many that there are.
NAMES_SHOWN_MAX: Final = 20
# Each holds a table and the bytes of its lists. Clients with a URL of their own are some dozens.
ENDPOINTS_MAX: Final = 500
# Opened by one named token, so that none takes them all.
ENDPOINTS_PER_TOKEN_MAX: Final = ENDPOINTS_MAX // 10
# A session that is idle ends by then as well, and a client that comes back adopts it.
IDLE_MAX_S: Final = 30 * 60.0
_SWEEP_EVERY_S: Final = 60.0
_RETRY_AFTER_S: Final = 30
# What `/mcp` itself shows, of what its caller may see.
_ALL: Final = ViewSpec()
# What a URL may name: names, globs of names and tags, so many.
_QUERY: Final = ("servers", "tags")
_WORD: Final = re.compile(r"[A-Za-z0-9._*?\[\]-]{1,128}")
_WORDS_MAX: Final = 64


class BuildEndpoint(Protocol):
    """Makes the endpoint of a view."""

    def __call__(
        self,
        path: str,
        *,
        routes: Callable[[], RouteTable],
        own: OwnOf | None = None,
        node_routes: Callable[[], RouteTable] | None = None,
        part: PartOfTable | None = None,
        limit: Limit = UNLIMITED,
    ) -> Endpoint:
        """See `agent.server.endpoint.build_endpoint`."""
        ...


@dataclass(slots=True, eq=False)
class _Table:
    """One view's table, made anew when it is asked for and the mesh has another one. Subscriptions are kept by it."""

    routes: Callable[[], RouteTable]
    spec: Callable[[], ViewSpec]
    _shown: Shown | None = None

    def __call__(self) -> RouteTable:
        whole, spec, shown = self.routes(), self.spec(), self._shown
        if shown is None or shown.whole is not whole or shown.view is not spec:
            shown = self._shown = show(whole, spec, shown)
        return shown.table

    def of(self, whole: RouteTable) -> RouteTable:
        """What the view shows of another table of the mesh, a single caller's."""
        return show(whole, self.spec(), self._shown).table

    def about(self) -> Json:
        """What the only server says of itself."""
        only = self().only
        return {} if only is None else about_in(only.definition)


@dataclass(slots=True, eq=False)
class _Open:
    """An endpoint in use. `told`: the table whose lists its clients know of; `requests`: those under way.

    `opener`: the binding of the caller that it was made for.
    """

    endpoint: Endpoint
    table: Callable[[], RouteTable]
    told: RouteTable
    used_at_s: float
    opener: str
    is_view: bool
    requests: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    living: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.requests > 0 or self.endpoint.has_clients


@dataclass(frozen=True, slots=True)
class _Base:
    """What an endpoint is made of."""

    routes: Callable[[], RouteTable]
    build: BuildEndpoint


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for. `path`: its one form, which names the endpoint and seals its sessions.

    `reach`: of its caller; all there is, where the endpoint does not depend on it. `own`: None for a part of an
    endpoint that is none of a view: of `base`, or of `/mcp`.
    """

    path: str
    spec: Callable[[], ViewSpec]
    own: Callable[[_Table], OwnOf] | None
    reach: Reach = WHOLE
    base: "_Base | None" = None

    @property
    def key(self) -> str:
        return f"{self.path}#{self.reach.key}" if self.reach.key else self.path


class Views:
    """The endpoints of views. `routes`: all that clients of `/mcp` see, as `part` of the table by nodes.

    `named`: the views that an operator has named. `single` and `build` make the endpoint of one server, and of any
    other view.

    Long because views of all kinds share one table, its limit and its notices.
    """

    def __init__(
        self,
        routes: Callable[[], RouteTable],
        part: PartOfTable,
        named: Callable[[], Mapping[str, ViewSpec]],
        *,
        single: BuildEndpoint,
        build: BuildEndpoint,
    ) -> None:
        self._routes, self._part = routes, part
        self.seen = lambda: self._seen_by(_reach_of_views())()  # noqa: PLW0108 - of each caller anew
        self._named = named
        self._single = single
        self._build = build
        self._open: dict[str, _Open] = {}
        self._servers = FoundServers()
        self._known_specs: dict[str, ViewSpec] = {}
        # What tokens of a reach see of `routes`.
        self._limited: dict[str, _Table] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._closing = False

    def __repr__(self) -> str:
        return f"<Views {sorted(self._open)}>"

    def add_to(self, app: web.Application, mesh: Endpoint) -> None:
        """Register routes, lifespan and shutdown. `mesh`: the endpoint of the whole mesh, whose URL may name a view."""
        app.cleanup_ctx.append(self._cleanup_ctx)
        app.on_shutdown.append(self._on_shutdown)
        for end in ("", "/"):
            app.router.add_route("*", f"{SINGLE_PATH}{{name}}{end}", self._serve_single)
            app.router.add_route("*", f"{VIEW_PATH}{{name}}{end}", self._serve_named)

        serve_part = self._limited_or_whole(mesh, None)

        async def serve(request: web.Request) -> web.StreamResponse:
            if request.query_string and (query := _query(request)):
                return await self._serve_query(request, query)
            return await serve_part(request)

        mesh.add_to(app, serve)

    def add_limited(
        self, app: web.Application, local: Endpoint, routes: Callable[[], RouteTable], build: BuildEndpoint
    ) -> None:
        """Register another endpoint, which callers with a limited reach get a part of, made by `build` of `routes`."""
        local.add_to(app, self._limited_or_whole(local, _Base(routes, build)))

    def _limited_or_whole(self, endpoint: Endpoint, base: "_Base | None") -> Serve:
        async def serve(request: web.Request) -> web.StreamResponse:
            reach = caller().grant.reach
            if reach is WHOLE or reach == WHOLE:
                return await endpoint.handle(request, is_usual=True)
            return await self._serve(request, _Asked(endpoint.path, lambda: _ALL, None, reach, base))

        return serve

    def close_streams(self) -> None:
        """As `Endpoint.close_streams`."""
        self._closing = True
        for one in self._open.values():
            one.endpoint.close_streams()

    def cut_off(self) -> None:
        """As `Sessions.cut_off`, of every view."""
        for one in self._open.values():
            one.endpoint.sessions.cut_off()

    def end_of_revoked(self, bindings: Container[str]) -> None:
        """As `Endpoint.end_of_revoked`."""
        for one in self._open.values():
            one.endpoint.end_of_revoked(bindings)

    def routes_changed(self) -> None:
        """There is a new route table, or a view has changed: notify the clients whose lists look different; soon."""
        self._changed.set()

    # Requests

    async def _serve_single(self, request: web.Request) -> web.StreamResponse:
        reach = _reach_of_views()
        name, table = request.match_info["name"], self._seen_by(reach)()
        server = self._servers.find(table, name)
        asked = _as_itself(name if server is None else server.public_name, reach)
        if asked.key in self._open or (server is not None and server.listed):
            return await self._serve(request, asked)
        if (away := server or unlisted_server(table, name)) is not None:
            return refuse_for_now(away_words(away, clock.now_s()))
        names = [route.public_name for route in table.servers.values() if route.listed]
        return _unknown(name, "server", table, names)

    async def _serve_named(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        spec = self._named().get(name)
        path = f"{VIEW_PATH}{name}"
        if spec is None:
            return _unknown(name, "view", None, list(self._named()) if _reach_of_views() == WHOLE else [])

        def present() -> ViewSpec:
            # One that was taken away shows what it showed, until its clients have gone.
            self._known_specs[path] = self._named().get(name, self._known_specs.get(path, spec))
            return self._known_specs[path]

        return await self._serve(
            request, _Asked(path, present, lambda _: lambda search: ViewTools(name, present, search), _reach_of_views())
        )

    async def _serve_query(self, request: web.Request, query: Mapping[str, tuple[str, ...]]) -> web.StreamResponse:
        words = [word for part in query.values() for word in part]
        if not words or len(words) > _WORDS_MAX or not all(map(_WORD.fullmatch, words)):
            message = f"servers and tags in the endpoint's URL: 1 to {_WORDS_MAX} names, parted by commas"
            return refuse(400, message, INVALID_PARAMS)
        spec = ViewSpec(servers=query["servers"], tags=query["tags"])
        named = "&".join(f"{name}={','.join(part)}" for name, part in query.items() if part)
        path = f"{request.path.rstrip('/')}?{named}"
        reach = _reach_of_views()
        asked = _Asked(path, lambda: spec, lambda _: lambda search: ViewTools("mesh", lambda: spec, search), reach)
        return await self._serve(request, asked)

    async def _serve(self, request: web.Request, asked: _Asked) -> web.StreamResponse:
        if request.query_string and "?" not in asked.path and _query(request):
            return refuse(400, "servers and tags in the URL select from the whole mesh, at /mcp", INVALID_PARAMS)
        one = self._open.get(asked.key)
        if one is None:
            if self._tasks is None:
                return refuse_for_now("This node is starting or shutting down; try again")
            if asked.own is not None and not self._make_room():
                again = {"Retry-After": str(_RETRY_AFTER_S)}
                return refuse(503, "All views that this node may have open are in use", INTERNAL_ERROR, headers=again)
            one = self._opened(asked, self._tasks)
        one.requests += 1
        try:
            await one.begun.wait()
            return await one.endpoint.handle(request)
        finally:
            one.requests -= 1
            one.used_at_s = clock.now_s()

    # Endpoints

    def _opened(self, asked: _Asked, tasks: asyncio.TaskGroup) -> _Open:
        limit = UNLIMITED if asked.reach == WHOLE else Limit(asked.reach, self._routes)
        routes: Callable[[], RouteTable] = self._seen_by(asked.reach)
        if asked.base is not None:  # Its tokens limit no tools (`agent.config.tokens_file`).
            routes = asked.base.routes
            endpoint = asked.base.build(asked.key, routes=routes, limit=Limit(asked.reach, routes))
        elif asked.own is None:
            nodes, part = None if asked.reach.limits_tools else self._part.whole, self._part_seen_by(routes)
            endpoint = self._build(asked.key, routes=routes, node_routes=nodes, part=part, limit=limit)
        else:
            table, part = _Table(routes, asked.spec), self._part_seen_by(routes)
            routes, part = table, PartOfTable(part.whole, _then(part.shown, table.of))
            if limit is not UNLIMITED:
                limit = Limit(asked.reach, _Table(self._routes, asked.spec))
            build = self._single if asked.spec().alone else self._build
            endpoint = build(asked.key, routes=table, own=asked.own(table), part=part, limit=limit)
        one = self._open[asked.key] = _Open(
            endpoint, routes, routes(), clock.now_s(), caller().grant.binding, is_view=asked.own is not None
        )
        if self._closing:
            endpoint.close_streams()
        one.living = tasks.create_task(_live(endpoint, one.begun), name=asked.key)
        return one

    def _seen_by(self, reach: Reach) -> Callable[[], RouteTable]:
        """The table of the mesh as tokens of a reach see it: one for all endpoints, which know tables by identity."""
        if not reach.limits_tools:
            return self._routes
        known = self._limited.get(reach.key)
        if known is None:
            if len(self._limited) >= ENDPOINTS_MAX:
                self._limited.clear()
            spec = part_of(reach)
            known = self._limited[reach.key] = _Table(self._routes, lambda: spec)
        return known

    def _part_seen_by(self, seen: Callable[[], RouteTable]) -> PartOfTable:
        """How a table of `_seen_by` is made of the one by nodes."""
        if not isinstance(seen, _Table):
            return self._part
        return PartOfTable(self._part.whole, _then(self._part.shown, seen.of))

    def _make_room(self) -> bool:
        """Whether another view may be opened. Parts of `/mcp` always have room: there are as many as reaches."""
        views = {path: one for path, one in self._open.items() if one.is_view}
        opener = caller().grant.binding
        if opener and sum(one.opener == opener for one in views.values()) >= ENDPOINTS_PER_TOKEN_MAX:
            views = {path: one for path, one in views.items() if one.opener == opener}
        elif len(views) < ENDPOINTS_MAX:
            return True
        idle = [path for path, one in views.items() if not one.busy]
        if idle:
            self._drop(min(idle, key=lambda path: self._open[path].used_at_s))
        return bool(idle)

    def _drop(self, path: str) -> None:
        living = self._open.pop(path).living
        self._known_specs.pop(path, None)
        reach = path.rpartition("#")[2]
        if reach in self._limited and not any(other.endswith(f"#{reach}") for other in self._open):
            del self._limited[reach]  # It holds a table of the mesh.
        if living is not None:
            living.cancel()

    async def _watch(self) -> None:
        """Notify clients of changes, and drop what is idle, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_EVERY_S):
                    await self._changed.wait()
            if self._changed.is_set():
                self._changed.clear()
                await self._notify()
            for path, one in list(self._open.items()):
                if not one.busy and one.used_at_s < clock.now_s() - IDLE_MAX_S:
                    self._drop(path)
            await asyncio.sleep(INTERVAL_S)

    async def _notify(self) -> None:
        for one in list(self._open.values()):
            # Without clients no table is made: one that comes lists anew.
            if one.endpoint.has_clients and (after := one.table()) is not one.told:
                before, one.told = one.told, after
                changed = changed_kinds(before, after)
                in_fleets = changed_only_in_fleets(before, after, changed)
                one.endpoint.notices.fleets_changed(in_fleets)
                one.endpoint.notices.changed(changed - in_fleets)
                await asyncio.sleep(0)  # Calls go on between two large tables.

    async def _cleanup_ctx(self, _app: web.Application) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            watching = tasks.create_task(self._watch(), name="views")
            try:
                yield
            finally:
                self._tasks = None
                watching.cancel()
                for path in list(self._open):
                    self._drop(path)

    async def _on_shutdown(self, app: web.Application) -> None:
        for one in self._open.values():
            await one.endpoint.shut_down(app)


def _then(
    first: Callable[[RouteTable], RouteTable], second: Callable[[RouteTable], RouteTable]
) -> Callable[[RouteTable], RouteTable]:
    return lambda table: second(first(table))


@lru_cache(maxsize=ENDPOINTS_MAX)
def _as_itself(public_name: str, reach: Reach) -> _Asked:
    spec = ViewSpec(servers=(public_name,), alone=True)

    def own(shown: _Table) -> OwnOf:
        return lambda _: OneServer(public_name, shown.about)

    return _Asked(f"{SINGLE_PATH}{public_name}", lambda: spec, own, reach)


def _reach_of_views() -> Reach:
    """The caller's reach as far as views depend on it: they have nothing of the node's own."""
    reach = caller().grant.reach
    return Reach(reach.tools, reach.read_only) if reach.limits_tools else WHOLE


async def _live(endpoint: Endpoint, begun: asyncio.Event) -> None:
    async with asynccontextmanager(endpoint.sessions.cleanup_ctx)(web.Application()):
        begun.set()
        await endpoint.notices.run()


def _query(request: web.Request) -> Mapping[str, tuple[str, ...]]:
    """The names in a URL by member, each once and in order; empty where it names none."""
    query = request.query
    if not any(name in query for name in _QUERY):
        return {}
    return {
        name: tuple(
            sorted({word.strip() for text in query.getall(name, ()) for word in text.split(",") if word.strip()})
        )
        for name in _QUERY
    }


def _unknown(name: str, kind: str, table: RouteTable | None, names: list[str]) -> web.Response:
    if table is not None and table.starting:
        return refuse_for_now("This node is starting, and does not know its servers yet; try again")
    known = sorted(names)
    shown = ", ".join(known[:NAMES_SHOWN_MAX]) + (", ..." if len(known) > NAMES_SHOWN_MAX else "")
    where = "in the mesh" if kind == "server" else "on this node"
    message = f"There is no {kind} named {name[:64]!r} {where}; there are {shown or 'none'}"
    return refuse(404, message, INVALID_PARAMS)
