"""Which caller gets a session with a server, or a place for its waiting call, with more callers than places."""

import asyncio

import pytest

from agent.client.protocol import Request
from agent.client.sessions.calls import PATIENCE_S, PENDING_MAX
from agent.client.sessions.pending_call import CONTESTED_PATIENCE_S
from agent.client.sessions.pool import SessionLimits
from agent.client.sessions.router import SessionRouter
from agent.errors import GIVEN_UP, CallNotSent, RpcError
from agent.model import REFUSED_META_KEY
from tests.unit.client.sessions.scripted_sessions import LIMITS, Server, all_at_once, call, client_to, retry

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


async def test_listing_never_waits_for_callers_sessions() -> None:
    server = Server()
    async with client_to(server) as client:
        await all_at_once(*(call(client, "ask") for _ in range(LIMITS.sessions_max)))
        assert (await client.request(Request.within("tools/list", timeout_s=1.0)))["method"] == "tools/list"


@pytest.mark.parametrize("affine", [False, True])
async def test_a_waiting_call_gets_the_session_of_the_client_that_ignores_requests_longest(affine: bool) -> None:
    server, loop = Server(), asyncio.get_running_loop()
    async with client_to(server) as client:
        asked = []
        for n in range(LIMITS.sessions_max):
            asked.append(await call(client, "ask", affinity=str(n) if affine else None))
            await asyncio.sleep(1)
        assert (await call(client, "quick"))["by"] == LIMITS.sessions_max
        assert loop.time() == pytest.approx(CONTESTED_PATIENCE_S, abs=0.5)
        assert server.cancelled == 1
        assert "is over" in server.opened[0].heard[0]["error"]["message"]
        with pytest.raises(RpcError) as caught:
            await call(client, "ask", **retry(asked[0]))
        assert (caught.value.code, caught.value.data) == (-32001, {"outcome": "unknown", "reason": GIVEN_UP})
        for others in asked[1:]:
            assert "heard" in await call(client, "ask", **retry(others))


async def test_asking_again_without_an_answer_does_not_hold_a_session_against_others() -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await all_at_once(*(call(client, "ask") for _ in range(LIMITS.sessions_max)))
        await asyncio.sleep(CONTESTED_PATIENCE_S - 1)
        for one in asked:
            await call(client, "ask", requestState=one["requestState"])
        assert (await call(client, "quick", timeout_s=3.0))["by"] == LIMITS.sessions_max
        assert server.cancelled == 1


async def test_a_client_that_answered_and_waits_for_its_call_keeps_its_session() -> None:
    server = Server(asks_early=True)
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        asked = await all_at_once(*(call(client, "hold") for _ in range(LIMITS.sessions_max)))
        attended = [group.create_task(call(client, "hold", **retry(one)), name="hold") for one in asked]
        await asyncio.sleep(2 * CONTESTED_PATIENCE_S)
        with pytest.raises(CallNotSent):
            await call(client, "quick", timeout_s=20.0)
        assert server.cancelled == 0
        server.go_on.set()
        await asyncio.wait(attended)


async def test_as_many_sessions_are_reclaimed_as_there_are_waiting_calls() -> None:
    server = Server()
    async with client_to(server) as client:
        await all_at_once(*(call(client, "ask") for _ in range(LIMITS.sessions_max)))
        await all_at_once(*(call(client, "hold", timeout_s=20.0) for _ in range(2)))
        await asyncio.sleep(1)
        assert server.cancelled == 2 + 2, "two that were ignored, and the two that ran out of time"
        assert "<SessionPool 1 of 1 in use>" in repr(client), "the third is still waited for"


async def test_pending_calls_that_are_ignored_make_room_for_new_ones() -> None:
    server = Server()
    async with SessionRouter(server.shared(), server.open, limits=SessionLimits(PENDING_MAX + 1, 1)) as client:
        await all_at_once(*(call(client, "ask") for _ in range(PENDING_MAX)))
        await asyncio.sleep(CONTESTED_PATIENCE_S)
        assert "inputRequests" in await call(client, "ask")


async def test_a_flood_of_server_requests_costs_its_own_calls_and_never_that_of_a_slower_client() -> None:
    server = Server()
    async with client_to(server) as client:
        honest = await call(client, "ask", affinity="honest")
        for _ in range(4):
            flood = await all_at_once(*(call(client, "ask", timeout_s=20.0) for _ in range(2)))
            assert all("inputRequests" in asked for asked in flood)
            await asyncio.sleep(CONTESTED_PATIENCE_S + 1)
        assert "heard" in await call(client, "ask", affinity="honest", **retry(honest))


async def test_one_client_that_parks_calls_without_end_loses_its_own_and_not_those_of_others() -> None:
    server = Server()
    async with SessionRouter(server.shared(), server.open, limits=SessionLimits(PENDING_MAX, 1)) as client:
        honest = await call(client, "ask", affinity="honest")
        await all_at_once(*(call(client, "ask", affinity="flood") for _ in range(PENDING_MAX - 1)))
        await asyncio.sleep(CONTESTED_PATIENCE_S)
        for _ in range(PENDING_MAX - 1):
            assert "inputRequests" in await call(client, "ask", affinity="flood")
        refused = await call(client, "ask", affinity="flood")
        assert refused["heard"]["error"]["message"] == "Too many calls wait for input already"
        assert "heard" in await call(client, "ask", affinity="honest", **retry(honest))


async def test_the_events_of_pending_calls_are_counted() -> None:
    server, told = Server(), list[str]()
    waiting = 0

    def on_pending(event: str, change: int) -> None:
        nonlocal waiting
        told.append(event)
        waiting += change

    async with client_to(server, on_pending=on_pending) as client:
        asked = await call(client, "ask")
        assert waiting == 1
        await call(client, "ask", **retry(asked))
        asked = await call(client, "ask")
        with pytest.raises(RpcError, match="gave the call up"):
            await call(client, "ask", requestState=asked["requestState"], _meta={REFUSED_META_KEY: {}})
        await call(client, "ask")
        await asyncio.sleep(PATIENCE_S)
        assert (told, waiting) == (["parked", "resumed", "parked", "cancelled", "parked", "expired"], 0)
        told.clear()
        await all_at_once(*(call(client, "ask") for _ in range(LIMITS.sessions_max)))
        await call(client, "ask", timeout_s=20.0)
        assert sorted(told) == ["given_up", *["parked"] * 4]
        told.clear()
    assert (told, waiting) == (["lost"] * 4, 0)
