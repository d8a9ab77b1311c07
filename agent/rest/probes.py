"""Liveness, readiness and metrics, for orchestrators and Prometheus; and the deadline of every answer's writing.

Registered by the wiring. The one rule: `/healthz` says that the process lives and `/readyz` that it can serve; neither
depends on Consul, whose loss a node survives.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.metrics import Metrics
from agent.server.asgi_exchange import WRITE_TIMEOUT_S, drop_client

# Half of what a transport holds before it makes a writer wait (asyncio's 64 KiB), which leaves room for the headers.
_TAKEN_AT_ONCE_BYTES_MAX: Final = 32 << 10


class Probes:
    """Handlers; `state` returns starting, ready or draining; `refresh` sets the gauges that mirror state."""

    def __init__(self, *, state: Callable[[], str], metrics: Metrics, refresh: Callable[[], None]) -> None:
        self._state = state
        self._metrics = metrics
        self._refresh = refresh

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/healthz", self.health),
            web.get("/readyz", self.readiness),
            web.get("/metrics", self.scrape),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """GET /healthz."""
        return web.json_response({"status": "alive"})

    async def readiness(self, _request: web.Request) -> web.Response:
        """GET /readyz."""
        state = self._state()
        return web.json_response({"status": state}, status=200 if state == "ready" else 503)

    async def scrape(self, _request: web.Request) -> web.Response:
        """GET /metrics."""
        self._refresh()
        body, content_type = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})


@web.middleware
async def write_deadline_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Drop a client that takes none of its answer for `WRITE_TIMEOUT_S`."""
    response = await handler(request)
    if response.prepared or _is_taken_at_once(request, response):
        return response
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.prepare(request)
            await response.write_eof()
    except ConnectionError:
        pass  # aiohttp meets it again, and handles it.
    except TimeoutError:
        drop_client(request)
    return response


def _is_taken_at_once(request: web.Request, response: web.StreamResponse) -> bool:
    transport, length = request.transport, response.content_length
    if not isinstance(transport, asyncio.WriteTransport):
        return True
    if length is None or length > _TAKEN_AT_ONCE_BYTES_MAX:
        return False
    # Bytes of earlier answers that are still there were not taken by the reader.
    return transport.get_write_buffer_size() == 0
