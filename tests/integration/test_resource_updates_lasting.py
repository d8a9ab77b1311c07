"""SubscriptionRegistry that outlast what is behind them: servers that die, sessions that end, nodes in circles."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from mcp.client import Client
from mcp.client.subscriptions import listen

from agent.client.protocol import Request
from agent.client.streams import Updates
from agent.errors import CallFailed, RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.hops import front_of, replicas
from tests.integration.servers.hosting import Front, http_app, serving
from tests.integration.servers.nodes import RunningNode, client, running_node, served
from tests.integration.servers.watched_server import Watched
from tests.integration.test_resource_updates import (
    UNREPAIRED_S,
    WITHIN_S,
    backend,
    call,
    next_uri,
)
from tests.waiting import promised_within

pytestmark = pytest.mark.usefixtures("warm_servers")


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", ["modern stdio", "legacy stdio"])
async def test_after_a_servers_death_its_subscribers_are_notified_once_and_then_as_before(
    kind: str, hops: int, tmp_path: Path
) -> None:
    async with (
        backend(kind) as spec,
        front_of(tmp_path, spec, hops=hops) as node,
        Client(node.url) as mcp,
        listen(mcp.session, resource_subscriptions=["watch://kit/one"]) as subscription,
    ):
        with suppress(CallFailed, RpcError):
            await call(node, "die")
        assert await next_uri(subscription, UNREPAIRED_S) == "watch://kit/one"
        await call(node, "touch", uri="watch://one")
        assert await next_uri(subscription) == "watch://kit/one"


async def test_a_session_that_the_server_forgot_is_subscribed_anew(tmp_path: Path) -> None:
    before, after = Watched(legacy=True), Watched(legacy=True)
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(http_app(watched.server)) for watched in (before, after)]
        front = Front(apps[0])
        url = f"{await stack.enter_async_context(serving(front))}/mcp"
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        node = await stack.enter_async_context(front_of(tmp_path, spec))
        mcp = await stack.enter_async_context(Client(node.url))
        subscription = await stack.enter_async_context(
            listen(mcp.session, resource_subscriptions=["watch://kit/one", "watch://kit/two"])
        )
        front.app = apps[1]
        await call(node, "awaited", uris=["watch://one", "watch://two"])
        told = {await next_uri(subscription, UNREPAIRED_S), await next_uri(subscription, UNREPAIRED_S)}
        assert told == {"watch://kit/one", "watch://kit/two"}
        await after.touch("watch://two")
        assert await next_uri(subscription) == "watch://kit/two"


async def test_a_set_that_changes_is_followed_without_a_gap_and_shared_by_all_its_subscribers(tmp_path: Path) -> None:
    watched = Watched()
    async with served(watched.server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with (
            front_of(tmp_path, spec) as node,
            Client(node.url) as mcp,
            Client(node.url) as another,
            listen(mcp.session, resource_subscriptions=["watch://kit/one"]) as first,
        ):
            assert watched.asked == 1
            async with listen(another.session, resource_subscriptions=["watch://kit/one"]) as second:
                assert watched.asked == 1, "one subscription is enough"
                async with listen(another.session, resource_subscriptions=["watch://kit/two"]) as third:
                    await watched.touch("watch://one")
                    await watched.touch("watch://two")
                    assert await next_uri(third) == "watch://kit/two"
                    assert await next_uri(second) == "watch://kit/one"
                    assert await next_uri(first) == "watch://kit/one"
            async with asyncio.timeout(UNREPAIRED_S):
                await watched.holds("watch://one")
            await watched.touch("watch://one")
            assert await next_uri(first) == "watch://kit/one"


async def test_an_update_below_what_was_subscribed_comes_with_its_own_uri(tmp_path: Path) -> None:
    watched = Watched(legacy=True)
    async with served(watched.server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with (
            front_of(tmp_path, spec, hops=2) as node,
            Client(node.url) as mcp,
            listen(mcp.session, resource_subscriptions=["watch://kit/shelf/"]) as subscription,
        ):
            await watched.touch("watch://shelf/book")
            assert await next_uri(subscription) == "watch://kit/shelf/book"


async def test_every_replica_of_a_service_is_followed(tmp_path: Path) -> None:
    servers = [Watched(), Watched(legacy=True)]
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(served(watched.server)) for watched in servers]
        specs = [ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE) for url in urls]
        node = await stack.enter_async_context(front_of(tmp_path, *specs, hops=2))
        mcp = await stack.enter_async_context(Client(node.url))
        subscription = await stack.enter_async_context(listen(mcp.session, resource_subscriptions=["watch://kit/one"]))
        for watched in servers:
            await watched.touch("watch://one")
            assert await next_uri(subscription) == "watch://kit/one"


async def test_a_server_without_updates_is_said_to_have_none(tmp_path: Path) -> None:
    async with served(Watched(subscribable=False).server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with front_of(tmp_path, spec, hops=2) as node, client(node.url, Era.MODERN) as modern:
            async with client(node.url, Era.LEGACY) as legacy:
                with pytest.raises(RpcError) as refused:
                    await legacy.request(
                        Request.within("resources/subscribe", {"uri": "watch://kit/one"}, timeout_s=10)
                    )
                assert refused.value.code in (-32601, -32602)
            uris = [f"watch://kit/{number}" for number in range(1_001)]
            with pytest.raises(RpcError, match="Subscription limit reached"):
                await modern.follow(Updates(uris, lambda *_: None, lambda *_: None))


async def test_two_gateways_that_import_each_other_tell_an_update_once_and_forget_together(tmp_path: Path) -> None:
    here, there = Watched(), Watched()
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        for name, watched in (("east", here), ("west", there)):
            spec = ServerSpec(
                "kit", HttpTarget(await stack.enter_async_context(served(watched.server))), ServerScope.SERVICE
            )
            nodes.append(await stack.enter_async_context(running_node(name, tmp_path / name, servers=[spec])))
        east, west = nodes
        assert (await east.add_peer("west", west.url, scope="mesh"))[0] == 201
        assert (await west.add_peer("east", east.url, scope="mesh"))[0] == 201
        for node in nodes:
            await node.when(lambda node=node: replicas(node, "kit__touch") == 2)
        told: list[str] = []
        last = asyncio.Event()

        def hear(uri: str, _params: Json) -> None:
            told.append(uri)
            if uri.endswith("two"):
                last.set()

        async with client(east.url, Era.MODERN) as mcp, asyncio.TaskGroup() as group:
            granted = asyncio.Event()
            updates = Updates(["watch://kit/one", "watch://kit/two"], lambda *_: granted.set(), hear)
            follower = group.create_task(mcp.follow(updates), name="follow")
            async with asyncio.timeout(UNREPAIRED_S):
                await granted.wait()
            for watched in (here, there):
                await watched.touch("watch://one")
            await there.touch("watch://two")
            async with promised_within(WITHIN_S):
                await last.wait()
            assert told == ["watch://kit/one", "watch://kit/one", "watch://kit/two"]
            follower.cancel()
        async with asyncio.timeout(UNREPAIRED_S):
            await here.holds()
            await there.holds()
