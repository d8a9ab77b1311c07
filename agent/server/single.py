"""`/mcp/s/NAME`: one server of the mesh as itself, from any node, under its own names and with its own introduction.

An endpoint is made for a server when a client first asks for it, and lives as long as the node. The one rule: whatever
the mesh adds (failover, both eras, tokens, sessions that survive) holds here too, and nothing of another server does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from agent.errors import NOT_EXECUTED
from agent.model import SINGLE_PATH, Json
from agent.routing.about import about_in
from agent.routing.build import changed_kinds
from agent.routing.one_server import find_server, table_of
from agent.routing.table import Route, RouteTable
from agent.rpc_codes import INVALID_PARAMS
from agent.server.endpoint import Endpoint
from agent.server.one_server import OneServer
from agent.server.request import refuse

# An answer to an unknown name shows so many that there are.
NAMES_SHOWN_MAX: Final = 20


class BuildEndpoint(Protocol):
    """Makes the endpoint of one server."""

    def __call__(self, path: str, *, routes: Callable[[], RouteTable], alone: OneServer) -> Endpoint:
        """See `agent.server.endpoint.build_endpoint`."""
        ...


class _Single:
    """One server's table, made anew for each table of the mesh. A server that has left keeps its last one."""

    def __init__(self, server: Route, routes: Callable[[], RouteTable]) -> None:
        self.server = server
        self._routes = routes
        whole = routes()
        self._known = whole, table_of(whole, server)

    def table(self) -> RouteTable:
        whole = self._routes()
        if self._known[0] is not whole:
            self.server = whole.servers.get(self.server.public_name, self.server)
            self._known = whole, table_of(whole, self.server)
        return self._known[1]

    def about(self) -> Json:
        self.table()
        return about_in(self.server.definition)


@dataclass(slots=True)
class _Opened:
    """One server's endpoint. `shown`: the table that its clients know of. `ready`: it serves requests."""

    single: _Single
    endpoint: Endpoint
    shown: RouteTable
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class SingleServers:
    """The endpoints of single servers. `routes`: all that clients of `/mcp` see."""

    def __init__(self, routes: Callable[[], RouteTable], build: BuildEndpoint) -> None:
        self._routes = routes
        self._build = build
        self._endpoints: dict[str, _Opened] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._living: list[asyncio.Task[None]] = []
        self._closing = False

    def __repr__(self) -> str:
        return f"<SingleServers {sorted(self._endpoints)}>"

    def add_to(self, app: web.Application) -> None:
        """Register routes, lifespan and shutdown."""
        app.cleanup_ctx.append(self._cleanup_ctx)
        app.on_shutdown.append(self._on_shutdown)
        for path in (f"{SINGLE_PATH}{{name}}", f"{SINGLE_PATH}{{name}}/"):
            app.router.add_route("*", path, self._handle)

    def close_streams(self) -> None:
        """As `Endpoint.close_streams`."""
        self._closing = True
        for opened in self._endpoints.values():
            opened.endpoint.close_streams()

    def routes_changed(self) -> None:
        """There is a new route table: tell the clients of each server whose lists look different."""
        for opened in self._endpoints.values():
            before, after = opened.shown, opened.single.table()
            if after is not before:
                opened.shown = after
                opened.endpoint.notices.changed(changed_kinds(before, after))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        name, table = request.match_info["name"], self._routes()
        server = find_server(table, name)
        opened = self._endpoints.get(name if server is None else server.public_name)
        if opened is None:
            if server is None or self._tasks is None:
                return _unknown(name, table)
            opened = self._open(server, self._tasks)
        await opened.ready.wait()  # Not for its first request alone: others may come before its task has begun.
        return await opened.endpoint.handle(request)

    def _open(self, server: Route, tasks: asyncio.TaskGroup) -> "_Opened":
        single = _Single(server, self._routes)
        path = f"{SINGLE_PATH}{server.public_name}"
        alone = OneServer(server.public_name, single.about)
        endpoint = self._build(path, routes=single.table, alone=alone)
        opened = self._endpoints[server.public_name] = _Opened(single, endpoint, single.table())
        if self._closing:
            endpoint.close_streams()
        self._living.append(tasks.create_task(_live(endpoint, opened.ready), name=path))
        return opened

    async def _cleanup_ctx(self, _app: web.Application) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None
                for task in self._living:
                    task.cancel()

    async def _on_shutdown(self, app: web.Application) -> None:
        for opened in self._endpoints.values():
            await opened.endpoint.shut_down(app)


async def _live(endpoint: Endpoint, ready: asyncio.Event) -> None:
    async with asynccontextmanager(endpoint.sessions.cleanup_ctx)(web.Application()):
        ready.set()
        await endpoint.notices.run()


def _unknown(name: str, table: RouteTable) -> web.Response:
    if table.starting:
        message = "This node is starting, and does not know its servers yet; try again"
        return refuse(503, message, NOT_EXECUTED, headers={"Retry-After": "1"})
    names = sorted(route.public_name for route in table.servers.values() if route.listed)
    shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (", ..." if len(names) > NAMES_SHOWN_MAX else "")
    message = f"There is no server named {name[:64]!r} in the mesh; there are {shown or 'none'}"
    return refuse(404, message, INVALID_PARAMS)
