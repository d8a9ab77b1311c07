"""Nodes that the catalog lacks while they answer, in loop time: they stay, and what leaves goes at once."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest

from discovery.consul.client import Answer, ConsulClient
from discovery.consul.forgotten import FORGOTTEN_S, LOOK_AGAIN, Forgotten
from discovery.consul.watch import ConsulWatch
from discovery.model import Catalog, Instance, InstanceKey

pytestmark = pytest.mark.looptime

NODES = ("a", "b", "c", "plain")


class Servers:
    """Consul's client, whose waits end with the next change; `plain` is no node. `up`: whose links are up."""

    token = None
    token_rotates = False

    def __init__(self) -> None:
        self.there = set(NODES)
        self.up = set(NODES)
        self.index = 5
        self.queries = 0
        self._news = asyncio.Event()

    def change(self, *there: str) -> None:
        """The catalog has these from now on."""
        self.there, self.index = set(there), self.index + 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def health(self, _name: str, *, index: int, wait_s: float, **_query: Any) -> Answer:
        self.queries += 1
        if index == self.index:
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
        return Answer(self.index, [row(one) for one in sorted(self.there)])

    def answers(self, instance: Instance) -> bool:
        return instance.key.service_id in self.up


class Following:
    """What a watch of them shows, with its loop time."""

    def __init__(self, servers: Servers) -> None:
        watch = ConsulWatch(cast("ConsulClient", servers), "mcp-node", answers=servers.answers)
        self.shown: list[tuple[float, dict[str, str]]] = []
        self.watch = watch

    async def run(self) -> None:
        async for catalog in self.watch.watch():
            self.shown.append((asyncio.get_running_loop().time(), healths(catalog)))


def row(one: str) -> bytes:
    meta = {} if one == "plain" else {"node_id": f"id-{one}"}
    return orjson.dumps({
        "Node": {"Node": "n", "Address": "127.0.0.1"}, "Service": {"ID": one, "Port": 8000, "Meta": meta},
    })  # fmt: skip


def healths(catalog: Catalog) -> dict[str, str]:
    return {one.key.service_id: one.health.value for one in catalog.instances}


def passing(*service_ids: str) -> dict[str, str]:
    return dict.fromkeys(service_ids, "passing")


@asynccontextmanager
async def followed(servers: Servers) -> AsyncGenerator[Following, None]:
    """Follow them, for ten seconds before the block begins."""
    found = Following(servers)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(found.run(), name="follow")
        await asyncio.sleep(10.0)
        yield found
        task.cancel()


async def test_a_node_that_answers_stays_until_the_catalog_knows_it_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    servers = Servers()
    async with followed(servers) as following:
        servers.change("b", "c", "plain")
        await asyncio.sleep(30.0)
        servers.change(*NODES)
        await asyncio.sleep(1.0)
    (_, first), (lost_at_s, without), (back_at_s, back) = following.shown
    assert first == back == passing(*NODES)
    assert without == passing("b", "c", "plain") | {"a": "critical"}
    assert back_at_s - lost_at_s == pytest.approx(30.0, abs=0.2)
    assert caplog.text.count("the catalog lacks nodes that answer") == 1
    assert servers.queries < 20


async def test_all_nodes_that_answer_stay_and_none_is_confirmed_away() -> None:
    servers = Servers()
    async with followed(servers) as following:
        servers.change("plain")
        await asyncio.sleep(FORGOTTEN_S - 1.0)
        assert following.shown[-1][1] == passing("plain") | dict.fromkeys("abc", "critical")
        assert following.watch.status.up
        assert following.watch.status.holding_removals
        await asyncio.sleep(1.0 + 2 * LOOK_AGAIN.last_s)
    assert following.shown[-1][1] == passing("plain")
    assert not following.watch.status.holding_removals


async def test_a_node_whose_link_ends_as_it_leaves_is_gone_at_the_next_look(caplog: pytest.LogCaptureFixture) -> None:
    servers = Servers()
    async with followed(servers) as following:
        servers.change("b", "c", "plain")
        await asyncio.sleep(0.1)
        catalog = following.watch._shown
        assert catalog is not None
        (trouble,) = [one.trouble for one in catalog.instances if one.trouble]
        assert "it has left" in trouble
        assert "not said" not in trouble  # It may have: its link is just about to end.
        servers.up.remove("a")
        left_at_s = asyncio.get_running_loop().time()
        await asyncio.sleep(60.0)
    gone_at_s, last = following.shown[-1]
    assert last == passing("b", "c", "plain")
    assert gone_at_s - left_at_s < LOOK_AGAIN.first_s + 0.2
    assert "lacks nodes" not in caplog.text


@pytest.mark.parametrize("leaver", ["a", "plain"])
async def test_what_does_not_answer_and_what_is_no_node_goes_at_once(leaver: str) -> None:
    servers = Servers()
    async with followed(servers) as following:
        servers.up -= {leaver} - {"plain"}
        servers.change(*(one for one in NODES if one != leaver))
        await asyncio.sleep(0.1)
    assert following.shown[-1][1] == passing(*(one for one in NODES if one != leaver))


def test_a_node_that_is_listed_under_another_consul_node_is_not_forgotten() -> None:
    old, new = (Instance(InstanceKey("dc1", place, "a"), "h", 1, meta={"node_id": "id-a"}) for place in ("n1", "n2"))
    assert Forgotten().of(Catalog((new,)), [old], 0.0) == frozenset()
    assert Forgotten().of(Catalog(()), [old], 0.0) == {old.key}


def test_the_time_begins_anew_for_a_node_that_was_back() -> None:
    one, forgotten = Instance(InstanceKey("dc1", "n", "a"), "h", 1, meta={"node_id": "id-a"}), Forgotten()
    assert forgotten.of(Catalog(()), [one], 0.0) == {one.key}
    assert forgotten.of(Catalog((one,)), [], 100.0) == frozenset()
    assert forgotten.of(Catalog(()), [one], FORGOTTEN_S) == {one.key}
    assert forgotten.of(Catalog(()), [one], 2 * FORGOTTEN_S) == frozenset()
