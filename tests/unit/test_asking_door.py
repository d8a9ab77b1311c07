"""Sessions of one's own and parked calls in loop time: limits, idle time, patience, and what is left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from agent.core.client_features import EVERY_FEATURE
from agent.errors import GIVEN_UP, CallNotSent, CallOutcomeUnknown, CallTimedOut, ProtocolBroken, RpcError, Unreachable
from agent.links.asking_door import AskingDoor, asking
from agent.links.flag import Flag
from agent.links.hello import Hello, OnNotification, OnQuestion
from agent.links.open_call import CONTESTED_PATIENCE_S
from agent.links.own_session import OnNotice, SessionRefused
from agent.links.own_sessions import STREAM_WAIT_S, SessionLimits
from agent.links.parked import PARKED_MAX, PATIENCE_S
from agent.model import REFUSED_META_KEY, Era, Json

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

FORM: Json = {"message": "Word?", "requestedSchema": {"type": "object", "properties": {}}}
META: Json = {"_meta": {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}}
LIMITS = SessionLimits(sessions_max=3, idle_max=2, idle_s=300.0)


@dataclass(eq=False)
class Session:
    """One session with a server that a test plays: `hold` ends when the server has its answers, or is told to go on."""

    server: "Server"
    features: Json
    on_question: OnQuestion
    on_notice: OnNotice
    lost: Flag = field(default_factory=Flag)
    lost_reason: str = ""
    calls: int = 0
    heard: list[Json] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    on_change: Callable[[str], None] = lambda _: None
    asked_early: bytes | None = None

    @property
    def hello(self) -> Hello:
        return Hello(Era.LEGACY, "2025-11-25", {}, {}, None, None)

    async def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        timeout_s: float,  # noqa: ARG002 - the protocol's signature
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - as above
        on_notification: OnNotification | None = None,
        affinity: str | None = None,  # noqa: ARG002 - as above
        on_question: OnQuestion | None = None,
    ) -> Json:
        self.calls += 1
        try:
            match (params or {}).get("name"):
                case "ask":
                    if on_notification is not None:
                        await on_notification("notifications/progress", {"progress": 1})
                    self.answered.clear()
                    (on_question or self.on_question)(question(self.calls))
                    await self.answered.wait()
                    return {"heard": self.heard[-1]}
                case "ask aside":
                    self.answered.clear()
                    self.on_question(question(self.calls))
                    await self.answered.wait()
                    return {"heard": self.heard[-1]}
                case "bug":
                    raise ZeroDivisionError
                case "hold":
                    await self.server.go_on.wait()
                    await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)  # To be told so takes a moment.
            self.server.cancelled += 1
            raise
        return {"by": self.server.opened.index(self) if self in self.server.opened else None, "method": method}

    async def listen(self, on_change: Callable[[str], None]) -> None:
        if self.server.asks_early:
            self.asked_early = self.on_question(question(99))
        if self.server.streams_late:
            await self.lost.wait()
        self.on_change = on_change
        on_change("listening")
        self.server.on_open()
        await self.lost.wait()
        raise Unreachable(self.lost_reason)

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:  # noqa: ARG002 - the protocol's signature
        self.heard.append(orjson.loads(reply))
        self.answered.set()

    def use_token(self, token: str) -> None:
        """Nothing is shown."""

    async def probe(self, timeout_s: float) -> None:
        """It lives."""


@dataclass
class Server:
    """The other side: every session that was opened beside the shared one, and how many have ended."""

    opened: list[Session] = field(default_factory=list)
    closed: int = 0
    cancelled: int = 0
    refuses: bool = False
    asks_early: bool = False
    streams_late: bool = False
    on_open: Callable[[], None] = lambda: None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(self, features: Json, on_question: OnQuestion, on_notice: OnNotice) -> AsyncIterator[Session]:
        if self.refuses:
            raise SessionRefused("one is enough")
        session = Session(self, features, on_question, on_notice)
        self.opened.append(session)
        try:
            yield session
        finally:
            self.closed += 1

    def shared(self) -> Session:
        return Session(self, {}, lambda _: b"", lambda _method, _params: None)


@asynccontextmanager
async def door_to(server: Server, **more: Any) -> AsyncIterator[AskingDoor]:
    async with asking(server.shared(), server.open, limits=LIMITS, **more) as door:
        yield door


def question(number: int) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": FORM}


def nested(levels: int) -> Json:
    value: Json = {}
    for _ in range(levels):
        value = {"a": value}
    return value


async def call(door: AskingDoor, name: str, *, timeout_s: float = 60.0, **more: Any) -> Json:
    affinity = more.pop("affinity", None)
    return await door.request("tools/call", {"name": name, **META, **more}, timeout_s=timeout_s, affinity=affinity)


def retry(asked: Json) -> Json:
    answers = {key: {"action": "accept"} for key in asked["inputRequests"]}
    return {"requestState": asked["requestState"], "inputResponses": answers}


async def all_at_once(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_after_each_other_share_a_session_and_calls_at_once_do_not() -> None:
    server = Server()
    async with door_to(server) as door:
        assert [(await call(door, "quick"))["by"] for _ in range(3)] == [0, 0, 0]
        server.go_on.set()
        at_once = await all_at_once(call(door, "hold"), call(door, "hold"))
        assert sorted(result["by"] for result in at_once) == [0, 1]
        assert [session.features for session in server.opened] == [{"elicitation": {}}] * 2


async def test_calls_of_one_client_share_its_session_even_at_once() -> None:
    server = Server()
    server.go_on.set()
    async with door_to(server) as door:
        results = await all_at_once(*(call(door, "hold", affinity=key) for key in "aabb"))
        assert [result["by"] for result in results] == [0, 0, 1, 1]


async def test_a_call_waits_for_a_session_when_all_are_in_use_and_then_gets_one() -> None:
    server = Server()
    async with door_to(server) as door, asyncio.TaskGroup() as group:
        first = [group.create_task(call(door, "hold"), name="hold") for _ in range(LIMITS.sessions_max)]
        await asyncio.sleep(1)
        with pytest.raises(CallNotSent, match="did not answer"):
            await call(door, "quick", timeout_s=5.0)
        waiting = group.create_task(call(door, "quick"), name="quick")
        await asyncio.sleep(1)
        assert not waiting.done()
        server.go_on.set()
        await asyncio.wait([*first, waiting])
        assert waiting.result()["method"] == "tools/call"
        assert len(server.opened) == LIMITS.sessions_max


async def test_idle_sessions_end_at_once_beyond_the_limit_and_the_others_in_time() -> None:
    server = Server()
    server.go_on.set()
    async with door_to(server) as door:
        await all_at_once(*(call(door, "hold") for _ in range(3)))
        await asyncio.sleep(1)
        assert (len(server.opened), server.closed) == (3, 1)
        await asyncio.sleep(LIMITS.idle_s)
        assert server.closed == 3
        assert repr(door).endswith("<OwnSessions 0 of 0 in use> <ParkedCalls 0>>")


async def test_another_clients_session_makes_room_when_it_is_idle() -> None:
    server = Server()
    async with door_to(server) as door:
        for key in "abcdef":
            await call(door, "quick", affinity=key)
        assert len(server.opened) == 6
        assert server.closed >= 6 - LIMITS.sessions_max


async def test_a_lost_session_is_not_lent_again() -> None:
    server = Server()
    async with door_to(server) as door:
        await call(door, "quick", affinity="a")
        server.opened[0].lost_reason = "gone"
        server.opened[0].lost.set()
        assert (await call(door, "quick", affinity="a"))["by"] == 1


@pytest.mark.parametrize("name", ["ask", "ask aside"])
async def test_an_answer_goes_on_with_the_call_and_spends_the_session(name: str) -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, name)
        assert list(asked["inputRequests"].values()) == [{"method": "elicitation/create", "params": FORM}]
        assert (await call(door, name, **retry(asked)))["heard"]["result"] == {"action": "accept"}
        await call(door, "quick")
        assert [session.calls for session in server.opened] == [1, 1]
        with pytest.raises(RpcError, match="answered already"):
            await call(door, name, **retry(asked))


async def test_what_a_server_asks_on_opening_is_put_to_the_call_that_it_was_opened_for() -> None:
    server = Server(asks_early=True)
    async with door_to(server) as door:
        asked = await call(door, "hold")
        server.go_on.set()
        assert (await call(door, "hold", **retry(asked)))["by"] == 0
        assert server.opened[0].heard == [{"jsonrpc": "2.0", "id": 99, "result": {"action": "accept"}}]
        await door.request("tools/list", timeout_s=1.0)
        refused = server.opened[1].asked_early
        assert refused is not None, "nobody stands behind our own listing"
        assert orjson.loads(refused)["error"]["code"] == -32600


async def test_answers_that_cannot_be_written_end_the_call_instead_of_leaving_it_open() -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, "ask")
        told = retry(asked)
        told["inputResponses"] = {key: {"content": nested(300)} for key in asked["inputRequests"]}
        with pytest.raises(RpcError, match="cannot be sent"):
            await call(door, "ask", **told)
        await asyncio.sleep(1)
        assert server.cancelled == 1
        assert repr(door).endswith("<OwnSessions 0 of 0 in use> <ParkedCalls 0>>")


async def test_a_question_that_no_result_can_carry_is_refused_to_the_server() -> None:
    server = Server()
    async with door_to(server) as door, asyncio.TaskGroup() as group:
        held = group.create_task(call(door, "hold"), name="hold")
        await asyncio.sleep(1)
        refused = server.opened[0].on_question(question(1) | {"params": FORM | {"more": nested(300)}})
        assert refused is not None
        assert orjson.loads(refused)["error"]["code"] == -32602
        server.go_on.set()
        assert (await held)["by"] == 0


async def test_a_caller_that_leaves_in_the_moment_in_which_its_session_is_open_gives_it_back() -> None:
    def leave() -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "call that may ask":
                task.cancel()

    async with door_to(Server(on_open=leave)) as door:
        with pytest.raises(CallOutcomeUnknown, match="given up"):
            await call(door, "quick")
        assert "<OwnSessions 0 of 1 in use>" in repr(door)


async def test_a_question_between_calls_waits_for_the_same_client_and_for_no_other() -> None:
    server = Server()
    async with door_to(server) as door:
        await call(door, "quick")
        assert server.opened[0].on_question(question(7)) is not None
        server.go_on.set()
        await call(door, "hold", affinity="a")
        assert server.opened[1].on_question(question(8)) is None
        assert "inputRequests" in await call(door, "hold", affinity="a")


async def test_a_stream_that_comes_up_late_is_waited_for_once() -> None:
    server, loop = Server(streams_late=True), asyncio.get_running_loop()
    async with door_to(server) as door:
        for key, waited_s in (("a", STREAM_WAIT_S), ("b", 0.0)):
            began_s = loop.time()
            await call(door, "quick", affinity=key)
            assert loop.time() - began_s == pytest.approx(waited_s, abs=0.1)


async def test_a_clients_own_session_outlives_its_answers() -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, "ask", affinity="a")
        await call(door, "ask", affinity="a", **retry(asked))
        assert (await call(door, "quick", affinity="a"))["by"] == 0


async def test_a_client_that_never_comes_back_leaves_nothing() -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, "ask")
        await asyncio.sleep(PATIENCE_S - 1)
        assert server.cancelled == 0
        await asyncio.sleep(2)
        assert (server.cancelled, server.closed) == (1, 1)
        assert server.opened[0].heard[0]["error"]["message"] == "The request that this question belongs to is over"
        with pytest.raises(RpcError, match="names no call"):
            await call(door, "ask", **retry(asked))
        assert repr(door).endswith("<OwnSessions 0 of 0 in use> <ParkedCalls 0>>")


async def test_a_deadline_counts_for_each_attempt_and_not_for_the_user() -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, "ask", timeout_s=5.0)
        await asyncio.sleep(100)
        assert "heard" in await call(door, "ask", timeout_s=5.0, **retry(asked))
        with pytest.raises(CallTimedOut):
            await call(door, "hold", timeout_s=5.0)
        await asyncio.sleep(1)
        assert server.cancelled == 1


async def test_a_door_that_closes_ends_what_is_parked() -> None:
    server = Server()
    async with door_to(server) as door:
        await call(door, "ask")
        await call(door, "ask", affinity="a")
    assert (server.cancelled, server.closed) == (2, 2)


async def test_a_door_that_closes_while_a_server_is_told_that_its_call_is_over_lets_it_hear_that() -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, "ask")
        with pytest.raises(RpcError, match="gave the call up"):
            await call(door, "ask", **retry(asked), _meta={REFUSED_META_KEY: {}})
        await asyncio.sleep(0.1)
    assert server.cancelled == 1
    assert "is over" in server.opened[0].heard[0]["error"]["message"]


@pytest.mark.parametrize("affinity", [None, "a"])
async def test_a_bug_of_ours_ends_its_call_and_session_and_leaves_the_others(
    affinity: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await call(door, "ask", affinity="other")
        with pytest.raises(ProtocolBroken, match="unexpected ZeroDivisionError"):
            await call(door, "bug", affinity=affinity)
        await asyncio.sleep(1)
        assert server.closed == 1
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert (await call(door, "quick", affinity=affinity))["by"] == 2
        assert "heard" in await call(door, "ask", affinity="other", **retry(asked))


async def test_a_bug_of_ours_on_opening_a_session_fails_that_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    server, bugs = Server(), [ZeroDivisionError()]

    def open_once_broken(*args: Any) -> AbstractAsyncContextManager[Session]:
        if bugs:
            raise bugs.pop()
        return server.open(*args)

    async with asking(server.shared(), open_once_broken, limits=LIMITS) as door:
        with pytest.raises(CallNotSent, match="unexpected ZeroDivisionError"):
            await call(door, "quick")
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert (await call(door, "quick"))["by"] == 0


async def test_a_server_with_one_session_is_called_over_that_and_asked_for_another_once() -> None:
    server = Server(refuses=True)
    async with door_to(server) as door:
        assert (await call(door, "quick"))["by"] is None
        server.refuses = False
        assert (await call(door, "quick"))["by"] is None
        assert (await door.request("tools/list", timeout_s=1.0))["by"] is None
    async with door_to(Server(refuses=True), own_for_all=True) as door:
        with pytest.raises(CallNotSent, match="one is enough"):
            await call(door, "quick")


async def test_lists_are_read_with_every_feature_and_calls_without_any_are_shared() -> None:
    server = Server()
    async with door_to(server) as door:
        await door.request("tools/list", timeout_s=1.0)
        assert [session.features for session in server.opened] == [EVERY_FEATURE]
        assert (await door.request("tools/call", {"name": "quick"}, timeout_s=1.0))["by"] is None
        assert (await door.request("ping", timeout_s=1.0))["by"] is None


async def test_a_change_that_any_session_announces_is_heard() -> None:
    server, heard = Server(), list[str]()
    async with door_to(server) as door, asyncio.TaskGroup() as group:
        listening = group.create_task(door.listen(heard.append), name="listen")
        await call(door, "quick")
        server.opened[0].on_change("tools")
        assert heard == ["listening", "tools"]
        listening.cancel()


async def test_too_many_parked_calls_have_their_questions_refused() -> None:
    server = Server()
    async with asking(server.shared(), server.open, limits=SessionLimits(PARKED_MAX + 1, 1)) as door:
        parked = await all_at_once(*(call(door, "ask") for _ in range(PARKED_MAX)))
        assert {result["resultType"] for result in parked} == {"input_required"}
        refused = await call(door, "ask")
        assert refused["heard"]["error"]["message"] == "Too many calls wait for input already"


async def test_listing_never_waits_for_callers_sessions() -> None:
    server = Server()
    async with door_to(server) as door:
        await all_at_once(*(call(door, "ask") for _ in range(LIMITS.sessions_max)))
        assert (await door.request("tools/list", timeout_s=1.0))["method"] == "tools/list"


@pytest.mark.parametrize("affine", [False, True])
async def test_who_waits_for_a_session_gets_that_of_the_client_that_ignores_questions_longest(affine: bool) -> None:
    server, loop = Server(), asyncio.get_running_loop()
    async with door_to(server) as door:
        asked = []
        for n in range(LIMITS.sessions_max):
            asked.append(await call(door, "ask", affinity=str(n) if affine else None))
            await asyncio.sleep(1)
        assert (await call(door, "quick"))["by"] == LIMITS.sessions_max
        assert loop.time() == pytest.approx(CONTESTED_PATIENCE_S, abs=0.5)
        assert server.cancelled == 1
        assert "is over" in server.opened[0].heard[0]["error"]["message"]
        with pytest.raises(RpcError) as caught:
            await call(door, "ask", **retry(asked[0]))
        assert (caught.value.code, caught.value.data) == (-32001, {"outcome": "unknown", "reason": GIVEN_UP})
        for others in asked[1:]:
            assert "heard" in await call(door, "ask", **retry(others))


async def test_asking_again_without_an_answer_does_not_hold_a_session_against_others() -> None:
    server = Server()
    async with door_to(server) as door:
        asked = await all_at_once(*(call(door, "ask") for _ in range(LIMITS.sessions_max)))
        await asyncio.sleep(CONTESTED_PATIENCE_S - 1)
        for one in asked:
            await call(door, "ask", requestState=one["requestState"])
        assert (await call(door, "quick", timeout_s=3.0))["by"] == LIMITS.sessions_max
        assert server.cancelled == 1


async def test_a_client_that_answered_and_waits_for_its_call_keeps_its_session() -> None:
    server = Server(asks_early=True)
    async with door_to(server) as door, asyncio.TaskGroup() as group:
        asked = await all_at_once(*(call(door, "hold") for _ in range(LIMITS.sessions_max)))
        attended = [group.create_task(call(door, "hold", **retry(one)), name="hold") for one in asked]
        await asyncio.sleep(2 * CONTESTED_PATIENCE_S)
        with pytest.raises(CallNotSent):
            await call(door, "quick", timeout_s=20.0)
        assert server.cancelled == 0
        server.go_on.set()
        await asyncio.wait(attended)


async def test_as_many_sessions_are_taken_back_as_there_are_who_wait() -> None:
    server = Server()
    async with door_to(server) as door:
        await all_at_once(*(call(door, "ask") for _ in range(LIMITS.sessions_max)))
        await all_at_once(*(call(door, "hold", timeout_s=20.0) for _ in range(2)))
        await asyncio.sleep(1)
        assert server.cancelled == 2 + 2, "two that were ignored, and the two that ran out of time"
        assert "<OwnSessions 1 of 1 in use>" in repr(door), "the third is still waited for"


async def test_parked_calls_that_are_ignored_make_room_for_new_questions() -> None:
    server = Server()
    async with asking(server.shared(), server.open, limits=SessionLimits(PARKED_MAX + 1, 1)) as door:
        await all_at_once(*(call(door, "ask") for _ in range(PARKED_MAX)))
        await asyncio.sleep(CONTESTED_PATIENCE_S)
        assert "inputRequests" in await call(door, "ask")
