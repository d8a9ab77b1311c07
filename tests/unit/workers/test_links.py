"""A worker's way to a backend: what it learns of it during calls."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.client.event import Event
from agent.client.http.stateless import HttpStatelessClient
from agent.client.protocol import Request
from agent.errors import CallNotSent, Unreachable
from agent.links.dial import OpenClient
from agent.model import BackendSpec, HttpTarget, LinkState, LinkView, NodeIdentity, ServerScope, ServerSpec
from agent.workers import links as workers_links
from agent.workers.links import WorkerLink, WorkerLinks
from tests.waiting import eventually

SPEC = ServerSpec("kit", HttpTarget("http://127.0.0.1:9/mcp"), ServerScope.SERVICE)
VIEW = LinkView(SPEC, LinkState.READY, protocol_version="2026-07-28", ready_at_s=1.0)
OWN = NodeIdentity("id", "node")


class NotifyingClient:
    """A client whose server notifies of something before it answers."""

    def __init__(self, method: str, result: dict[str, Any]) -> None:
        self._method = method
        self._result = result

    async def request(self, request: Request) -> dict[str, Any]:
        assert request.on_notification is not None
        await request.on_notification(self._method, {})
        return self._result


def link_with(client: NotifyingClient) -> WorkerLink:
    link = WorkerLink(VIEW)
    link.client = cast("HttpStatelessClient", client)
    return link


@pytest.mark.parametrize(
    ("method", "changed"), [("notifications/tools/list_changed", True), ("notifications/progress", False)]
)
async def test_change_of_a_list_during_a_call_is_noted_and_handed_on(method: str, *, changed: bool) -> None:
    heard: list[str] = []

    async def hear(method: str, _params: object) -> None:
        heard.append(method)

    link = link_with(NotifyingClient(method, {"content": []}))
    assert await link.request(Request.within("tools/call", {}, timeout_s=1.0, on_notification=hear)) == {"content": []}
    assert heard == [method]
    assert link.lists_changed is changed


class StartingClient:
    """A client that sends without waiting, and whose server then wants a session after all."""

    lists_by_session = False
    lost = Event()

    def __init__(self) -> None:
        self.started: list[Request] = []

    def start_request(self, request: Request, _taker: object) -> bool:
        request.started = cast("Any", SimpleNamespace(go_on=None))
        self.started.append(request)
        return True

    async def request(self, _request: Request) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": "connections have no session here"}], "isError": True}


async def test_call_in_a_session_is_sent_without_a_task_and_the_node_has_those_that_need_a_session() -> None:
    client, link = StartingClient(), WorkerLink(VIEW)
    link.client = cast("HttpStatelessClient", client)
    request = Request.within("tools/call", {}, timeout_s=1.0)
    request.in_session = True
    assert link.start(request, cast("Any", object()))
    assert client.started == [request]
    assert link.serves_sessions
    assert request.started is not None
    assert request.started.go_on is not None
    await request.started.go_on(request)
    assert not link.serves_sessions


async def test_what_is_no_call_and_what_has_no_way_is_not_sent() -> None:
    with pytest.raises(CallNotSent):
        await WorkerLink(VIEW).request(Request.within("tools/call", {}, timeout_s=1.0))
    link = link_with(NotifyingClient("notifications/progress", {}))
    with pytest.raises(CallNotSent):
        await link.request(Request.within("mesh-agent/client", {}, timeout_s=1.0))


async def test_way_is_opened_when_it_is_wanted_and_given_up_with_its_link() -> None:
    dialled: list[BackendSpec] = []

    async def dial(_stack: AsyncExitStack, spec: BackendSpec, _own: NodeIdentity) -> OpenClient:
        dialled.append(spec)
        raise Unreachable("nothing is there")

    async def was_dialled() -> bool:
        return len(dialled) == 1

    async with asyncio.TaskGroup() as tasks:
        links = WorkerLinks(OWN, dial, tasks)
        links.take({VIEW.key: VIEW})
        assert not dialled
        links.want([VIEW.key, "server:unknown"])
        await eventually(was_dialled)
        assert isinstance(dialled[0], ServerSpec)
        assert dialled[0].protocol == "2026-07-28"
        assert not links.open_ones()
        links.close()


class BusyClient(HttpStatelessClient):
    """A client with a call under way, until that is answered."""

    def __init__(self) -> None:
        self.lost = Event()
        self.is_busy, self.looks = True, 0

    @property
    def is_waited_for(self) -> bool:
        self.looks += 1
        return self.is_busy


@pytest.mark.parametrize("silent", ["never", "at once", "later"])
async def test_a_way_that_is_gone_ends_with_its_calls_under_way_and_at_once_where_none_will_be_answered(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_links, "_LOOK_EVERY_S", 0.001)
    client, closed = BusyClient(), asyncio.Event()

    async def dial(stack: AsyncExitStack, _spec: BackendSpec, _own: NodeIdentity) -> OpenClient:
        stack.callback(closed.set)
        return OpenClient(client, None)

    async def is_open() -> bool:
        return links.open_ones() == {VIEW.key}

    async def is_looked_at() -> bool:
        return client.looks > 2

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        links = WorkerLinks(OWN, dial, tasks)
        links.take({VIEW.key: VIEW})
        links.want([VIEW.key])
        await eventually(is_open)
        link = links.link(VIEW.key)
        assert link is not None
        links.take({}, {VIEW.key} if silent == "at once" else ())
        assert links.link(VIEW.key) is None  # It gets no more calls.
        if silent != "at once":
            await eventually(is_looked_at)
            assert not closed.is_set()
        match silent:
            case "later":
                links.take({}, {VIEW.key})
            case "never":
                client.is_busy = False
        await closed.wait()
