"""Redirects of real frameworks in front of real servers: a slash at the end is followed, anything else is an error."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from fastmcp import FastMCP
from starlette.applications import Starlette
from starlette.routing import Mount

from agent.client.connect import McpClient, open_client
from agent.client.http.pool import RequestBody
from agent.client.protocol import Request
from agent.errors import CallOutcomeUnknown, ProtocolBroken
from agent.model import Era, HttpTarget, Json
from tests.integration.servers.hosting import Front, serving
from tests.integration.servers.raw_http import pool_of
from tests.waiting import UNREPAIRED_S


def kit() -> FastMCP:
    server: FastMCP = FastMCP("kit")

    @server.tool(output_schema=None)
    async def echo(word: str) -> str:
        return word

    return server


async def echo(client: McpClient, word: str) -> str:
    params: Json = {"name": "echo", "arguments": {"word": word}}
    result = await client.request(Request.within("tools/call", params, timeout_s=10))
    return str(result["content"][0]["text"])


@asynccontextmanager
async def mounted(seen: list[dict[str, str]], *, modern: bool) -> AsyncIterator[str]:
    """FastMCP under a Starlette mount, which sends `/mcp` to `/mcp/` with 307; gives the URL without the slash."""
    app = kit().http_app(path="/")
    async with app.router.lifespan_context(app):
        front = Front(Starlette(routes=[Mount("/mcp", app=app)]), None if modern else 400)
        front.seen = seen
        async with serving(front) as base:
            yield f"{base}/mcp"


@pytest.mark.parametrize("era", list(Era))
async def test_a_slash_that_a_framework_wants_is_added_once_and_remembered(era: Era) -> None:
    seen: list[dict[str, str]] = []
    async with (
        mounted(seen, modern=era is Era.MODERN) as url,
        asyncio.timeout(UNREPAIRED_S),
        open_client(HttpTarget(url)) as client,
    ):
        assert client.server_info.era is era
        before = len(seen)
        assert [await echo(client, str(n)) for n in range(3)] == ["0", "1", "2"]
        assert len(seen) == before + 3


@asynccontextmanager
async def redirecting(location: str, status: int, took: list[tuple[str, str, bytes]]) -> AsyncIterator[str]:
    """An aiohttp server that redirects `/mcp` and takes everything else; gives the URL of `/mcp`."""

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": location} if location else {})

    async def take(request: web.Request) -> web.Response:
        took.append((request.method, request.path_qs, await request.read()))
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/mcp", redirect)
    app.router.add_route("*", "/{rest:.*}", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [307, 308])
async def test_method_body_and_query_are_kept_over_the_slash(status: int) -> None:
    took: list[tuple[str, str, bytes]] = []
    async with redirecting("/mcp/?key=k", status, took) as url, pool_of(url + "?key=k") as pool:
        body = RequestBody(b'{"a": 1}')
        assert (await pool.post(body, {})).status == 200
        assert body.sent
        (await pool.get({"Accept": "text/event-stream"})).close()
        await pool.delete({})
    assert took == [("POST", "/mcp/?key=k", b'{"a": 1}'), ("GET", "/mcp/?key=k", b""), ("DELETE", "/mcp/?key=k", b"")]


@pytest.mark.parametrize(
    ("location", "status", "words"),
    [
        ("/other", 308, r"a redirect to http://127\.0\.0\.1:\d+/other, not followed; if that is the server, configure"),
        ("/mcp/", 302, r"HTTP 302, a redirect to http://127\.0\.0\.1:\d+/mcp/, not followed"),
        ("http://127.0.0.2/mcp/", 307, r"to http://127\.0\.0\.2/mcp/, not followed"),
        ("https://user:canary@h.example/in?token=canary", 307, r"to https://h\.example/in, not followed"),
        ("", 307, "does not say where to"),
    ],
)
async def test_any_other_redirect_says_where_to_and_nothing_is_sent_there(
    location: str, status: int, words: str
) -> None:
    took: list[tuple[str, str, bytes]] = []
    async with redirecting(location, status, took) as url:
        with pytest.raises(ProtocolBroken, match=words) as caught:
            async with open_client(HttpTarget(url)):
                pass
    assert "canary" not in str(caught.value)
    assert not took


async def test_a_server_that_redirects_to_and_fro_is_not_followed_for_ever() -> None:
    async def away(request: web.Request) -> web.Response:
        other = request.path.rstrip("/") + ("" if request.path.endswith("/") else "/")
        return web.Response(status=307, headers={"Location": other})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", away)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with asyncio.timeout(UNREPAIRED_S):
            with pytest.raises((ProtocolBroken, CallOutcomeUnknown), match="not followed"):
                async with open_client(HttpTarget(f"http://127.0.0.1:{runner.addresses[0][1]}/mcp")):
                    pass
    finally:
        await runner.cleanup()
