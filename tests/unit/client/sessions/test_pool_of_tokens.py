"""Sessions with servers, child processes among them, and waiting calls: no token takes those of another."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from agent.authority.caller import Caller, serve_for
from agent.authority.grant import Grant
from agent.client.sessions.calls import PENDING_MAX
from agent.client.sessions.pool import SessionLimits
from agent.client.sessions.router import SessionRouter
from agent.client.sessions.shares import quota
from agent.errors import CallNotSent
from tests.unit.client.sessions.scripted_sessions import LIMITS, Server, all_at_once, call, client_to, retry

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

T = TypeVar("T")
FLOOD, OTHER = Grant("flood"), Grant("other")


async def by(grant: Grant, work: Coroutine[Any, Any, T]) -> T:
    """Do it as a client with this grant; other tasks have their own caller."""

    async def done() -> T:
        serve_for(Caller(grant))
        return await work

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(done(), name=grant.name)
    return task.result()


async def test_a_token_with_many_callers_leaves_a_session_for_other_tokens() -> None:
    server = Server()
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        calls = [by(FLOOD, call(client, "hold", affinity=f"flood {n}")) for n in range(2 * LIMITS.sessions_max)]
        held = [group.create_task(one, name="held") for one in calls]
        await asyncio.sleep(5)
        assert len(server.opened) == quota(LIMITS.sessions_max)
        assert (await by(OTHER, call(client, "quick", affinity="other", timeout_s=1.0)))["method"] == "tools/call"
        server.go_on.set()
        await asyncio.wait(held)


async def test_the_idle_session_of_a_token_is_not_ended_for_one_that_holds_more() -> None:
    server = Server()
    async with client_to(server) as client:
        own = (await by(OTHER, call(client, "quick", affinity="other")))["by"]
        for n in range(3 * LIMITS.sessions_max):
            await by(FLOOD, call(client, "quick", affinity=f"flood {n}"))
        assert (await by(OTHER, call(client, "quick", affinity="other")))["by"] == own


async def test_the_unanswered_calls_of_a_token_are_given_up_for_its_own_and_no_others() -> None:
    server = Server()
    async with client_to(server) as client:
        others = await by(OTHER, call(client, "ask", affinity="other"))
        asked = [await by(FLOOD, call(client, "ask", affinity=f"flood {n}")) for n in range(quota(LIMITS.sessions_max))]
        assert (await by(FLOOD, call(client, "quick", affinity="another")))["method"] == "tools/call"
        assert server.cancelled == 1
        assert "heard" in await by(OTHER, call(client, "ask", affinity="other", **retry(others)))
        assert "heard" in await by(FLOOD, call(client, "ask", affinity="flood 1", **retry(asked[1])))


async def test_a_caller_beyond_its_tokens_quota_waits_and_hears_that_nothing_was_sent() -> None:
    server = Server()
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        calls = [by(FLOOD, call(client, "hold", affinity=str(n))) for n in range(quota(LIMITS.sessions_max))]
        held = [group.create_task(one, name="held") for one in calls]
        await asyncio.sleep(1)
        with pytest.raises(ExceptionGroup) as caught:
            await by(FLOOD, call(client, "quick", affinity="one more", timeout_s=5.0))
        assert caught.group_contains(CallNotSent)
        server.go_on.set()
        await asyncio.wait(held)


async def test_the_waiting_calls_of_a_token_leave_room_for_those_of_others() -> None:
    server = Server()
    most = quota(PENDING_MAX)
    async with SessionRouter(server.shared(), server.open, limits=SessionLimits(2 * PENDING_MAX, 1)) as client:
        await all_at_once(*(by(FLOOD, call(client, "ask", affinity=str(n))) for n in range(most)))
        beyond = await by(FLOOD, call(client, "ask", affinity="one more"))
        assert "Too many calls" in beyond["heard"]["error"]["message"]
        others = [by(OTHER, call(client, "ask", affinity=f"other {n}")) for n in range(PENDING_MAX - most)]
        for waiting in await all_at_once(*others):
            assert waiting["resultType"] == "input_required"
