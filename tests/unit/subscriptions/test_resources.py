"""Subscriptions to resources, their upstreams and limits, in loop time, with links that only remember wake-ups."""

import asyncio
from dataclasses import dataclass, field

import pytest

from agent.errors import RpcError
from agent.links.follower import NAME_BYTES_PER_STREAM_MAX, changed_streams, chunks
from agent.model import AFFINITY_META_KEY, BackendSpec, HttpTarget, PeerScope, PeerSource, PeerSpec
from agent.routing.table import Replica, Route, RouteKind, RouteTable
from agent.subscriptions.registry import SETTLE_TIMEOUT_S, Counts, Subscriber
from agent.subscriptions.resources import PARENTS_MAX, URI_LEN_MAX, ResourceNews, ResourceUpdates, with_parents

pytestmark = pytest.mark.looptime


@dataclass
class Node:
    """One endpoint's table, whose resources all backends of `backends` have, and what one subscriber gets."""

    backends: list[str] = field(default_factory=lambda: ["peer:a"])
    gateways: set[str] = field(default_factory=set)
    looked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    updated: int = 0
    updates: ResourceUpdates = field(init=False)

    def __post_init__(self) -> None:
        self.updates = ResourceUpdates(lambda key: _Link(self, key), Counts(self.counts.append, self.count))

    def count(self) -> None:
        self.updated += 1

    def table(self) -> RouteTable:
        replicas = tuple(Replica(key, "notes://home", None, ours=False) for key in self.backends)
        route = Route(RouteKind.RESOURCE, "notes://kit/home", {}, "", replicas, listed=True, owner="x")
        return RouteTable(resources={"notes://kit/home": route} if replicas else {})

    def subscriber(self, *, across_gateways: bool = True) -> Subscriber[ResourceNews]:
        def tell(news: ResourceNews) -> None:
            self.told.append(news.uri)

        return self.updates.subscriber(self.table, tell, across_gateways=across_gateways)

    async def agreed(self, *backends: str) -> Subscriber[ResourceNews]:
        """A subscriber whose backends have agreed."""
        subscriber = self.subscriber()
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(subscriber.add(["notes://kit/home"]), name="add")
            await asyncio.sleep(0)
            for key in backends:
                self.updates.settled(key, "notes://home", None)
        assert adding.result() == {}
        return subscriber


@dataclass
class _Link:
    node: Node
    key: str

    @property
    def spec(self) -> BackendSpec:
        scope = PeerScope.MESH if self.key in self.node.gateways else PeerScope.LOCAL
        return PeerSpec(self.key, HttpTarget("http://peer/mcp"), PeerSource.OVERRIDE, scope=scope)

    def look_at_subscriptions(self) -> None:
        self.node.looked.append(self.key)
        if self.key in self.node.broken:
            raise ZeroDivisionError("ours")


async def test_an_update_of_a_uri_that_is_too_long_tells_of_what_it_is_below() -> None:
    node = Node()
    await node.agreed("peer:a")
    node.updates.updated("peer:a", "notes://home/" + "x" * URI_LEN_MAX, {})
    assert node.told == ["notes://kit/home"]


async def test_a_subscriber_waits_for_the_backends_word_and_hears_of_updates_by_the_public_uri() -> None:
    node = Node()
    await node.agreed("peer:a")
    assert asyncio.get_running_loop().time() == 0.0
    assert node.looked == ["peer:a"]
    node.updates.updated("peer:a", "notes://home", {})
    node.updates.updated("peer:a", "notes://home/page?x=1", {})
    node.updates.updated("peer:a", "notes://homework", {})
    node.updates.updated("peer:b", "notes://home", {})
    assert node.told == ["notes://kit/home", "notes://kit/home/page?x=1"]
    assert (node.counts, node.updated) == ([1], 2)


async def test_a_backend_that_says_nothing_is_granted_and_announced_when_it_agrees() -> None:
    node = Node()
    assert await node.subscriber().add(["notes://kit/home"]) == {}
    assert asyncio.get_running_loop().time() == SETTLE_TIMEOUT_S
    node.updates.settled("peer:a", "notes://home", None)
    assert node.told == ["notes://kit/home"]


async def test_a_link_that_cannot_look_keeps_neither_the_others_nor_the_subscriber_from_their_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Node(backends=["peer:a", "peer:b", "peer:c"])
    node.broken = {"peer:a", "peer:b"}
    assert await node.subscriber().add(["notes://kit/home"]) == {}
    assert sorted(node.looked) == node.backends
    assert "ZeroDivisionError" in caplog.text


async def test_a_refusal_is_passed_on_when_every_backend_refuses_and_asked_again_by_the_next_subscriber() -> None:
    node = Node(backends=["peer:a", "peer:b"])
    subscriber = node.subscriber()
    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(subscriber.add(["notes://kit/home"]), name="add")
            await asyncio.sleep(0)
            assert node.updates.wanted("peer:a") == {"notes://home"}
            for key in node.backends:
                node.updates.settled(key, "notes://home", RpcError(-32601, f"not {key}"))
        assert adding.result()["notes://kit/home"].message in ("not peer:a", "not peer:b")
        assert subscriber.names == frozenset()
        assert node.updates.wanted("peer:a") == frozenset()


async def test_one_replica_that_agrees_is_enough_and_the_one_that_refused_is_left_alone() -> None:
    node = Node(backends=["peer:a", "peer:b"])
    async with asyncio.TaskGroup() as group:
        adding = group.create_task(node.subscriber().add(["notes://kit/home"]), name="add")
        await asyncio.sleep(0)
        node.updates.settled("peer:a", "notes://home", RpcError(-32601, "no"))
        node.updates.settled("peer:b", "notes://home", None)
    assert adding.result() == {}
    assert node.updates.wanted("peer:a") == frozenset()
    assert node.updates.wanted("peer:b") == {"notes://home"}


async def test_a_subscription_outlives_its_backends_and_an_update_tells_that_they_are_back() -> None:
    node = Node()
    await node.agreed("peer:a")
    node.backends.clear()
    node.updates.routes_changed()
    assert node.updates.wanted("peer:a") == frozenset()
    node.backends.append("peer:b")
    node.updates.routes_changed()
    assert node.updates.wanted("peer:b") == {"notes://home"}
    assert node.told == []
    node.updates.settled("peer:b", "notes://home", None)
    assert node.told == ["notes://kit/home"]


async def test_the_last_subscriber_that_leaves_ends_the_following() -> None:
    node = Node()
    first, second = await node.agreed("peer:a"), await node.agreed()
    node.looked.clear()
    first.close()
    assert node.updates.wanted("peer:a") == {"notes://home"}
    second.close()
    assert node.updates.wanted("peer:a") == frozenset()
    assert node.looked == ["peer:a"]
    assert repr(node.updates) == "<ResourceUpdates 0 subscriptions to 0 names>"


async def test_a_subscriber_that_is_cancelled_while_it_waits_leaves_nothing() -> None:
    node = Node()
    async with asyncio.TaskGroup() as group:
        adding = group.create_task(node.subscriber().add(["notes://kit/home"]), name="add")
        await asyncio.sleep(0)
        adding.cancel()
    assert repr(node.updates) == "<ResourceUpdates 0 subscriptions to 0 names>"


async def test_another_gateways_subscription_does_not_go_on_to_a_gateway() -> None:
    node = Node(gateways={"peer:a"})
    refusals = await node.subscriber(across_gateways=False).add(["notes://kit/home"])
    assert refusals["notes://kit/home"].code == -32602


@pytest.mark.parametrize("count", [1_001, 2_000])
async def test_too_many_uris_are_refused_as_a_whole(count: int) -> None:
    node = Node()
    with pytest.raises(RpcError, match="Subscription limit reached: 1000 of a kind"):
        await node.subscriber().add([f"notes://kit/{number}" for number in range(count)])
    assert repr(node.updates) == "<ResourceUpdates 0 subscriptions to 0 names>"


async def test_a_uri_that_no_backend_can_mean_is_refused_alone() -> None:
    node = Node()
    long = "notes://kit/" + "x" * URI_LEN_MAX
    async with asyncio.TaskGroup() as group:
        adding = group.create_task(node.subscriber().add(["notes://kit/home", long]), name="add")
        await asyncio.sleep(0)
        node.updates.settled("peer:a", "notes://home", None)
    assert adding.result().keys() == {long}


def test_what_is_above_a_uri_is_found_with_and_without_its_separator() -> None:
    assert set(with_parents("a://b/c?d")) == {
        "a://b/c?d",
        "a://b/c?",
        "a://b/c",
        "a://b/",
        "a://b",
        "a://",
        "a:/",
        "a:",
    }
    assert len(set(with_parents("a" + "/" * URI_LEN_MAX))) <= 2 * PARENTS_MAX + 1


def test_streams_are_cut_by_number_and_by_bytes() -> None:
    assert [len(chunk) for chunk in chunks(str(number) for number in range(2_500))] == [1_000, 1_000, 500]
    wide = [f"{number}{'ü' * 1_000}" for number in range(400)]
    assert [sum(len(uri.encode()) for uri in chunk) < NAME_BYTES_PER_STREAM_MAX for chunk in chunks(wide)] == [True] * 2
    assert sorted(uri for chunk in chunks(wide) for uri in chunk) == sorted(wide)


def test_only_streams_that_must_change_are_replaced() -> None:
    streams = {"full": frozenset(str(number) for number in range(1_000)), "small": frozenset({"a", "b"})}
    everything = frozenset().union(*streams.values())
    assert changed_streams(everything, streams) == set()
    assert changed_streams(everything | {"c"}, streams) == {"small"}, "it has room"
    assert changed_streams(everything - {"7"}, streams) == {"full"}
    assert changed_streams(frozenset(), streams) == {"full", "small"}


async def test_what_a_backend_tells_in_the_session_of_one_client_is_for_that_client_alone_and_not_told_twice() -> None:
    node, heard = Node(), list[tuple[str, str | None]]()

    async def client(affinity: str | None, *, is_node: bool = False) -> Subscriber[ResourceNews]:
        name = affinity or ("node" if is_node else "stream")
        subscriber = node.updates.subscriber(
            node.table, lambda news: heard.append((name, news.client)), client=affinity, is_node=is_node
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(subscriber.add(["notes://kit/home"]), name="add")
            await asyncio.sleep(0)
            for key in node.backends:
                node.updates.settled(key, "notes://home", None)
        return subscriber

    def told(client: str | None = None) -> list[tuple[str, str | None]]:
        heard.clear()
        params = {"uri": "notes://home", "_meta": {} if client is None else {AFFINITY_META_KEY: client}}
        node.updates.updated("peer:a", "notes://home", params)
        return list(heard)

    one, _, _, _ = await client("one"), await client("two"), await client(None), await client(None, is_node=True)
    assert told() == [(name, None) for name in ("one", "two", "stream", "node")]
    one.told_in_own_session("notes://kit/home", "peer:a")
    assert told() == [(name, None) for name in ("two", "stream", "node")]
    assert told("one") == [("one", "one"), ("node", "one")]
    one.own_session_ended("peer:b")
    assert told() == [(name, None) for name in ("two", "stream", "node")]
    one.own_session_ended("peer:a")
    assert told() == [(name, None) for name in ("one", "two", "stream", "node")]
    one.told_in_own_session("notes://kit/home", "peer:a")
    one.remove(["notes://kit/home"])
    await one.add(["notes://kit/home"])
    assert ("one", None) in told()
