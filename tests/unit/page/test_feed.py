"""The feed of the page in loop time: one look for all, what each reader gets, and when streams end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agent.authority.grant import Grant
from agent.call_history import BUCKET_S, CallHistory
from agent.dispatch.replicas import GroupView, MemberView
from agent.model import HttpTarget, Json, LinkState, LinkView, PeerSource, PeerSpec
from agent.page.feed import EVENTS_AT_ONCE_MAX, GONE_MAX, WATCHERS_EACH_MAX, WATCHERS_MAX, MeshFeed, Sources, Watcher
from tests.callers import served

pytestmark = pytest.mark.looptime


@dataclass
class Stage:
    """What the feed looks at."""

    views: list[LinkView] = field(default_factory=list)
    node: Json = field(default_factory=lambda: {"name": "front"})
    notes: Json = field(default_factory=dict)
    history: CallHistory = field(default_factory=CallHistory)
    groups: list[GroupView] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MeshFeed]:
        sources = Sources(
            lambda: self.views,
            dict,
            lambda: self.node,
            lambda: self.notes,
            self.history,
            groups=lambda: self.groups,
            in_flight=lambda: self.in_flight,
        )
        feed = MeshFeed(sources)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(feed.run(), name="feed")
            yield feed
            task.cancel()


class Turns:
    """A reader's stream."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.ended = False

    def nudge(self) -> None:
        self.woken.set()

    def end(self) -> None:
        self.ended = True
        self.woken.set()


def watching(feed: MeshFeed) -> Watcher:
    """One more reader."""
    watcher = feed.watch()
    assert watcher is not None
    watcher.stream = Turns()
    return watcher


async def turn(watcher: Watcher) -> None:
    """Return when there is something that this reader has not seen, or its stream is to end."""
    assert isinstance(watcher.stream, Turns)
    if not watcher.ended:
        watcher.stream.woken.clear()
        await watcher.stream.woken.wait()


def peer(name: str, **changes: Any) -> LinkView:
    return LinkView(PeerSpec(name, HttpTarget(f"http://{name}:1/mcp"), PeerSource.OVERRIDE), **changes)


async def test_a_reader_gets_all_at_first_and_then_what_has_changed() -> None:
    stage = Stage([peer("a"), peer("b")])
    async with stage.running() as feed:
        await asyncio.sleep(2)
        watcher = watching(feed)
        first = feed.since(watcher)
        assert [link["name"] for link in first["links"]] == ["a", "b"]
        assert (first["first"], first["node"]) == (True, {"name": "front"})
        await asyncio.sleep(2)
        feed.since(watcher)
        stage.views[1] = replace(stage.views[1], state=LinkState.READY)
        await turn(watcher)
        change = feed.since(watcher)
        assert [(link["name"], link["connected"]) for link in change["links"]] == [("b", True)]
        assert [event["text"] for event in change["events"]] == ["peer b is connected"]
        assert change.keys() == {"rates", "links", "events"}
        del stage.views[0]
        await turn(watcher)
        assert feed.since(watcher)["gone"] == [peer("a").key]


async def test_groups_of_replicas_show_their_shares_and_who_is_out_until_when() -> None:
    stage = Stage([peer("a"), peer("b")])
    async with stage.running() as feed:
        watcher = watching(feed)
        await asyncio.sleep(1)
        assert feed.since(watcher)["groups"] == []
        out_until_s = asyncio.get_running_loop().time() + 30
        members = MemberView("peer:a", 0.254, out_until_s, 0.0123), MemberView("peer:gone", None, None)
        stage.groups.append(GroupView("kit", 3, members))
        await turn(watcher)
        (group,) = feed.since(watcher)["groups"]
        assert (group["name"], group["retries_left"]) == ("kit", 3)
        assert [(one["name"], one["share"]) for one in group["replicas"]] == [("a", 0.25), ("peer:gone", None)]
        assert group["replicas"][0]["out_until"] == pytest.approx(time.time() + 30, abs=5)
        assert group["replicas"][1]["out_until"] is None
        assert [(one["key"], one["latency_ms"]) for one in group["replicas"]] == [("peer:a", 12.3), ("peer:gone", None)]
        stage.groups.clear()
        await turn(watcher)
        assert feed.since(watcher)["groups"] == []


async def test_events_are_kept_from_before_the_first_reader() -> None:
    stage = Stage([peer("a")])
    async with stage.running() as feed:
        await asyncio.sleep(2)
        stage.views.clear()
        await asyncio.sleep(2)
        watcher = watching(feed)
        assert [event["text"] for event in feed.since(watcher)["events"]] == ["peer a is new: idle", "peer a is gone"]


async def test_a_reader_is_not_woken_while_nothing_changes() -> None:
    stage = Stage([peer("a")])
    async with stage.running() as feed:
        await asyncio.sleep(2)
        watcher = watching(feed)
        await asyncio.sleep(2)
        feed.since(watcher)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(BUCKET_S / 3):
                await turn(watcher)


async def test_calls_show_as_rates_and_as_buckets_of_the_hour() -> None:
    stage = Stage([peer("a")])
    async with stage.running() as feed:
        watcher = watching(feed)
        await asyncio.sleep(1)
        feed.since(watcher)
        for _ in range(10):
            stage.history.add("peer:a", "ok", 0.02)
        await turn(watcher)
        assert feed.since(watcher)["rates"] == {"peer:a": [20.0, 0.0, 20.0, 0]}
        stage.in_flight["peer:a"] = 3
        await turn(watcher)
        assert feed.since(watcher)["rates"] == {"peer:a": [0.0, 0.0, 0.0, 3]}
        stage.in_flight.clear()
        await asyncio.sleep(BUCKET_S + 1)
        [bucket] = feed.since(watcher)["history"]
        assert (bucket[1], bucket[2]) == (10, 0)


async def test_the_rate_that_a_new_reader_gets_is_not_of_the_hours_before() -> None:
    stage = Stage([peer("a")])
    async with stage.running() as feed:
        for _ in range(1_000):
            stage.history.add("peer:a", "ok", 0.02)
        await asyncio.sleep(3)
        watcher = watching(feed)
        assert feed.since(watcher)["rates"] == {}
        await asyncio.sleep(1)
        assert feed.since(watcher)["rates"] == {}


async def test_a_reader_that_missed_too_much_begins_anew() -> None:
    stage = Stage([peer(f"n{number}") for number in range(GONE_MAX + 5)])
    async with stage.running() as feed:
        watcher = watching(feed)
        await asyncio.sleep(1)
        feed.since(watcher)
        for _ in range(2):
            stage.views.pop()
            await asyncio.sleep(1)
        stage.views.clear()
        await asyncio.sleep(1)
        change = feed.since(watcher)
        assert change["first"] is True
        assert len(change["events"]) == EVENTS_AT_ONCE_MAX


async def test_streams_end_with_their_token_and_with_the_node_and_are_bounded() -> None:
    async with Stage().running() as feed:
        with served(Grant("ci", named=True)):
            watchers = [watching(feed) for _ in range(WATCHERS_EACH_MAX)]
            assert feed.watch() is None
        others = [watching(feed) for _ in range(WATCHERS_MAX - WATCHERS_EACH_MAX)]  # Room that one token leaves.
        assert feed.watch() is None
        for one in others:
            feed.leave(one)
        named = watchers[0]
        feed.end_of_revoked({named.binding})
        assert not named.ended
        feed.end_of_revoked(set())
        assert named.ended
        assert isinstance(named.stream, Turns)
        assert named.stream.ended
        await turn(named)
        feed.leave(named)
        other = watching(feed)
        feed.close()
        assert other.ended
        feed.leave(other)
        assert feed.watch() is None
