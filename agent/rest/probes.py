"""Liveness, readiness and metrics: what orchestrators and Prometheus ask.

Registered by the wiring. The one rule: `/healthz` says that the process lives and `/readyz` that it can serve; neither
depends on Consul, whose loss a node survives. A servers file that is refused is named there, and changes no status:
the node goes on with what it had.
"""

from collections.abc import Callable

from aiohttp import web

from agent.metrics import Metrics


class Probes:
    """Handlers; `state` says starting, ready or draining; `refresh` sets the gauges that mirror state."""

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
        return web.json_response({"status": "alive"} | self._faults())

    async def readiness(self, _request: web.Request) -> web.Response:
        """GET /readyz."""
        state = self._state()
        return web.json_response({"status": state} | self._faults(), status=200 if state == "ready" else 503)

    def _faults(self) -> dict[str, str]:
        return {} if self._metrics.servers_file_ok else {"servers_file": "refused"}

    async def scrape(self, request: web.Request) -> web.Response:
        """GET /metrics."""
        self._refresh()
        body, content_type = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
