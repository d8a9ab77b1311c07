"""Updates of resources of every kind of server, behind one node and behind two, for clients of both eras."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.subscriptions import ResourceUpdated, Subscription, listen
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceUpdatedNotification

from agent.client.protocol import Request
from agent.model import Era, HttpTarget, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import warm, watched_server
from tests.integration.servers.hops import front_of
from tests.integration.servers.nodes import RunningNode, client, served
from tests.integration.servers.watched_server import Watched
from tests.waiting import UNREPAIRED_S, promised_within

pytestmark = pytest.mark.usefixtures("warm_servers")

KINDS = ["modern http", "legacy http", "modern stdio", "legacy stdio"]
# What the promise to clients is; nothing here takes a tenth of it on an idle machine.
WITHIN_S = 2.0


@asynccontextmanager
async def backend(kind: str) -> AsyncIterator[ServerSpec]:
    """A server `kit` of one kind."""
    era, transport = kind.split()
    if transport == "stdio":
        target = StdioTarget(sys.executable, (*warm.COMMAND, watched_server.__name__, era), cwd=str(warm.ROOT))
        yield ServerSpec("kit", target, ServerScope.SERVICE)
        return
    async with served(Watched(legacy=era == "legacy").server) as url:
        yield ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)


async def call(node: RunningNode, tool: str, **arguments: Any) -> str:
    async with asyncio.timeout(UNREPAIRED_S), client(node.url, Era.MODERN) as mcp:
        result = await mcp.request(
            Request.within("tools/call", {"name": f"kit__{tool}", "arguments": arguments}, timeout_s=15)
        )
        return str(result["content"][0]["text"])


async def next_uri(subscription: Subscription, within_s: float = WITHIN_S) -> str:
    async with promised_within(within_s):
        event = await anext(subscription)
    assert isinstance(event, ResourceUpdated)
    return event.uri


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_modern_client_gets_the_public_uri_and_the_server_hears_when_no_client_is_left(
    kind: str, hops: int, tmp_path: Path
) -> None:
    async with backend(kind) as spec, front_of(tmp_path, spec, hops=hops) as node:
        async with (
            Client(node.url) as mcp,
            listen(
                mcp.session, resource_subscriptions=["watch://kit/one", "watch://kit/refused", "watch://nobody/one"]
            ) as subscription,
        ):
            assert subscription.honored.resource_subscriptions == ["watch://kit/one"]
            await call(node, "touch", uri="watch://two")
            await call(node, "touch", uri="watch://one")
            assert await next_uri(subscription) == "watch://kit/one"
        await call(node, "awaited", uris=[])
        assert repr(node.updates.resources) == "<ResourceUpdates 0 subscriptions to 0 names>"


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_view_follows_what_it_shows_and_nothing_else(hops: int, tmp_path: Path) -> None:
    async with backend(KINDS[0]) as spec, front_of(tmp_path, spec, hops=hops) as node:
        for query, honored in {"servers=kit": ["watch://kit/one"], "servers=other": None}.items():
            async with (
                Client(f"{node.url}?{query}") as mcp,
                listen(mcp.session, resource_subscriptions=["watch://kit/one"]) as subscription,
            ):
                assert subscription.honored.resource_subscriptions == honored
                if honored:
                    await call(node, "touch", uri="watch://one")
                    assert await next_uri(subscription) == "watch://kit/one"


@asynccontextmanager
async def session(node: RunningNode) -> AsyncIterator[tuple[Client, asyncio.Queue[str]]]:
    """The SDK's client of 2025-11-25, and the URIs that it gets updates of."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            told.put_nowait(message.params.uri)

    async with Client(node.url, mode="legacy", message_handler=hear) as mcp:
        yield mcp, told


async def next_told(told: asyncio.Queue[str], within_s: float = WITHIN_S) -> str:
    async with promised_within(within_s):
        return await told.get()


@pytest.mark.filterwarnings("ignore:resources/.*subscribe is removed")
@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_with_a_session_subscribes_and_unsubscribes(kind: str, hops: int, tmp_path: Path) -> None:
    async with backend(kind) as spec, front_of(tmp_path, spec, hops=hops) as node, session(node) as (mcp, told):
        assert mcp.server_capabilities.resources.subscribe is True
        await mcp.subscribe_resource("watch://kit/one")
        await mcp.subscribe_resource("watch://kit/two")
        with pytest.raises(MCPError) as refused:
            await mcp.subscribe_resource("watch://kit/refused")
        assert refused.value.error.code == -32602
        await call(node, "awaited", uris=["watch://one", "watch://two"])
        await call(node, "touch", uri="watch://one")
        assert await next_told(told) == "watch://kit/one"
        await mcp.unsubscribe_resource("watch://kit/one")
        await call(node, "awaited", uris=["watch://two"])
        await call(node, "touch", uri="watch://one")
        await call(node, "touch", uri="watch://two")
        assert await next_told(told) == "watch://kit/two"
    assert repr(node.updates.resources) == "<ResourceUpdates 0 subscriptions to 0 names>"
