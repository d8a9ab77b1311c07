"""What clients declare reaches servers: every feature when they are listed, the client's own when they are called."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.client.protocol import Request
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import warm
from tests.integration.servers.capable_server import HTML, PAGE, UI, capable_server
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Front, http_app, serving
from tests.integration.servers.nodes import RunningNode, client
from tests.integration.servers.raw_session import RawSession, call, messages, raw_session

pytestmark = pytest.mark.usefixtures("warm_servers")

ROOT = Path(__file__).parents[2]
SHOWS_PAGES: Json = {"extensions": {UI: HTML}}
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"


@asynccontextmanager
async def scene(folder: Path, era: Era, transport: str, hops: int) -> AsyncIterator[RunningNode]:
    """The node that clients talk to."""
    async with AsyncExitStack() as stack:
        target: HttpTarget | StdioTarget
        if transport == "http":
            app = await stack.enter_async_context(http_app(capable_server()))
            refused = 400 if era is Era.LEGACY else None
            target = HttpTarget(f"{await stack.enter_async_context(serving(Front(app, refuse_modern=refused)))}/mcp")
        else:
            more = ("session",) if era is Era.LEGACY else ()
            target = StdioTarget(
                sys.executable, (*warm.COMMAND, "tests.integration.servers.capable_server", *more), cwd=str(ROOT)
            )
        spec = ServerSpec("capable", target, ServerScope.SERVICE)
        yield await stack.enter_async_context(front_of(folder, spec, hops=hops))


async def seen_by_server(session: RawSession) -> Json:
    async with session.post(call("capable__page")) as response:
        message = [message async for message in messages(response)][-1]
    known: Json = json.loads(message["result"]["content"][0]["text"])
    return known


async def stateless(url: str, method: str, capabilities: Json, **params: Any) -> Json:
    async with client(url, Era.MODERN) as mcp:
        meta = {CAPABILITIES_KEY: capabilities}
        return await mcp.request(Request.within(method, {**params, "_meta": meta}, timeout_s=15))


@pytest.mark.parametrize(
    ("era", "transport", "hops"),
    [(Era.LEGACY, "http", 2), (Era.MODERN, "http", 2), (Era.LEGACY, "stdio", 1), (Era.MODERN, "stdio", 1)],
)
async def test_a_server_is_listed_as_a_client_with_every_feature_sees_it(
    era: Era, transport: str, hops: int, tmp_path: Path
) -> None:
    async with scene(tmp_path, era, transport, hops) as node:
        listed = await stateless(node.url, "tools/list", {})
    tools = {tool["name"]: tool for tool in listed["tools"] if tool["name"].startswith("capable__")}
    assert tools["capable__page"]["_meta"]["ui"] == {"resourceUri": PAGE.replace("ui://", "ui://capable/")}
    # The only child of a session can ask nothing of all who share it.
    asked = (
        set() if (era, transport) == (Era.LEGACY, "stdio") else {"capable__form", "capable__model", "capable__where"}
    )
    assert tools.keys() == {"capable__page"} | asked


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", list(Era))
async def test_a_call_has_what_its_own_client_declared(era: Era, hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, era, "http", hops) as node:
        for declared in (SHOWS_PAGES, {}, {**SHOWS_PAGES, "elicitation": {}}, {"sampling": {}}):
            async with raw_session(node.url, "2025-11-25", **declared) as session:
                assert features(await seen_by_server(session)) == declared
            result = await stateless(node.url, "tools/call", declared, name="capable__page", arguments={})
            assert features(json.loads(result["content"][0]["text"])) == declared


def features(seen: Json) -> Json:
    """What was declared of what a node passes on."""
    return {name: value for name, value in seen.items() if name in ("extensions", "elicitation", "sampling", "roots")}
