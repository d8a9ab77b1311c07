"""A small web site on the loopback, for servers that fetch: `/page.html`, and `/slow/<seconds>`, which waits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.ports import free_port

PAGE = "<html><head><title>Outside</title></head><body><h1>Outside</h1><p>A page of the loopback.</p></body></html>"


@asynccontextmanager
async def site() -> AsyncGenerator[str, None]:
    """Yield its address, without a slash at the end."""
    application = web.Application()
    application.router.add_get("/page.html", _page)
    application.router.add_get("/slow/{seconds}", _slow)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def _page(_request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def _slow(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.match_info["seconds"]))
    return await _page(request)
