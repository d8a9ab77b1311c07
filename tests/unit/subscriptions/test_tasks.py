"""Subscriptions to tasks: what is sent of them, when a link is to ask, and what a slow client still gets."""

import asyncio
import json
from typing import Any

import pytest

from agent.errors import RpcError
from agent.model import Json, NodeIdentity, Offer, ServerScope
from agent.routing.table import Contribution, ContributionKind, Imported, RouteTable
from agent.server.listen import PENDING_BYTES_MAX, _Stream
from agent.subscriptions.registry import Counts, Subscriber
from agent.subscriptions.tasks import NESTING_MAX, TaskNews, TaskUpdates

pytestmark = pytest.mark.looptime

OWN = NodeIdentity("id-own", "own")
ID = "mesh1/server/id-own/shop/7"


class Node:
    """One endpoint whose server `shop` has tasks, and what one subscriber gets."""

    def __init__(self) -> None:
        self.updates = TaskUpdates(lambda _: None, Counts(lambda _: None, lambda: None), own_node_id=OWN.node_id)
        self.told: list[Json] = []
        self.present = True

    def table(self) -> RouteTable:
        kind = ContributionKind.SERVER
        shop = Contribution("server:shop", kind, "shop", OWN, ServerScope.SERVICE, Offer(), has_tasks=True)
        return RouteTable(parts={"server:shop": Imported(shop, OWN, (), ())} if self.present else {})

    def tell(self, news: TaskNews) -> None:
        assert news.task_id == ID
        self.told.append(json.loads(news.params))

    async def subscribed(self) -> Subscriber[TaskNews]:
        subscriber = self.updates.subscriber(self.table, self.tell)
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(subscriber.add([ID]), name="add")
            await asyncio.sleep(0)
            self.updates.settled("server:shop", "7", None)
        assert adding.result() == {}
        return subscriber

    def updated(self, status: str, **more: Any) -> None:
        self.updates.updated("server:shop", "7", {"taskId": "7", "status": status, **more})


async def test_a_task_is_sent_under_its_public_id_without_the_words_of_the_stream() -> None:
    node = Node()
    await node.subscribed()
    node.updated("working", resultType="complete", _meta={"io.modelcontextprotocol/subscriptionId": 3})
    node.updated("working", _meta={"io.modelcontextprotocol/subscriptionId": 3, "x": 1})
    assert node.told == [{"taskId": ID, "status": "working"}, {"taskId": ID, "status": "working", "_meta": {"x": 1}}]


async def test_a_task_that_has_ended_is_not_followed_on_and_takes_no_earlier_state() -> None:
    node = Node()
    await node.subscribed()
    assert node.updates.wanted("server:shop") == {"7"}
    node.updated("completed", result={})
    node.updated("working")
    assert [task["status"] for task in node.told] == ["completed"]
    assert node.updates.wanted("server:shop") == frozenset()


async def test_what_is_followed_anew_and_what_has_ended_is_asked_for_until_it_was_sent() -> None:
    node = Node()
    await node.subscribed()
    assert node.updates.owed("server:shop") == frozenset(), "nothing came before"
    node.updates.settled("server:shop", "7", None)
    assert node.updates.owed("server:shop") == {"7"}
    node.updated("cancelled")
    assert node.updates.owed("server:shop") == frozenset()
    await node.subscribed()
    assert node.updates.owed("server:shop") == {"7"}, "the second one has not heard of the end"


async def test_a_task_that_its_server_does_not_know_any_more_is_asked_for_once() -> None:
    node = Node()
    await node.subscribed()
    node.updates.settled("server:shop", "7", None)
    node.updates.settled("server:shop", "7", RpcError(-32602, "no such task"))
    assert node.updates.owed("server:shop") == node.updates.wanted("server:shop") == frozenset()


async def test_what_cannot_be_written_and_what_no_table_leads_to_is_not_sent() -> None:
    node = Node()
    await node.subscribed()
    deep: Any = []
    for _ in range(NESTING_MAX):
        deep = [deep]
    node.updated("working", statusMessage=deep)
    node.present = False
    node.updated("working")
    assert node.told == []


async def test_an_id_of_no_backend_and_one_that_is_none_are_refused() -> None:
    node = Node()
    wanted = ["7", "mesh1/peer/nobody/7", ID + "x" * 5_000]
    refusals = await node.updates.subscriber(node.table, node.tell).add(wanted)
    assert {name: refusal.code for name, refusal in refusals.items()} == dict.fromkeys(wanted, -32602)


def test_a_slow_client_gets_the_latest_state_of_each_task_and_not_too_much_of_them() -> None:
    stream = _Stream({})
    half = b'{"x":"' + b"x" * (PENDING_BYTES_MAX // 2) + b'"}'
    for task_id, params in (("a", half), ("a", b'{"x":1}'), ("b", half)):
        stream.task_changed(TaskNews(task_id, params))
    assert not stream.overflowed
    assert stream.take() == ("notifications/tasks", {"x": 1})
    stream.task_changed(TaskNews("c", half))
    assert stream.overflowed


def test_one_result_alone_may_be_larger_than_what_is_held_of_many() -> None:
    stream = _Stream({})
    stream.task_changed(TaskNews("a", b'"' + b"x" * PENDING_BYTES_MAX + b'"'))
    assert not stream.overflowed
    note = stream.take()
    assert note is not None
    assert stream.take() is None
