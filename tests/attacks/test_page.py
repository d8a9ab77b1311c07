"""The page's login and its stream as attackers find them: other pages of the browser, narrow tokens, odd paths."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import pytest

from agent.rest.logins import PAGE_HEADER
from tests.attacks.clients import entry, token_of, write_tokens
from tests.e2e.running import RunningNode, nodes_below, start_node

pytestmark = pytest.mark.e2e
EVENTS = "/api/v1/mcp/events"
PAGE = {PAGE_HEADER: "1"}


@dataclass
class Page:
    """A node with tokens."""

    node: RunningNode
    tokens: Path

    async def cookie(self, client: aiohttp.ClientSession, name: str) -> str:
        """Log in with the token of that name; the value of the cookie."""
        headers = {"Authorization": f"Bearer {token_of(name)}"}
        async with client.post(f"{self.node.base}/ui/login", headers=headers) as answer:
            assert answer.status == 200
            [morsel] = answer.cookies.values()
            assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Strict", "/")
            return f"{morsel.key}={morsel.value}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    allowed = {"reader": entry("reader", "read"), "caller": entry("caller", "mcp"), "gone": entry("gone", "read")}
    tokens = write_tokens(folder / "tokens.json", allowed)

    async def start() -> RunningNode:
        return await start_node("front", folder, MESH_DISCOVERY="off", MESH_TOKENS_FILE=str(tokens))

    with nodes_below(folder):
        yield Page(asyncio.run(start()), tokens)


async def status_of(page: Page, path: str, **headers: str) -> int:
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
        client.get(f"{page.node.base}{path}", headers=headers) as answer,
    ):
        return answer.status


async def test_the_cookie_of_a_login_is_nothing_without_the_header_that_only_our_page_sends(page: Page) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        cookie = await page.cookie(client, "reader")
    assert await status_of(page, "/api/v1/mcp/status", Cookie=cookie, **PAGE) == 200
    assert await status_of(page, "/api/v1/mcp/status", Cookie=cookie) == 401
    assert await status_of(page, "/api/v1/mcp/status", **PAGE) == 401
    assert await status_of(page, "/api/v1/mcp/status", Cookie=f"{cookie}x", **PAGE) == 401


async def test_another_page_may_not_send_that_header(page: Page) -> None:
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": PAGE_HEADER}
    async with aiohttp.ClientSession() as client:
        for origin in ("http://localhost:3000", "http://evil.example"):
            headers = {"Origin": origin, **asked}
            async with client.options(f"{page.node.base}/api/v1/mcp/status", headers=headers) as answer:
                assert PAGE_HEADER.lower() not in answer.headers.get("Access-Control-Allow-Headers", "").lower()


async def test_a_login_opens_what_its_token_opens_and_no_more(page: Page) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        reader, caller = await page.cookie(client, "reader"), await page.cookie(client, "caller")
    assert await status_of(page, EVENTS, Cookie=caller, **PAGE) == 403
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        url = f"{page.node.base}/api/v1/mcp/peers"
        body = {"peer_name": "b", "peer_url": "http://127.0.0.1:9/mcp"}
        async with client.post(url, json=body, headers={"Cookie": reader, **PAGE}) as answer:
            assert answer.status == 403
    assert await status_of(page, EVENTS) == 401


async def test_the_stream_of_a_revoked_token_ends(page: Page) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        headers = {"Cookie": await page.cookie(client, "gone"), **PAGE}
        async with client.get(f"{page.node.base}{EVENTS}", headers=headers) as stream:
            while not (line := await stream.content.readline()).startswith(b"data: "):
                assert line, "it ended before its first event"
            assert orjson.loads(line[5:])["first"] is True
            write_tokens(page.tokens, {"reader": entry("reader", "read"), "caller": entry("caller", "mcp")})
            async with asyncio.timeout(20):
                while await stream.content.readline():
                    pass
    assert await status_of(page, "/api/v1/mcp/status", **headers) == 401


@pytest.mark.parametrize(
    "path", ["/ui/../pyproject.toml", "/ui/%2e%2e%2fhosts", "/ui/feed.py", "/ui/..", "/ui/index.html/x", "/ui//page.js"]
)
async def test_the_page_has_no_files_but_its_own(page: Page, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", page.node.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
    finally:
        writer.close()
    assert status in (401, 404)


async def test_its_files_are_for_all_who_name_our_host_and_load_nothing_from_elsewhere(page: Page) -> None:
    async with aiohttp.ClientSession() as client, client.get(f"{page.node.base}/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert await status_of(page, "/", Host="evil.example") == 421
