"""Servers with sessions behind a balancer that tells them apart by its cookie: each session keeps its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agent.client.connect import open_client
from agent.client.protocol import Request
from agent.model import Era, HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.client_scripts import CALL, modern
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Front, Seen, http_app, rpc_result, scripted, serving
from tests.integration.servers.raw_session import raw_session
from tests.integration.servers.session_asking_server import Diary, session_asking_server
from tests.integration.servers.sse_hosting import sse_served
from tests.integration.servers.sticky_balancer import Balancer, sticky_balancer
from tests.integration.test_session_elicitation import Human, together, words
from tests.waiting import UNREPAIRED_S


@asynccontextmanager
async def scene(*, by_sse: bool = False) -> AsyncIterator[Balancer]:
    """A balancer in front of two servers that know nothing of each other's sessions."""
    async with AsyncExitStack() as stack:
        bases = []
        for _ in range(2):
            if by_sse:
                url = await stack.enter_async_context(sse_served(session_asking_server(Diary())))
                bases.append(url.removesuffix("/sse"))
                continue
            app = await stack.enter_async_context(http_app(session_asking_server(Diary())))
            bases.append(await stack.enter_async_context(serving(Front(app, refuse_modern=400))))
        yield await stack.enter_async_context(sticky_balancer(bases))


@pytest.mark.parametrize("path", ["mcp", "sse"])
async def test_each_session_stays_on_its_server_by_a_cookie_of_its_own(path: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(scene(by_sse=path == "sse"))
        spec = ServerSpec("kit", HttpTarget(f"{balancer.url}/{path}"), ServerScope.SERVICE)
        front = await stack.enter_async_context(front_of(tmp_path, spec))
        clients = [
            await stack.enter_async_context(answering_client(front.url, Era.LEGACY, Human(f"h{n}"))) for n in range(4)
        ]
        async with asyncio.timeout(UNREPAIRED_S):
            for _ in range(3):
                orders = await together(*(client.call_tool("kit__order", {"what": "tea"}) for client in clients))
                assert all(f"for h{n}-" in words(order) for n, order in enumerate(orders))
    by_cookie: dict[str, set[int]] = {}
    for _, cookie, server in balancer.took:
        by_cookie.setdefault(cookie, set()).add(server)
    assert by_cookie.pop("") == {0, 1}, "every session begins without a cookie, in its turn"
    assert by_cookie == {"route=0": {0}, "route=1": {1}}


async def test_a_clients_own_cookies_go_to_no_server_and_a_servers_to_no_client(tmp_path: Path) -> None:
    async with scene() as balancer:
        spec = ServerSpec("kit", HttpTarget(f"{balancer.url}/mcp"), ServerScope.SERVICE)
        async with front_of(tmp_path, spec) as front, raw_session(front.url) as session:
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "kit__pid"}}
            async with session.post(message, Cookie="route=7; secret=canary") as response:
                assert response.status == 200
                assert "result" in await response.text()
                assert "Set-Cookie" not in response.headers
    assert {cookie for _, cookie, _ in balancer.took} <= {"", "route=0", "route=1"}


async def test_links_to_one_server_do_not_share_its_cookies_and_a_configured_one_stays() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        if request.body.get("method") != "tools/call":
            return await modern(lambda _: None)(request)
        result = rpc_result(request, {"cookie": request.headers.get("cookie", "")})
        return result.replace(
            b"\r\n\r\n", b"\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Path=/mcp/x\r\n\r\n", 1
        ), True

    call = Request.within("tools/call", CALL, timeout_s=10)
    async with scripted(answer) as script, AsyncExitStack() as stack:
        configured = HttpTarget(script.url, headers=(("Cookie", "mine=0"),))
        first, second = [
            await stack.enter_async_context(open_client(target)) for target in (configured, HttpTarget(script.url))
        ]
        assert [(await first.request(call))["cookie"] for _ in range(2)] == ["mine=0", "mine=0; a=1"]
        assert [(await second.request(call))["cookie"] for _ in range(2)] == ["", "a=1"]
