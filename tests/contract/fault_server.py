"""A Consul that misbehaves as a test tells it to: the answer to every health query is scripted.

Used by the fault tests of this folder. The one rule: registering, heartbeats and lists work as they should unless the
script says otherwise, so that a test shows the one fault that it is about.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from discovery.consul.environment import ConsulSettings
from tests.ports import free_ports


class FaultServer:
    """Answers health queries with whatever `script` returns for the n-th of them (from 1)."""

    def __init__(self, script: Callable[[int, web.Request], web.Response]) -> None:
        self.script = script
        self.queries: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        self.registered: dict[str, Any] = {}
        self.port = free_ports(1)[0]

    @property
    def settings(self) -> ConsulSettings:
        """How to reach it."""
        return ConsulSettings(url=f"http://127.0.0.1:{self.port}", token="t0ken", namespace="team")

    async def health(self, request: web.Request) -> web.Response:
        """Answer one health query by the script."""
        self.queries.append(dict(request.query))
        self.tokens.append(request.headers.get("X-Consul-Token"))
        return self.script(len(self.queries), request)

    async def register(self, request: web.Request) -> web.Response:
        """Accept any registration."""
        body = orjson.loads(await request.read())
        self.registered[body["ID"]] = {"Service": body["Name"], **body}
        return web.Response()

    async def deregister(self, request: web.Request) -> web.Response:
        """Accept any deregistration."""
        self.registered.pop(request.match_info["service_id"], None)
        return web.Response()

    async def services(self, _request: web.Request) -> web.Response:
        """List what was accepted."""
        return web.json_response(self.registered)

    async def leader(self, _request: web.Request) -> web.Response:
        """Lead."""
        return web.json_response("127.0.0.1:8300")

    async def beat(self, _request: web.Request) -> web.Response:
        """Accept any heartbeat."""
        return web.Response()


@asynccontextmanager
async def fault_server(script: Callable[[int, web.Request], web.Response]) -> AsyncGenerator[FaultServer, None]:
    """Run a fault server on a free loopback port."""
    server = FaultServer(script)
    async with serving(server):
        yield server


@asynccontextmanager
async def serving(server: FaultServer, unix_path: Path | None = None) -> AsyncGenerator[None, None]:
    """Serve on the server's port, or on a unix socket."""
    app = web.Application()
    app.router.add_get("/v1/health/service/{name}", server.health)
    app.router.add_get("/v1/agent/services", server.services)
    app.router.add_get("/v1/status/leader", server.leader)
    app.router.add_put("/v1/agent/service/register", server.register)
    app.router.add_put("/v1/agent/service/deregister/{service_id}", server.deregister)
    app.router.add_put("/v1/agent/check/pass/{check_id}", server.beat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", server.port) if unix_path is None else web.UnixSite(runner, str(unix_path))
    await site.start()
    try:
        yield
    finally:
        await runner.cleanup()


def rows_answer(*service_ids: str, index: int = 10) -> web.Response:
    """A proper answer with one passing instance per service ID."""
    rows = [
        {
            "Node": {"Node": "n1", "Address": "127.0.0.1", "Datacenter": "dc1"},
            "Service": {"ID": service_id, "Port": 8000, "Address": "", "Meta": {}, "Tags": []},
            "Checks": [{"Status": "passing"}],
        }
        for service_id in service_ids
    ]
    return web.Response(
        body=orjson.dumps(rows), content_type="application/json", headers={"X-Consul-Index": str(index)}
    )
