"""Hosts an ASGI application (FastMCP's `http_app`) inside our aiohttp server.

The wiring adds `cleanup_ctx` and `on_shutdown` to the application and routes requests to `handle`, from behind the
security middlewares. The runner needs `handler_cancellation=True`, or a client that leaves is not noticed.

Theory: in the stateless protocol era a closed connection is the client's way to cancel, so the application runs in the
request's own task and is cancelled with it. In the session era a closed connection means nothing of that kind, so the
application runs in a task of ours, hears `http.disconnect`, and ends when it likes.
The one rule: nothing that the application does can keep the node from shutting down.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from aiohttp import web
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from agent.api.asgi_exchange import AsgiExchange, http_scope
from agent.api.asgi_lifespan import AsgiApp, AsgiLifespan, LifespanFailed
from agent.api.incoming import BODY_BYTES_MAX, read_body, refuse

log = logging.getLogger(__name__)

_LISTEN_METHOD = "subscriptions/listen"
_SSE_WATCHER = "_shutdown_watcher"  # sse_starlette.sse


class AsgiBridge:
    """One ASGI application at one path.

    `path` is the canonical path that the application itself was built with. `state_of` gives what middlewares learned
    about a request; it is merged into `scope["state"]`. Requests are served between the two halves of `cleanup_ctx`.
    """

    def __init__(
        self,
        asgi_app: AsgiApp,
        *,
        path: str,
        max_body_bytes: int = BODY_BYTES_MAX,
        state_of: Callable[[web.Request], dict[str, Any]] | None = None,
    ) -> None:
        self._app = asgi_app
        self._path = path
        self._max_body_bytes = max_body_bytes
        self._state_of = state_of
        self._tasks: asyncio.TaskGroup | None = None
        self._lifespan: AsgiLifespan | None = None
        self._detached: set[asyncio.Task[None]] = set()
        self._streams: set[AsgiExchange] = set()
        self._closing = False

    def __repr__(self) -> str:
        stage = "closing" if self._closing else "open" if self._tasks is not None else "idle"
        return f"<AsgiBridge {self._path} {stage} detached={len(self._detached)} streams={len(self._streams)}>"

    async def cleanup_ctx(self, _app: web.Application) -> AsyncIterator[None]:
        """For `app.cleanup_ctx`: run the application's lifespan around the server's.

        Raises LifespanFailed when the application does not start, which aborts the aiohttp server.
        """
        failure: LifespanFailed | None = None
        async with asyncio.TaskGroup() as tasks:
            lifespan = AsgiLifespan(self._app)
            life = tasks.create_task(lifespan.run(), name=f"asgi lifespan {self._path}")
            try:
                await lifespan.start()
            except LifespanFailed as exc:
                failure = exc  # Raised below: inside, the group would wrap it.
            else:
                self._lifespan, self._tasks = lifespan, tasks
                try:
                    yield
                finally:
                    await self._stop(lifespan)
            finally:
                life.cancel()  # Over by now, or deaf to what it was asked.
        if failure is not None:
            raise failure

    async def on_shutdown(self, _app: web.Application) -> None:
        """For `app.on_shutdown`: aiohttp calls it before it waits for requests in flight."""
        self.close_streams()

    def close_streams(self) -> None:
        """End standing streams (GET, `subscriptions/listen`) now and later; other requests go on. May be repeated."""
        self._closing = True
        for exchange in list(self._streams):
            exchange.end_stream()

    def start_task(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run something beside a request that is being served; it must not raise, and ends with the server."""
        assert self._tasks is not None
        return self._tasks.create_task(work, name=name)

    async def handle(self, request: web.Request, read: bytes | None = None) -> web.StreamResponse:
        """Serve one request; `read` is its body where somebody in front has read it with `read_body`.

        A body that was read with `await request.read()` is found by itself.
        """
        if self._tasks is None or self._lifespan is None:
            return refuse(503, "This node is starting or shutting down; try again")
        body = await read_body(request, self._max_body_bytes) if read is None else read
        if isinstance(body, web.Response):
            return body
        state = dict(self._lifespan.state)
        if self._state_of is not None:
            state.update(self._state_of(request))
        scope = http_scope(request, self._path, state, len(body))
        exchange = AsgiExchange(request, body)
        standing = request.method == "GET" or request.headers.get("Mcp-Method") == _LISTEN_METHOD
        if standing:
            self._streams.add(exchange)
            if self._closing:
                exchange.end_stream()
        try:
            if _is_modern(request):
                await self._app(scope, exchange.receive, exchange.send)
            else:
                await self._serve_detached(self._tasks, scope, exchange)
        finally:
            self._streams.discard(exchange)
        return await exchange.finish()

    async def _serve_detached(self, tasks: asyncio.TaskGroup, scope: Any, exchange: AsgiExchange) -> None:
        """Run the application in a task of ours, so that a client that leaves does not cancel it."""
        name = f"asgi {exchange.request.method} {self._path}"
        task = tasks.create_task(self._serve_kept(scope, exchange), name=name)
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            exchange.client_gone()
            raise

    async def _serve_kept(self, scope: Any, exchange: AsgiExchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as exc:  # one request's failure must not take the group, and so the node, down
            exchange.failure = exc
            if exchange.ended.is_set():  # nobody is there to whom `finish` could raise it
                log.exception("MCP request failed after its client had gone")

    async def _stop(self, lifespan: AsgiLifespan) -> None:
        self.close_streams()
        self._tasks = None
        if reason := await lifespan.stop():
            log.warning("MCP application did not stop cleanly", extra={"path": self._path, "reason": reason})
        leftovers = list(self._detached)
        for task in leftovers:
            task.cancel()
        if leftovers:
            log.info("MCP requests cut off at shutdown", extra={"count": len(leftovers)})
        _end_library_watchers()


def _end_library_watchers() -> None:
    """End the endless task that sse-starlette starts with its first stream and leaves to the loop.

    It looks for uvicorn's shutdown, which never comes here. Another bridge's streams do not miss it.
    """
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "") == _SSE_WATCHER:
            task.cancel()


def _is_modern(request: web.Request) -> bool:
    # The SDK takes every version that is not of the handshake era for the stateless one; so must we.
    version = request.headers.get("MCP-Protocol-Version")
    return version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
