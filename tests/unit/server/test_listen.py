"""A stream of `subscriptions/listen` whose client takes its time, in loop time."""

import asyncio
from functools import partial
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from agent.errors import MCPError, RpcError
from agent.routing.table import RouteTable
from agent.server import listen
from agent.server.listen import PENDING_MAX, ListenStreams
from agent.server.response import Answer
from agent.subscriptions.registry import Counts, Subscriber
from agent.subscriptions.resources import ResourceNews, ResourceUpdates
from agent.subscriptions.sessions import SessionUpdates
from agent.subscriptions.tasks import TaskUpdates

pytestmark = pytest.mark.looptime

TOOLS_CHANGED = "notifications/tools/list_changed"


class Client(Answer):
    """What a stream writes to. It takes nothing while `reads` is clear."""

    def __init__(self) -> None:
        super().__init__(make_mocked_request("POST", "/mcp"), 1)
        self.reads = asyncio.Event()
        self.reads.set()
        self.got: list[tuple[str, Any]] = []
        self.ended = False

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        self.got.append((method.rpartition("/")[2], params.get("uri")))
        await self.reads.wait()

    async def nothing(self) -> web.StreamResponse:
        self.ended = True
        return web.Response()


class Streams:
    """The handler, and the `tell` of its only subscriber."""

    def __init__(self) -> None:
        nothing = Counts(lambda _: None, lambda: None)
        self.updates = ResourceUpdates(lambda _: None, nothing)
        self.tasks = TaskUpdates(lambda _: None, nothing, own_node_id="me")
        sessions = SessionUpdates(lambda _: None, nothing)
        self.streams = ListenStreams(
            self.new, partial(self.tasks.subscriber, RouteTable), partial(sessions.subscriber, RouteTable)
        )
        self.tell: Any = None

    def new(self, tell: Any, *, across_gateways: bool, is_node: bool = False) -> Subscriber[ResourceNews]:
        self.tell = tell
        return self.updates.subscriber(RouteTable, tell, across_gateways=across_gateways, is_node=is_node)

    async def serve(self, client: Client) -> web.StreamResponse:
        return await self.streams.serve(client, 1, {"notifications": {"toolsListChanged": True}, "_meta": {}})


async def test_unread_notifications_are_sent_once_and_in_order() -> None:
    client, all_of = Client(), Streams()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(all_of.serve(client), name="serve")
        await asyncio.sleep(1)
        client.reads.clear()
        for _ in range(3):
            all_of.tell(ResourceNews("a://b"))
            all_of.streams.tell(TOOLS_CHANGED)
            all_of.streams.tell("notifications/prompts/list_changed")
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        all_of.tell(ResourceNews("a://c"))
        client.reads.set()
        await asyncio.sleep(1)
        serving.cancel()
    # The first one was being written when it changed again.
    assert client.got == [
        ("acknowledged", None),
        ("updated", "a://b"),
        ("list_changed", None),
        ("updated", "a://b"),
        ("updated", "a://c"),
    ]


async def test_a_client_that_is_too_far_behind_has_its_stream_ended() -> None:
    client, all_of = Client(), Streams()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(all_of.serve(client), name="serve")
        await asyncio.sleep(1)
        for number in range(PENDING_MAX + 1):
            all_of.tell(ResourceNews(f"a://{number}"))
        response = await serving
    assert isinstance(response, web.Response)
    result = orjson.loads(response.body)["result"]  # type: ignore[arg-type]  # it was written as bytes
    assert result["_meta"] == {"io.modelcontextprotocol/subscriptionId": 1}
    assert repr(all_of.streams) == "<ListenStreams 0 open>"


async def test_all_streams_end_when_the_node_shuts_down_and_no_other_begins() -> None:
    client, late, all_of = Client(), Client(), Streams()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(all_of.serve(client), name="serve")
        await asyncio.sleep(1)
        all_of.streams.close()
        await serving
    assert client.ended
    assert repr(all_of.streams) == "<ListenStreams 0 open, closing>"
    assert ((await all_of.serve(late)).status, late.got) == (503, [])


async def test_one_stream_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "STREAMS_MAX", 1)
    all_of = Streams()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(all_of.serve(Client()), name="serve")
        await asyncio.sleep(1)
        with pytest.raises(MCPError, match="Subscription limit reached"):
            await all_of.serve(Client())
        serving.cancel()


async def test_subscriptions_above_the_limit_of_the_node_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.subscriptions.registry.SUBSCRIPTIONS_MAX", 1)
    all_of = Streams()
    subscriber = all_of.new(lambda _: None, across_gateways=True)
    with pytest.raises(RpcError, match="1 of a kind on this node"):
        await subscriber.add(["a://b", "a://c"])
