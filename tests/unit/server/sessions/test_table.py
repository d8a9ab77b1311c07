"""The table of sessions in loop time: how long they last, what keeps them, and that nothing outlives them."""

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from agent.authority.grant import Grant
from agent.errors import MCPError
from agent.model import Json
from agent.routing.table import RouteTable
from agent.server.sessions.sealed_id import SessionSeal
from agent.server.sessions.session import CALLS_MAX, NOTES_MAX, SERVER_REQUEST_BYTES_MAX, Outcome, ServerSession, Tell
from agent.server.sessions.table import IDLE_MAX_S, SWEEP_EVERY_S, NoRoom, Sessions
from agent.subscriptions.registry import Counts
from agent.subscriptions.resources import ResourceNews, ResourceUpdates
from tests.callers import served

pytestmark = pytest.mark.looptime


KEY = b"k" * 32


@asynccontextmanager
async def table(events: list[str] | None = None) -> AsyncIterator[Sessions]:
    record = (lambda _: None) if events is None else events.append
    sessions = Sessions(record, unheard, SessionSeal("/mcp", lambda: [KEY]), sessions_max=3)
    async with asynccontextmanager(sessions.cleanup_ctx)(web.Application()):
        yield sessions


async def unheard(_session: ServerSession) -> None:
    """No server keeps anything for a session."""


def opened(sessions: Sessions) -> ServerSession:
    return sessions.open("2025-06-18", b"{}")


async def never() -> Outcome:
    await asyncio.Event().wait()
    return ()


async def test_a_session_is_forgotten_when_it_was_idle_for_its_time_and_not_before() -> None:
    async with table() as sessions:
        used, unused = opened(sessions), opened(sessions)
        await asyncio.sleep(IDLE_MAX_S - 1)
        assert sessions.find(used.id) is used
        await asyncio.sleep(SWEEP_EVERY_S + 1)
        assert repr(sessions) == "<Sessions open 1>"
        assert sessions.find(used.id) is used
        assert sessions.find(unused.id) is not unused


async def test_work_that_comes_when_the_server_is_ending_is_closed_and_not_left_unawaited() -> None:
    late = never()
    async with table() as sessions:
        session = opened(sessions)

        async def call() -> Outcome:
            try:
                return await never()
            finally:  # As a call does that is cancelled with its session: it would follow the server's session.
                with pytest.raises(RuntimeError, match="begins nothing"):
                    sessions.start_task(late, "follow")

        session.add_call(1, sessions.start_task(call(), "call"))
        await asyncio.sleep(1)
    assert inspect.getcoroutinestate(late) == inspect.CORO_CLOSED


async def test_a_call_under_way_keeps_its_session_and_the_time_counts_from_its_end() -> None:
    async with table() as sessions:
        session = opened(sessions)
        call = sessions.start_task(never(), "call")
        session.add_call(1, call)
        await asyncio.sleep(3 * IDLE_MAX_S)
        call.cancel()
        await asyncio.sleep(IDLE_MAX_S - 2 * SWEEP_EVERY_S)
        assert repr(sessions) == "<Sessions open 1>"
        await asyncio.sleep(4 * SWEEP_EVERY_S)
        assert repr(sessions) == "<Sessions open 0>"


async def test_the_longest_idle_session_makes_room_and_those_in_use_do_not() -> None:
    async with table() as sessions:
        first, second, third = opened(sessions), opened(sessions), opened(sessions)
        first.add_call(1, sessions.start_task(never(), "call"))
        sessions.find(second.id)
        fourth = opened(sessions)
        for session in (second, fourth):
            session.add_call(1, sessions.start_task(never(), "call"))
        with pytest.raises(NoRoom):
            sessions.open("2025-06-18", b"{}")
        with pytest.raises(NoRoom):
            sessions.find(third.id)
        assert {sessions.find(session.id) for session in (first, second, fourth)} == {first, second, fourth}


async def test_no_caller_pushes_out_the_idle_sessions_of_another_and_each_finds_its_own_alone() -> None:
    async with table() as sessions:
        with served(Grant("quiet")):
            quiet = opened(sessions)
        with served(Grant("greedy")):
            for _ in range(10):
                last = opened(sessions)
            assert sessions.find(last.id) is last
            assert sessions.find(quiet.id) is None
        with served(Grant("quiet")):
            assert sessions.find(quiet.id) is quiet
            assert sessions.find(last.id) is None


async def test_a_caller_whose_sessions_are_all_in_use_neither_ends_anothers_nor_takes_the_last_place() -> None:
    async with table() as sessions:
        with served(Grant("greedy")):
            for _ in range(2):
                session = opened(sessions)
                session.add_call(1, sessions.start_task(never(), "call"))
            with pytest.raises(NoRoom):
                opened(sessions)
        with served(Grant("quiet")):
            quiet = opened(sessions)
        with served(Grant("greedy")), pytest.raises(NoRoom):
            opened(sessions)
        with served(Grant("quiet")):
            assert sessions.find(quiet.id) is quiet


async def test_what_a_revoked_token_has_ends_and_what_all_share_stays() -> None:
    events: list[str] = []
    async with table(events) as sessions:
        shared = opened(sessions)
        with served(Grant("one")):
            opened(sessions)
        with served(Grant("other")):
            other = opened(sessions)
        sessions.end_of_revoked({Grant("other").binding})
        assert sessions.find(shared.id) is shared
        with served(Grant("other")):
            assert sessions.find(other.id) is other
    assert events.count("revoked") == 1


async def test_another_table_adopts_a_session_and_says_once_that_lists_may_have_changed() -> None:
    events: list[str] = []
    async with table() as before, table(events) as sessions:
        first = before.open("2025-11-25", b'{"sampling":{}}')
        adopted = sessions.find(first.id)
        assert adopted is not None
        assert (adopted.version, adopted.capabilities) == ("2025-11-25", {"sampling": {}})
        notes = [orjson.loads(note)["method"] for note in adopted.take_notes()]
        assert notes == [f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")]
        assert sessions.find(first.id) is adopted
        assert adopted.take_notes() == []
    assert events[:1] == ["adopted"]


async def test_a_session_that_its_client_ended_is_not_adopted_again() -> None:
    async with table() as sessions:
        session = opened(sessions)
        await sessions.end_by_client(session)
        assert sessions.find(session.id) is None
        assert sessions.find("guessed") is None


async def test_a_session_takes_no_second_call_of_an_id_and_no_more_than_its_limit() -> None:
    async with table() as sessions:
        session = opened(sessions)
        for number in range(CALLS_MAX):
            session.check_call(number)
            call = session.add_call(number, sessions.start_task(never(), "call"))
        with pytest.raises(MCPError, match="still being served"):
            session.check_call(0)
        with pytest.raises(MCPError, match="limit") as caught:
            session.check_call("another")
        assert caught.value.data["outcome"] == "not_executed"
        session.cancel_call(number)
        await call.ended.wait()
        session.check_call(number)


async def test_an_id_that_is_a_number_and_the_same_as_a_text_are_two() -> None:
    async with table() as sessions:
        session = opened(sessions)
        calls = {request_id: sessions.start_task(never(), "call") for request_id in (1, "1")}
        for request_id, call in calls.items():
            session.check_call(request_id)
            session.add_call(request_id, call)
        for unknown in (["1"], {"id": 1}, None, "2", 1.5, True):
            session.cancel_call(unknown)
        session.cancel_call("1")
        await asyncio.wait([calls["1"]])
        assert not calls[1].done()


async def test_a_call_that_is_cancelled_twice_says_goodbye_once_and_to_the_end() -> None:
    said: list[str] = []

    async def polite() -> Outcome:
        try:
            return await never()
        finally:
            await asyncio.sleep(0.5)
            said.append("goodbye")

    async with table() as sessions:
        session = opened(sessions)
        call = sessions.start_task(polite(), "call")
        session.add_call(1, call)
        await asyncio.sleep(0)
        session.cancel_call(1)
        await asyncio.sleep(0.1)
        session.cancel_call(1)
        sessions.end(session, "by_client")
        await asyncio.wait([call])
        assert said == ["goodbye"]


@pytest.mark.usefixtures("gc_off")
async def test_a_session_that_ends_leaves_nothing_for_the_garbage_collector() -> None:
    async with table() as sessions:
        session = opened(sessions)
        updates = ResourceUpdates(lambda _: None, Counts(lambda _: None, lambda: None))
        session.subscriber = updates.subscriber(RouteTable, session.updated)
        lives_on = weakref.ref(session.subscriber)
        sessions.end(session, "by_client")
        del session
        assert lives_on() is None


@pytest.fixture
def gc_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def test_the_end_of_the_table_ends_every_call() -> None:
    async with table() as sessions:
        calls = [sessions.start_task(never(), "call") for _ in range(2)]
        for number, call in enumerate(calls):
            opened(sessions).add_call(number, call)
    assert all(call.cancelled() for call in calls)
    assert repr(sessions) == "<Sessions idle 0>"


async def test_a_server_request_without_a_waiting_call_is_cancelled() -> None:
    told: list[Json] = []

    async def tell(message: bytes) -> None:
        told.append(orjson.loads(message))

    async with table() as sessions:
        session = opened(sessions)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await session.ask(tell, "roots/list", {})
        assert [message["method"] for message in told] == ["roots/list", "notifications/cancelled"]
        assert told[1]["params"]["requestId"] == told[0]["id"]
        session.take_answer({"id": told[0]["id"], "result": {}})
        with pytest.raises(MCPError, match="larger"):
            await session.ask(tell, "roots/list", {"x": "y" * SERVER_REQUEST_BYTES_MAX})
        assert repr(session) == "<Session 2025-06-18 calls=0 server_requests=0>"


async def test_no_call_waits_for_answers_to_a_node_that_takes_no_connections_any_more() -> None:
    asked = asyncio.Event()

    async def tell(_: bytes) -> None:
        asked.set()

    async with table() as sessions, asyncio.TaskGroup() as group:
        session = opened(sessions)
        waiting = group.create_task(_refusal(session, tell), name="ask")
        await asked.wait()
        await sessions.on_shutdown(web.Application())
        assert await waiting == "this node shuts down, and can hear no answer any more"
        assert await _refusal(session, tell) == await _refusal(opened(sessions), tell) == waiting.result()


async def _refusal(session: ServerSession, tell: Tell) -> str:
    with pytest.raises(MCPError) as caught:
        await session.ask(tell, "roots/list", {})
    return caught.value.message


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ({"error": {"code": -7, "message": "no"}}, -7, "no"),
        ({"error": {"code": "7", "message": 7}}, -32603, "without a result"),
        ({"result": []}, -32603, "without a result"),
    ],
)
async def test_an_answer_without_a_result_is_a_refusal(message: Json, code: int, text: str) -> None:
    async with table() as sessions:
        session = opened(sessions)

        async def refuse(question: bytes) -> None:
            session.take_answer({"id": str(orjson.loads(question)["id"]), **message})

        with pytest.raises(MCPError, match=text) as caught:
            await session.ask(refuse, "roots/list", {})
        assert caught.value.code == code


async def test_notes_wait_for_a_client_that_does_not_listen_each_once_and_no_more_than_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with table() as sessions:
        session, late = opened(sessions), opened(sessions)
        for _ in range(2):
            sessions.tell("notifications/tools/list_changed")
            session.updated(ResourceNews("a://b"))
        tools = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
        update = b'{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://b"}}'
        assert session.take_notes() == [tools, update]
        assert session.take_notes() == []
        for number in range(NOTES_MAX + 2):
            late.updated(ResourceNews(str(number)))
        assert len(caplog.records) == 1
        assert len(late.take_notes()) == NOTES_MAX
