"""A balancer that keeps each client on one server by a cookie, as those of HAProxy, nginx and the clouds do.

An aiohttp server in front of real ones. The one rule: what comes without its cookie goes to the next server in turn.
"""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "host", "keep-alive"})


@dataclass
class Balancer:
    """`took`: for each request its method, its cookies as sent, and the server that it went to."""

    servers: Sequence[str]
    url: str = ""
    took: list[tuple[str, str, int]] = field(default_factory=list)
    turns: "itertools.count[int]" = field(default_factory=itertools.count)

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        known = request.cookies.get("route", "")
        index = int(known) if known.isdecimal() else next(self.turns) % len(self.servers)
        self.took.append((request.method, request.headers.get("Cookie", ""), index))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method, self.servers[index] + request.path_qs, data=await request.read(), headers=headers
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            passed = web.StreamResponse(status=answer.status, headers=kept)
            if not known:
                passed.set_cookie("route", str(index), path="/", httponly=True, max_age=600)
            await passed.prepare(request)
            async for chunk in answer.content.iter_any():
                await passed.write(chunk)
        return passed


@asynccontextmanager
async def sticky_balancer(servers: Sequence[str]) -> AsyncIterator[Balancer]:
    """In front of servers, named by scheme, host and port."""
    balancer = Balancer(servers)
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{rest:.*}", balancer.pass_on)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    balancer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield balancer
    finally:
        await runner.cleanup()
