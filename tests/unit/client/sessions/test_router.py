"""Sessions of one's own and parked calls in loop time: limits, idle time, patience, and what is left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import orjson
import pytest

from agent.client.capabilities import EVERY_FEATURE
from agent.client.protocol import Request
from agent.client.sessions.calls import PATIENCE_S, PENDING_MAX
from agent.client.sessions.pool import STREAM_WAIT_S, SessionLimits
from agent.client.sessions.router import SessionRouter
from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, ProtocolBroken, RpcError
from agent.model import POLL_META_KEY, REFUSED_META_KEY, Json
from tests.unit.client.sessions.scripted_sessions import (
    FORM,
    LIMITS,
    Server,
    Session,
    all_at_once,
    call,
    client_to,
    nested,
    question,
    retry,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


async def test_calls_after_each_other_share_a_session_and_calls_at_once_do_not() -> None:
    server = Server()
    async with client_to(server) as client:
        assert [(await call(client, "quick"))["by"] for _ in range(3)] == [0, 0, 0]
        server.go_on.set()
        at_once = await all_at_once(call(client, "hold"), call(client, "hold"))
        assert sorted(result["by"] for result in at_once) == [0, 1]
        assert [session.features for session in server.opened] == [{"elicitation": {}}] * 2


async def test_calls_of_one_client_share_its_session_even_at_once() -> None:
    server = Server()
    server.go_on.set()
    async with client_to(server) as client:
        results = await all_at_once(*(call(client, "hold", affinity=key) for key in "aabb"))
        assert [result["by"] for result in results] == [0, 0, 1, 1]


async def test_a_call_waits_for_a_session_when_all_are_in_use_and_then_gets_one() -> None:
    server = Server()
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        first = [group.create_task(call(client, "hold"), name="hold") for _ in range(LIMITS.sessions_max)]
        await asyncio.sleep(1)
        with pytest.raises(CallNotSent, match="did not answer"):
            await call(client, "quick", timeout_s=5.0)
        waiting = group.create_task(call(client, "quick"), name="quick")
        await asyncio.sleep(1)
        assert not waiting.done()
        server.go_on.set()
        await asyncio.wait([*first, waiting])
        assert waiting.result()["method"] == "tools/call"
        assert len(server.opened) == LIMITS.sessions_max


async def test_idle_sessions_end_at_once_beyond_the_limit_and_the_others_in_time() -> None:
    server = Server()
    server.go_on.set()
    async with client_to(server) as client:
        await all_at_once(*(call(client, "hold") for _ in range(3)))
        await asyncio.sleep(1)
        assert (len(server.opened), server.closed) == (3, 1)
        await asyncio.sleep(LIMITS.idle_s)
        assert server.closed == 3
        assert repr(client).endswith("<SessionPool 0 of 0 in use> <PendingCalls 0>>")


async def test_another_clients_session_makes_room_when_it_is_idle() -> None:
    server = Server()
    async with client_to(server) as client:
        for key in "abcdef":
            await call(client, "quick", affinity=key)
        assert len(server.opened) == 6
        assert server.closed >= 6 - LIMITS.sessions_max


async def test_a_lost_session_is_not_lent_again() -> None:
    server = Server()
    async with client_to(server) as client:
        await call(client, "quick", affinity="a")
        server.opened[0].lost_reason = "gone"
        server.opened[0].lost.set()
        assert (await call(client, "quick", affinity="a"))["by"] == 1


@pytest.mark.parametrize("name", ["ask", "ask aside"])
async def test_an_answer_goes_on_with_the_call_and_spends_the_session(name: str) -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, name)
        assert list(asked["inputRequests"].values()) == [{"method": "elicitation/create", "params": FORM}]
        assert (await call(client, name, **retry(asked)))["heard"]["result"] == {"action": "accept"}
        await call(client, "quick")
        assert [session.calls for session in server.opened] == [1, 1]
        with pytest.raises(RpcError, match="answered already"):
            await call(client, name, **retry(asked))


async def test_a_server_request_on_opening_goes_to_the_call_that_the_session_was_opened_for() -> None:
    server = Server(asks_early=True, answering_s=0.5)
    async with client_to(server) as client:
        asked = await call(client, "heard so far")
        answered = await call(client, "heard so far", **retry(asked))
        # It may matter to the call, which waits for it.
        assert answered["heard"] == [{"jsonrpc": "2.0", "id": 99, "result": {"action": "accept"}}]
        await client.request(Request.within("tools/list", timeout_s=1.0))
        refused = server.opened[1].asked_early
        assert refused is not None, "no client stands behind our own listing"
        assert orjson.loads(refused)["error"]["code"] == -32600


async def test_what_a_server_asks_in_a_session_outlives_a_call_that_is_over_first() -> None:
    server = Server()
    async with client_to(server) as client:
        assert "by" in await call(client, "ask in passing", affinity="a")
        asked = await call(client, "quick", affinity="a")
        assert len(asked["inputRequests"]) == 1
        assert "by" in await call(client, "quick", affinity="a", **retry(asked))
        assert [reply["result"] for reply in server.opened[0].heard] == [{"action": "accept"}]
        assert "by" in await call(client, "quick", affinity="a"), "it is asked once"


async def test_a_session_for_any_caller_passes_no_question_on_to_the_next_one() -> None:
    server = Server()
    async with client_to(server) as client:
        assert "by" in await call(client, "ask in passing")
        assert "by" in await call(client, "quick")
        assert [reply["error"]["message"] for reply in server.opened[0].heard] == [
            "The request that this question belongs to is over"
        ]


async def test_polling_a_pending_call_changes_nothing() -> None:
    server = Server()
    look: Json = {POLL_META_KEY: True}
    async with client_to(server) as client:
        asked = await call(client, "ask")
        state = asked["requestState"]
        for _ in range(2):
            assert await call(client, "ask", requestState=state, _meta=look) == asked
        server.opened[0].on_notice("notifications/cancelled", {"requestId": 1})
        assert await call(client, "ask", requestState=state, _meta=look) == {**asked, "inputRequests": {}}
        server.opened[0].heard.append({"id": 1})
        server.opened[0].answered.set()
        await asyncio.sleep(1)
        assert (await call(client, "ask", requestState=state, _meta=look))["heard"] == {"id": 1}
        with pytest.raises(RpcError, match="names no call"):
            await call(client, "ask", requestState=state, _meta=look)


class Buggy(dict[str, Any]):
    """What breaks where it is looked at."""

    def values(self) -> Any:
        raise ZeroDivisionError("a bug of ours")


@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [({"content": nested(300)}, RpcError, "cannot be sent"), ({"_meta": Buggy()}, ZeroDivisionError, "a bug")],
)
async def test_answers_that_cannot_be_written_end_the_call_instead_of_leaving_it_open(
    answer: Json, failure: type[Exception], words: str
) -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, "ask")
        told = retry(asked)
        told["inputResponses"] = dict.fromkeys(asked["inputRequests"], answer)
        with pytest.raises(failure, match=words):
            await call(client, "ask", **told)
        await asyncio.sleep(1)
        assert server.cancelled == 1
        assert repr(client).endswith("<SessionPool 0 of 0 in use> <PendingCalls 0>>")


async def test_a_server_request_that_no_result_can_carry_is_refused() -> None:
    server = Server()
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        held = group.create_task(call(client, "hold"), name="hold")
        await asyncio.sleep(1)
        refused = server.opened[0].on_server_request(question(1) | {"params": FORM | {"more": nested(300)}})
        assert refused is not None
        assert orjson.loads(refused)["error"]["code"] == -32602
        server.go_on.set()
        assert (await held)["by"] == 0


async def test_a_caller_that_leaves_in_the_moment_in_which_its_session_is_open_gives_it_back() -> None:
    def leave() -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "call in a dedicated session":
                task.cancel()

    async with client_to(Server(on_open=leave)) as client:
        with pytest.raises(CallOutcomeUnknown, match="given up"):
            await call(client, "quick")
        assert "<SessionPool 0 of 1 in use>" in repr(client)


async def test_a_server_request_between_calls_waits_for_the_same_client_and_for_no_other() -> None:
    server = Server()
    async with client_to(server) as client:
        await call(client, "quick")
        assert server.opened[0].on_server_request(question(7)) is not None
        server.go_on.set()
        await call(client, "hold", affinity="a")
        assert server.opened[1].on_server_request(question(8)) is None
        assert "inputRequests" in await call(client, "hold", affinity="a")


async def test_a_stream_that_comes_up_late_is_waited_for_once() -> None:
    server, loop = Server(streams_late=True), asyncio.get_running_loop()
    async with client_to(server) as client:
        for key, waited_s in (("a", STREAM_WAIT_S), ("b", 0.0)):
            began_s = loop.time()
            await call(client, "quick", affinity=key)
            assert loop.time() - began_s == pytest.approx(waited_s, abs=0.1)


async def test_a_clients_own_session_outlives_its_answers() -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, "ask", affinity="a")
        await call(client, "ask", affinity="a", **retry(asked))
        assert (await call(client, "quick", affinity="a"))["by"] == 0


async def test_a_client_that_never_comes_back_leaves_nothing() -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, "ask")
        await asyncio.sleep(PATIENCE_S - 1)
        assert server.cancelled == 0
        await asyncio.sleep(2)
        assert (server.cancelled, server.closed) == (1, 1)
        assert server.opened[0].heard[0]["error"]["message"] == "The request that this question belongs to is over"
        with pytest.raises(RpcError, match="names no call"):
            await call(client, "ask", **retry(asked))
        assert repr(client).endswith("<SessionPool 0 of 0 in use> <PendingCalls 0>>")


async def test_a_deadline_counts_for_each_attempt_and_not_for_the_user() -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, "ask", timeout_s=5.0)
        await asyncio.sleep(100)
        assert "heard" in await call(client, "ask", timeout_s=5.0, **retry(asked))
        with pytest.raises(CallTimedOut):
            await call(client, "hold", timeout_s=5.0)
        await asyncio.sleep(1)
        assert server.cancelled == 1


async def test_a_client_that_closes_ends_its_pending_calls() -> None:
    server = Server()
    async with client_to(server) as client:
        await call(client, "ask")
        await call(client, "ask", affinity="a")
    assert (server.cancelled, server.closed) == (2, 2)


async def test_a_client_that_closes_while_a_server_learns_that_its_call_is_over_finishes_that() -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, "ask")
        with pytest.raises(RpcError, match="gave the call up"):
            await call(client, "ask", **retry(asked), _meta={REFUSED_META_KEY: {}})
        await asyncio.sleep(0.1)
    assert server.cancelled == 1
    assert "is over" in server.opened[0].heard[0]["error"]["message"]


@pytest.mark.parametrize("affinity", [None, "a"])
async def test_a_bug_of_ours_ends_its_call_and_session_and_leaves_the_others(
    affinity: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    async with client_to(server) as client:
        asked = await call(client, "ask", affinity="other")
        with pytest.raises(ProtocolBroken, match="unexpected ZeroDivisionError"):
            await call(client, "bug", affinity=affinity)
        await asyncio.sleep(1)
        assert server.closed == 1
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert (await call(client, "quick", affinity=affinity))["by"] == 2
        assert "heard" in await call(client, "ask", affinity="other", **retry(asked))


async def test_a_bug_of_ours_on_opening_a_session_fails_that_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    server, bugs = Server(), [ZeroDivisionError()]

    def open_once_broken(*args: Any) -> AbstractAsyncContextManager[Session]:
        if bugs:
            raise bugs.pop()
        return server.open(*args)

    async with SessionRouter(server.shared(), open_once_broken, limits=LIMITS) as client:
        with pytest.raises(CallNotSent, match="unexpected ZeroDivisionError"):
            await call(client, "quick")
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert (await call(client, "quick"))["by"] == 0


async def test_a_server_with_one_session_is_called_over_it_after_one_try_for_another() -> None:
    server = Server(refuses=True)
    async with client_to(server) as client:
        assert (await call(client, "quick"))["by"] is None
        server.refuses = False
        assert (await call(client, "quick"))["by"] is None
        assert (await client.request(Request.within("tools/list", timeout_s=1.0)))["by"] is None
    async with client_to(Server(refuses=True), own_for_all=True) as client:
        with pytest.raises(CallNotSent, match="one is enough"):
            await call(client, "quick")


async def test_lists_are_read_with_every_feature_and_calls_without_any_are_shared() -> None:
    server = Server()
    async with client_to(server) as client:
        await client.request(Request.within("tools/list", timeout_s=1.0))
        assert [session.features for session in server.opened] == [EVERY_FEATURE]
        assert (await client.request(Request.within("tools/call", {"name": "quick"}, timeout_s=1.0)))["by"] is None
        assert (await client.request(Request.within("ping", timeout_s=1.0)))["by"] is None


async def test_a_list_is_read_in_the_shared_session_while_another_is_slow_to_open_and_else_timed_by_that() -> None:
    late, server = Server(streams_late=True), Server()
    async with client_to(late) as client:
        assert (await client.request(Request.within("tools/list", timeout_s=1.0)))["by"] is None
        assert (await client.request(Request.within("tools/list", timeout_s=60.0)))["by"] == 0
        assert len(late.opened) == 1, "it went on opening meanwhile"
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        listing = group.create_task(
            client.request(Request.within("tools/list", {"name": "hold"}, timeout_s=1.0)), name="list"
        )
        asyncio.get_running_loop().call_later(2.0, server.go_on.set)
        assert (await listing)["by"] == 0  # This one does not look at the clock; only it knows what it has sent.


async def test_a_list_is_left_the_time_that_a_gateway_needs_which_starts_a_program_for_each_request() -> None:
    server = Server()

    @asynccontextmanager
    async def open_slowly(*args: Any) -> AsyncIterator[Session]:
        await asyncio.sleep(20.0)
        async with server.open(*args) as session:
            yield session

    async with SessionRouter(server.shared(), open_slowly, limits=LIMITS, opened_in_s=20.0) as client:
        began_s = asyncio.get_running_loop().time()
        assert (await client.request(Request.within("tools/list", timeout_s=35.0)))["by"] is None
        assert asyncio.get_running_loop().time() - began_s < 35.0 - 20.0
        assert (await client.request(Request.within("tools/list", timeout_s=600.0)))["by"] == 0


async def test_a_list_change_in_any_session_reaches_the_listener() -> None:
    server, heard = Server(), list[str]()
    async with client_to(server) as client, asyncio.TaskGroup() as group:
        listening = group.create_task(client.listen(heard.append), name="listen")
        await call(client, "quick")
        server.opened[0].on_change("tools")
        assert heard == ["listening", "tools"]
        listening.cancel()


async def test_too_many_pending_calls_have_their_server_requests_refused() -> None:
    server = Server()
    async with SessionRouter(server.shared(), server.open, limits=SessionLimits(PENDING_MAX + 1, 1)) as client:
        parked = await all_at_once(*(call(client, "ask") for _ in range(PENDING_MAX)))
        assert {result["resultType"] for result in parked} == {"input_required"}
        refused = await call(client, "ask")
        assert refused["heard"]["error"]["message"] == "Too many calls wait for input already"
