"""What clients to servers with sessions do when they hear that a client ended its session, or has other roots."""

import asyncio
from typing import Any

import pytest

from agent.client.protocol import Request
from agent.client.sessions.router import SessionRouter
from agent.dispatch.client_events import CalledBackend
from agent.errors import CallOutcomeUnknown
from agent.model import CLIENT_METHOD, ClientEvent, Json
from tests.unit.client.sessions.scripted_sessions import Server, call, client_to, question, retry

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

ROOTED: Json = {"io.modelcontextprotocol/clientCapabilities": {"roots": {"listChanged": True}}}
ADA, BEN = "session:ada", "session:ben"


async def tell(mcp_client: SessionRouter, affinity: str, event: ClientEvent, **more: Any) -> Json:
    told = {"event": event.value, "_meta": ROOTED, **more}
    return await mcp_client.request(Request.within(CLIENT_METHOD, told, timeout_s=5.0, affinity=affinity))


async def test_the_end_of_a_client_ends_its_sessions_and_its_parked_calls_and_no_others() -> None:
    server = Server()
    async with client_to(server) as mcp_client:
        await call(mcp_client, "quick", affinity=ADA)
        gone = await call(mcp_client, "ask", affinity=ADA)
        kept = await call(mcp_client, "ask", affinity=BEN)
        await tell(mcp_client, ADA, ClientEvent.ENDED)
        await asyncio.sleep(1)
        assert (server.cancelled, server.closed) == (1, 1)
        with pytest.raises(CallOutcomeUnknown, match="given up"):
            await call(mcp_client, "ask", affinity=ADA, **retry(gone))
        assert "heard" in await call(mcp_client, "ask", affinity=BEN, **retry(kept))


async def test_a_key_of_a_clients_own_ends_nothing() -> None:
    server = Server()
    async with client_to(server) as mcp_client:
        await call(mcp_client, "quick", affinity="mine")
        await tell(mcp_client, "mine", ClientEvent.ENDED)
        assert (await call(mcp_client, "quick", affinity="mine"))["by"] == 0


async def test_other_roots_are_announced_in_the_session_that_declared_them_and_open_no_other() -> None:
    server = Server()
    async with client_to(server) as mcp_client:
        assert await tell(mcp_client, ADA, ClientEvent.ROOTS_CHANGED, canBeAsked=True) == {"resultType": "complete"}
        assert server.opened == []
        await call(mcp_client, "quick", affinity=ADA, _meta=ROOTED)
        await call(mcp_client, "quick", affinity=BEN, _meta=ROOTED)
        for can_be_asked in (True, False):
            await tell(mcp_client, ADA, ClientEvent.ROOTS_CHANGED, canBeAsked=can_be_asked)
        note = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
        assert [session.heard for session in server.opened] == [[note, note], []]
        assert server.opened[0].features == {"roots": {"listChanged": True}}


async def test_what_a_server_asks_when_it_hears_of_other_roots_is_a_question_like_that_of_a_call() -> None:
    server = Server()
    async with client_to(server) as mcp_client:
        await call(mcp_client, "quick", affinity=ADA, _meta=ROOTED)
        session = server.opened[0]
        session.on_heard = lambda: session.on_server_request({**question(5), "method": "roots/list", "params": {}})
        asked = await tell(mcp_client, ADA, ClientEvent.ROOTS_CHANGED, canBeAsked=True)
        session.on_heard = lambda: None
        assert [one["method"] for one in asked["inputRequests"].values()] == ["roots/list"]
        answers = {key: {"roots": []} for key in asked["inputRequests"]}
        state = asked["requestState"]
        told = await tell(mcp_client, ADA, ClientEvent.ROOTS_CHANGED, requestState=state, inputResponses=answers)
        assert told == {"resultType": "complete"}
        assert session.heard[-1] == {"jsonrpc": "2.0", "id": 5, "result": {"roots": []}}


@pytest.mark.parametrize("owner", ["service:kit", "node:6f9619ff/kit", "plain:kit"])
async def test_the_server_of_a_place_is_named_as_on_its_own_node(owner: str) -> None:
    assert CalledBackend("peer:a", owner).server == "kit"
