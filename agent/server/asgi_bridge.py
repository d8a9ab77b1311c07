"""Hosts an ASGI application (FastMCP's `http_app`) inside our aiohttp server.

The wiring adds `cleanup_ctx` and `on_shutdown` to the application and routes requests to `handle`, from behind the
security middlewares. The runner needs `handler_cancellation=True`, or a client that leaves is not noticed.

Only stateless requests come here, where a closed connection is the client's way to cancel: the application runs in the
request's own task and is cancelled with it. The one rule: nothing that the application does can keep the node from
shutting down.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from aiohttp import web

from agent.server.asgi_exchange import AsgiExchange, http_scope
from agent.server.asgi_lifespan import AsgiApp, AsgiLifespan, LifespanFailed
from agent.server.request import BODY_BYTES_MAX, read_body, refuse

log = logging.getLogger(__name__)

_LISTEN_METHOD = "subscriptions/listen"


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
        self._streams: set[AsgiExchange] = set()
        self._closing = False

    def __repr__(self) -> str:
        stage = "closing" if self._closing else "open" if self._tasks is not None else "idle"
        return f"<AsgiBridge {self._path} {stage} streams={len(self._streams)}>"

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
        """End standing streams (`subscriptions/listen`) now and later; other requests go on. May be repeated."""
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
        if request.headers.get("Mcp-Method") == _LISTEN_METHOD:
            self._streams.add(exchange)
            if self._closing:
                exchange.end_stream()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._streams.discard(exchange)
        return await exchange.finish()

    async def _stop(self, lifespan: AsgiLifespan) -> None:
        self.close_streams()
        self._tasks = None
        if reason := await lifespan.stop():
            log.warning("MCP application did not stop cleanly", extra={"path": self._path, "reason": reason})
