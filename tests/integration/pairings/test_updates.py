"""Pairings: a client hears of updates of the resources that it named, and which it cannot hear of."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.subscriptions import listen
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceUpdatedNotification

from agent.model import Era
from tests.integration.pairings.cells import Cell, wire
from tests.integration.servers.pairing_definitions import REFUSED_URI
from tests.waiting import UNREPAIRED_S

URI = "pair://page/one"


async def touched(cell: Cell, uri: str) -> None:
    async with wire(cell) as mcp:
        assert await mcp.text("touch", uri=uri) == "done"


async def unasked(_context: Any, params: Any) -> Any:
    """What makes a client one that can be asked."""
    raise AssertionError(params)


async def check_a_stateless_client(cell: Cell) -> None:
    wanted = [cell.uri(URI), cell.uri(REFUSED_URI), "nowhere://at/all"]
    async with Client(cell.url) as mcp, listen(mcp.session, resource_subscriptions=wanted) as subscription:
        assert subscription.honored.resource_subscriptions == [cell.uri(URI)]
        await touched(cell, URI)
        event = await anext(subscription)
        assert event.uri == cell.uri(URI)


async def check_a_client_with_a_session(cell: Cell) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            told.put_nowait(message.params.uri)

    async with Client(cell.url, mode="legacy", message_handler=hear) as mcp:
        await mcp.subscribe_resource(cell.uri(URI))
        for uri in (cell.uri(REFUSED_URI), "nowhere://at/all"):
            with pytest.raises(MCPError) as refused:
                await mcp.subscribe_resource(uri)
            assert refused.value.error.code == -32602
        await touched(cell, URI)
        assert await told.get() == cell.uri(URI)
        other = "pair://item/two"
        await mcp.subscribe_resource(cell.uri(other))
        await mcp.unsubscribe_resource(cell.uri(URI))
        await touched(cell, URI)
        await touched(cell, other)
        assert await told.get() == cell.uri(other)


@pytest.mark.filterwarnings("ignore:resources/.*subscribe is removed")
@pytest.mark.parametrize("changes", [False, True], ids=["lists stay", "lists change"])
async def test_an_update_comes_under_the_name_that_the_client_knows(cell: Cell, changes: bool) -> None:
    async with asyncio.timeout(UNREPAIRED_S):
        if changes:
            async with wire(cell) as mcp:
                await mcp.grow()
        await (check_a_client_with_a_session if cell.front is Era.LEGACY else check_a_stateless_client)(cell)


@pytest.mark.filterwarnings("ignore:resources/.*subscribe is removed")
async def test_each_of_several_clients_hears_of_a_change_once_also_in_sessions_of_their_own(cell: Cell) -> None:
    uris = [cell.uri("pair://item/two"), cell.uri(URI)]
    told: list[asyncio.Queue[str]] = [asyncio.Queue(), asyncio.Queue()]
    async with asyncio.timeout(UNREPAIRED_S), AsyncExitStack() as stack:
        for queue in told:

            async def hear(message: Any, queue: asyncio.Queue[str] = queue) -> None:
                if isinstance(message, ResourceUpdatedNotification):
                    queue.put_nowait(message.params.uri)

            mcp = await stack.enter_async_context(
                Client(cell.url, mode="legacy", message_handler=hear, elicitation_callback=unasked)
            )
            for uri in uris:
                await mcp.subscribe_resource(uri)
        for name in ("pair://item/two", URI) * 2:
            await touched(cell, name)
            assert [await queue.get() for queue in told] == [cell.uri(name)] * 2
        await mcp.unsubscribe_resource(uris[0])
        for name in ("pair://item/two", URI):
            await touched(cell, name)
        assert [await told[0].get() for _ in uris] == uris
        assert await told[1].get() == uris[1]
