"""The oracles of strict.py: real strict clients accept a plain list and refuse the whole of one with a bad entry."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiohttp import web

from tests.outside.installing import NotInstalled
from tests.outside.strict import Verdict, verdicts
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]
GOOD = {"name": "good", "inputSchema": {"type": "object"}}
BAD = {"name": "bad", "description": None, "inputSchema": {"type": "object"}}
SERVER = {"capabilities": {"tools": {}, "resources": {}, "prompts": {}}, "serverInfo": {"name": "hand", "version": "1"}}
CACHE = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}


async def answer(request: web.Request) -> web.Response:
    """A server of both eras, written by hand, whose tools are the application's."""
    message = await request.json()
    if "id" not in message:
        return web.Response(status=202)
    lists: dict[str, dict[str, Any]] = {
        "initialize": {"protocolVersion": "2025-11-25", **SERVER},
        "server/discover": {"supportedVersions": ["2026-07-28"], **SERVER},
        "tools/list": {"tools": request.app[TOOLS]},
        "resources/list": {"resources": [{"name": "one", "uri": "hand://one"}]},
        "resources/templates/list": {"resourceTemplates": []},
        "prompts/list": {"prompts": []},
    }
    result = {**lists[message["method"]], **CACHE}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})


TOOLS: web.AppKey[list[dict[str, Any]]] = web.AppKey("tools", list)


@pytest.fixture
async def serve() -> AsyncGenerator[Any, None]:
    """Serve a list of tools; yields a function that returns the address."""
    runners = []

    async def start(tools: list[dict[str, Any]]) -> str:
        application = web.Application()
        application[TOOLS] = tools
        application.router.add_post("/mcp", answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        runners.append(runner)
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{port}/mcp"

    yield start
    for runner in runners:
        await runner.cleanup()


async def ask(url: str) -> list[Verdict]:
    try:
        return await verdicts(url)
    except NotInstalled as exc:
        pytest.skip(f"NO STRICT CLIENTS: {exc}")


async def test_strict_clients_accept_plain_lists_and_show_their_names(serve: Any) -> None:
    found = await ask(await serve([GOOD]))
    assert len(found) == 12
    assert [one for one in found if not one.accepted] == []
    assert {one.names for one in found if one.listed == "tools"} == {("good",)}
    assert {one.names for one in found if one.listed == "resources"} == {("hand://one",)}


async def test_typescript_clients_refuse_all_tools_for_a_null_description(serve: Any) -> None:
    found = await ask(await serve([GOOD, BAD]))
    refused = {one.client: one.text for one in found if not one.accepted}
    assert refused.keys() == {"@modelcontextprotocol/client==2.4.0", "@modelcontextprotocol/sdk==1.32.2"}
    assert all("description" in text for text in refused.values())
