"""A way to a real Consul on which chosen answers come too late, after the request was carried out, or was lost.

Used by the tests of slow agents. The one rule: all other requests pass unchanged, and at once, unless the whole way is
slow.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp import web

from discovery.consul.environment import ConsulSettings
from tests.ports import free_ports

_KEPT = ("X-Consul-Token", "X-Consul-Index", "Content-Type")


@dataclass
class LateAnswers:
    """`held`: parts of the API, as `PUT agent/service`, whose answers are held; `lost`: these do not arrive at all.

    `takes_s`: how long each request is on its way; one that is given up meanwhile does not arrive. `arrived`: those
    that did.
    """

    upstream: str
    settings: ConsulSettings
    held: set[str] = field(default_factory=set)
    lost: bool = False
    takes_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)
    session: aiohttp.ClientSession | None = None

    def count(self, part: str) -> int:
        """How many of these there were."""
        return sum(one.startswith(part) for one in self.requests)

    async def handle(self, request: web.Request) -> web.Response:
        """Pass one request on."""
        said = f"{request.method} {request.path.removeprefix('/v1/')}"
        self.requests.append(said)
        await asyncio.sleep(self.takes_s)
        is_held = any(said.startswith(part) for part in self.held)
        answer = web.Response(status=500, text="lost")
        if not (is_held and self.lost):
            answer = await self._passed_on(request)
        if is_held:
            await asyncio.Event().wait()
        return answer

    async def _passed_on(self, request: web.Request) -> web.Response:
        assert self.session is not None
        headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
        body = await request.read()
        url = f"{self.upstream}{request.path_qs}"
        async with self.session.request(request.method, url, data=body, headers=headers) as answer:
            self.arrived.append(f"{request.method} {request.path.removeprefix('/v1/')}")
            kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


@asynccontextmanager
async def late_answers(settings: ConsulSettings) -> AsyncGenerator[LateAnswers, None]:
    """Run one before the Consul of these settings."""
    port = free_ports(1)[0]
    late = LateAnswers(settings.url, replace(settings, url=f"http://127.0.0.1:{port}"))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", late.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    async with aiohttp.ClientSession() as session:
        late.session = session
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield late
        finally:
            await runner.cleanup()
