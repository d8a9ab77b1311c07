"""The least that a hop can cost with aiohttp: `python -m bench.byte_hop PORT TARGET_URL`.

Takes a request's bytes, sends them on over one pooled client, and returns the answer's bytes. It routes nothing, checks
nothing and renames nothing; a node's hop is measured against it.
"""

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

PASSED = ("Content-Type", "Accept", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name")
SESSION = web.AppKey("session", aiohttp.ClientSession)


def main() -> None:
    """Serve until killed."""
    port, target = int(sys.argv[1]), sys.argv[2]

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name: request.headers[name] for name in PASSED if name in request.headers}
        async with request.app[SESSION].post(target, data=body, headers=headers) as answer:
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type or "application/json"
            )

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as client:
            app[SESSION] = client
            yield

    app = web.Application(client_max_size=8 << 20)
    app.cleanup_ctx.append(session)
    app.add_routes([web.post("/mcp", handle), web.get("/healthz", health)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
