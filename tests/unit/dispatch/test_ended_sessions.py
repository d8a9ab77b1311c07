"""Other nodes hear of ended sessions, each once; where one cannot be notified, later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from agent.client.protocol import Request
from agent.dispatch.ended_sessions import AGAIN_AFTER_S, AT_ONCE_MAX, TOLD_FOR_S, EndedSessionsNotices
from agent.errors import CallNotSent
from agent.model import HttpTarget, Json, LinkView, NodeIdentity, PeerScope, PeerSource, PeerSpec

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

UNTIL_S = 2_000_000_000


class Told:
    """A link that keeps what it is sent, unless it is `away`."""

    def __init__(self, *, is_node: bool = True, scope: PeerScope = PeerScope.LOCAL) -> None:
        self.spec = PeerSpec("two", HttpTarget("http://127.0.0.1:1/mcp"), PeerSource.STATIC, scope=scope)
        self.identity = NodeIdentity("an ID", "two") if is_node else None
        self.reconnects = 0
        self.away = False
        self.heard: list[list[str]] = []

    @property
    def view(self) -> LinkView:
        return LinkView(self.spec, identity=self.identity, reconnects=self.reconnects)

    async def request(self, request: Request) -> Json:
        assert request.params is not None
        if self.away:
            raise CallNotSent("it is away")
        assert {until_s for _, until_s in request.params["sessions"]} == {UNTIL_S}
        self.heard.append([session_id for session_id, _ in request.params["sessions"]])
        return {}


@asynccontextmanager
async def telling(*links: Told) -> AsyncIterator[EndedSessionsNotices]:
    notices = EndedSessionsNotices(lambda: cast("Any", links))
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(notices.run(), name="run")
    try:
        yield notices
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_node_of_the_mesh_hears_of_each_session_once_and_nothing_else_does() -> None:
    node, plain, gateway = Told(), Told(is_node=False), Told(scope=PeerScope.MESH)
    async with telling(node, plain, gateway) as notices:
        for session_id in ("one", "two"):
            notices.note(session_id, UNTIL_S)
            await asyncio.sleep(1)
        notices.routes_changed()
        await asyncio.sleep(AGAIN_AFTER_S * 2)
    assert (node.heard, plain.heard, gateway.heard) == ([["one"], ["two"]], [], [])


async def test_a_node_that_is_connected_again_hears_of_what_ended_lately() -> None:
    node = Told()
    async with telling(node) as notices:
        notices.note("old", UNTIL_S)
        await asyncio.sleep(TOLD_FOR_S - AGAIN_AFTER_S)
        notices.note("new", UNTIL_S)
        await asyncio.sleep(2 * AGAIN_AFTER_S)
        node.reconnects = 1
        notices.routes_changed()
        await asyncio.sleep(1)
    assert node.heard == [["old"], ["new"], ["new"]]


async def test_a_node_that_cannot_be_notified_hears_later_and_holds_up_no_other() -> None:
    near, far = Told(), Told()
    far.away = True
    async with telling(far, near) as notices:
        for number in range(AT_ONCE_MAX + 1):
            notices.note(str(number), UNTIL_S)
        await asyncio.sleep(1)
        assert ([len(batch) for batch in near.heard], far.heard) == ([AT_ONCE_MAX, 1], [])
        far.away = False
        await asyncio.sleep(AGAIN_AFTER_S)
    assert [len(batch) for batch in far.heard] == [AT_ONCE_MAX, 1]
