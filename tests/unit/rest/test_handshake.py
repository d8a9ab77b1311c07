"""What a stranger may do at the route of handshakes before it has proven anything."""

import asyncio
import time

import pytest
from aiohttp import web

from agent.identity.addresses import OwnAddresses
from agent.identity.keeper import AssociationKeeper
from agent.identity.node_key import NodeKey
from agent.model import HANDSHAKE_PATH
from agent.rest import handshake
from tests.waiting import PATIENCE_S


async def test_a_message_that_does_not_arrive_holds_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "REST_BODY_TIMEOUT_S", 0.05)
    keeper = AssociationKeeper(NodeKey.new(), (b"one mesh",), time.monotonic)
    app = web.Application()
    app.add_routes(handshake.HandshakeRoute(keeper, OwnAddresses(frozenset(), frozenset())).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        head = f"POST {HANDSHAKE_PATH} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
        writer.write(head.encode() + b"{")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
            writer.write(b"}")
            await reader.read()
        writer.close()
    finally:
        await runner.cleanup()
