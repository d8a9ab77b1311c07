"""The fast path in front of an aiohttp application: every connection begins on it, and aiohttp's server has the rest.

Made by `agent.app.drain.runner_of`. The one rule: for aiohttp's runner it is the application's server, so that one
shutdown ends the connections of both.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Iterator
from functools import partial
from operator import itemgetter
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from agent import clock
from agent.server.fast_path.answers import Answers, CommonLines
from agent.server.fast_path.connection import Connection, Elsewhere, FastRequest, Handler, HandlerOf, Unwaited
from agent.server.fast_path.heads import HEADS_MAX, Beginning, Heads
from agent.server.fast_path.other_requests import OtherRequests

SWEEP_EVERY_S: Final = 10.0


class Direct:
    """Serves requests whose way is known by their heads; this one knows none."""

    # What a derived class is given is not used here.
    def start(self, connection: Connection, beginning: Beginning, body: bytes) -> Unwaited | None:  # noqa: ARG002 - as above
        """Serve a request without a task; None where it needs one."""
        return None

    def answer(self, request: FastRequest) -> Awaitable[web.StreamResponse] | None:  # noqa: ARG002 - as above
        """Answer a request without the middlewares; None for one that has to pass them."""
        return None

    def go_on(self, request: FastRequest, handler_of: HandlerOf) -> Awaitable[web.StreamResponse]:
        """Answer a request that was started and needs a task after all."""
        return handler_of(request)(request)


class FastServer:
    """See the module. Like `web.Server`, a factory of protocols."""

    def __init__(
        self, app: web.Application, server: web.Server, path: str, common: CommonLines, direct: Direct
    ) -> None:
        """`direct`: serves requests whose way is known, without the middlewares."""
        self.heads = Heads(path)
        self.answers = Answers(common)
        self.connections: set[Connection] = set()
        self.elsewhere: Elsewhere | None = None
        self._left: set[asyncio.Task[None]] = set()
        self._direct = direct
        self.start = direct.start
        self._app = app
        self._server = server
        self._routes: dict[str, tuple[UrlMappingMatchInfo, Handler]] = {}
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._swept)

    def __repr__(self) -> str:
        return f"<FastServer {len(self.connections)} connections, {len(self._server.connections)} with aiohttp>"

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self.connections) + len(self._server.connections)

    def __bool__(self) -> bool:
        """Always: aiohttp's runner shuts down a server that is true, and one without connections may have requests."""
        return True

    def addresses(self) -> Iterator[str]:
        """The other side's address of each connection."""
        transports = (one.transport for one in (*self.connections, *self._server.connections))
        peers = (transport.get_extra_info("peername") for transport in transports if transport is not None)
        return (str(peer[0]) for peer in peers if isinstance(peer, tuple) and peer)

    def close_idle(self, count: int, idle_s: float) -> int:
        """Close up to `count` connections that have been idle for so long, the longest first; returns how many."""
        before_s = clock.now_s() - idle_s
        own = ((since_s, one.end) for one in self.connections if (since_s := one.idle_since_s) is not None)
        others = (
            (since_s, one.force_close)
            for one in self._server.connections
            if (since_s := _idle_since_s(one)) is not None
        )
        idle = heapq.nsmallest(count, (pair for pair in (*own, *others) if pair[0] <= before_s), key=itemgetter(0))
        for _, close in idle:
            close()
        return len(idle)

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a new connection."""
        return Connection(self)

    def left(self, request: "asyncio.Task[None]") -> None:
        """As `agent.server.fast_path.connection.Owner`; it may have something to end, as a write to the disk."""
        self._left.add(request)
        request.add_done_callback(self._left.discard)

    def other_protocol(self) -> RequestHandler:
        """See `agent.server.fast_path.connection.Owner`."""
        # As the server itself makes them, which has no place for a class of one's own.
        loop, options = asyncio.get_running_loop(), self._server._kwargs  # noqa: SLF001 - see above
        return OtherRequests(self._server, loop=loop, **options)

    def handle(self, request: FastRequest) -> Awaitable[web.StreamResponse]:
        """Call the application's handler for a request, with its middlewares around it."""
        route = self._routes.get(request.head.message.path)
        if route is None:
            return self._handle_first(request)
        request.take_route(route[0])
        return self._direct.answer(request) or route[1](request)

    def go_on(self, request: FastRequest, handler_of: HandlerOf) -> Awaitable[web.StreamResponse]:
        """See `agent.server.fast_path.connection.Owner`."""
        request.take_route(request.head.route)  # What the handler begins may answer before this request's task.
        return self._direct.go_on(request, handler_of)

    async def _handle_first(self, request: FastRequest) -> web.StreamResponse:
        route = await self._resolved(request)
        if len(self._routes) >= HEADS_MAX:
            self._routes.clear()
        if route[0].http_exception is None:  # Else it holds its one answer.
            self._routes[request.head.message.path] = route
        request.take_route(route[0])
        return await route[1](request)

    def pre_shutdown(self) -> None:
        """As `web.Server`: close what is idle, and the rest with its answer."""
        for connection in list(self.connections):
            connection.end()
        self._server.pre_shutdown()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as `web.Server`
        """As `web.Server`: wait for the requests under way, then cut them off."""
        self._sweep.cancel()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._finished(timeout), name="shutdown of the fast path")
            both.create_task(self._server.shutdown(timeout), name="shutdown of aiohttp's connections")

    async def _finished(self, timeout_s: float | None) -> None:
        for connection in list(self.connections):
            connection.leave()
        under_way = [connection.request for connection in self.connections if connection.request is not None]
        left, self._left = self._left, set()  # Waited for once: a disk that hangs does not hold up what follows.
        if under_way or left:
            await asyncio.wait([*under_way, *left], timeout=timeout_s)
        for connection in list(self.connections):
            connection.abort()
        if under_way:
            await asyncio.wait(under_way)

    async def _resolved(self, request: web.Request) -> tuple[UrlMappingMatchInfo, Handler]:
        found = await self._app.router.resolve(request)
        assert isinstance(found, UrlMappingMatchInfo)
        found.add_app(self._app)
        found.freeze()
        handler = found.handler
        for middleware in reversed(self._app.middlewares):
            handler = partial(middleware, handler=handler)
        return found, handler

    def _swept(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._swept)
        now_s = clock.now_s()
        for connection in list(self.connections):
            connection.sweep(now_s)


def _idle_since_s(handler: RequestHandler) -> float | None:
    """Since when a connection of aiohttp's has waited for a request; None where it does not.

    aiohttp itself says only when it would close it.
    """
    waiter = handler._waiter  # noqa: SLF001 - see above; tests/unit/app/test_first_bytes.py holds it
    if waiter is None or waiter.done():
        return None
    return handler._next_keepalive_close_time - handler.keepalive_timeout  # noqa: SLF001 - see above
