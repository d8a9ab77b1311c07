"""Stateless servers that may open sessions too, in loop time: which way a call goes, and what is learnt of a server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS

from agent.client.event import Event
from agent.client.protocol import Request
from agent.client.server_info import OnServerRequest, ServerInfo
from agent.client.sessions import dual_era
from agent.client.sessions.dedicated import OnNotice, SessionRefused
from agent.client.sessions.dual_era import TRY_AGAIN_S, DualEraRouter, SecondEra
from agent.client.sessions.pending_call import PendingResult, unheard
from agent.client.streams import Updates
from agent.errors import AuthRefused, CallNotSent, MeshError, RpcError
from agent.model import CLIENT_METHOD, TASKS_EXTENSION, ClientEvent, Era, Json
from tests.unit.client.sessions.scripted_sessions import LIMITS, META, Server, Session, retry

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

WANTS_ROUNDS = RpcError(INVALID_PARAMS, "Tool 'ask' returned an InputRequiredResult to request client input")
UNFIT = RpcError(INTERNAL_ERROR, "Handler returned an invalid result")
INPUT_REQUIRED: Json = {"resultType": "input_required", "requestState": "its own", "inputRequests": {}}


@dataclass
class Stateless:
    """The stateless side of the server: the requests there."""

    asked: list[Request] = field(default_factory=list)
    result: Json = field(default_factory=lambda: {"by": "stateless"})
    lost: Event = field(default_factory=Event)
    lost_reason: str = ""
    lost_what: str = ""

    @property
    def server_info(self) -> ServerInfo:
        return ServerInfo(Era.MODERN, "2026-07-28", {}, {}, None, None)

    async def request(self, request: Request) -> Json:
        self.asked.append(request)
        return self.result

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """There are no changes."""

    async def follow(self, updates: Updates) -> None:
        """There are no updates."""

    async def probe(self, timeout_s: float) -> None:
        """It lives."""

    lists_by_session = False
    quiet = None

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """There are none."""


@dataclass
class Scene:
    """A client to both sides of a server; `fails` is what opening a session, or a call in one, ends with."""

    client: DualEraRouter
    stateless: Stateless
    sessions: "Opening"

    async def call(
        self, name: str = "quick", *, in_session: bool = True, repeatable: bool = False, **more: Any
    ) -> Json:
        params = {"name": name, **META, **more}
        request = Request.within("tools/call", params, timeout_s=60.0, affinity="session:a", in_session=in_session)
        return await self.client.request(replace(request, repeatable=repeatable))


class Opening(Server):
    """The sessions of the server. `fails`: what opening one ends with; `answers`: what a call in one ends with.

    `opens`: until when opening one takes.
    """

    fails: MeshError | None = None
    answers: RpcError | None = None
    opens: asyncio.Event | None = None
    tried = 0

    @asynccontextmanager
    async def open(
        self, features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
    ) -> AsyncIterator[Session]:
        self.tried += 1
        if self.opens is not None:
            await self.opens.wait()
        if self.fails is not None:
            raise self.fails
        async with super().open(features, on_server_request, on_notice) as session:
            if self.answers is not None:
                session.request = self._failing  # type: ignore[method-assign]  # a session that a test plays
            yield session

    async def _failing(self, request: Request, *, on_server_request: OnServerRequest | None = None) -> Json:  # noqa: ARG002 - the protocol's signature
        assert self.answers is not None
        raise self.answers


@asynccontextmanager
async def scene(*, tries_again: bool = True) -> AsyncIterator[Scene]:
    stateless, sessions = Stateless(), Opening()
    async with DualEraRouter(
        stateless, sessions.open, limits=LIMITS, on_pending=unheard, tries_again=tries_again
    ) as client:
        yield Scene(client, stateless, sessions)


async def test_only_calls_of_clients_with_sessions_and_features_run_in_a_session() -> None:
    async with scene() as it:
        assert (await it.call())["by"] == 0
        assert await it.call(in_session=False) == {"by": "stateless"}
        assert await it.call(_meta={}) == {"by": "stateless"}
        of_session = Request.within("tools/list", {}, timeout_s=1.0, affinity="session:a", in_session=True)
        assert (await it.client.request(of_session))["by"] == 0, "its caller has gained what others have not"
        assert await it.client.request(Request.within("tools/list", {}, timeout_s=1.0)) == {"by": "stateless"}
        for method in ("completion/complete", "server/discover"):
            request = Request.within(method, {**META}, timeout_s=1.0, affinity="session:a", in_session=True)
            assert await it.client.request(request) == {"by": "stateless"}
        assert [session.features for session in it.sessions.opened] == [{"elicitation": {}}]


async def test_a_call_that_may_become_a_task_goes_the_stateless_way() -> None:
    capabilities = {"elicitation": {}, "extensions": {TASKS_EXTENSION: {}}}
    async with scene() as it:
        result = await it.call(_meta={"io.modelcontextprotocol/clientCapabilities": capabilities})
        assert result == {"by": "stateless"}
        assert it.sessions.tried == 0


async def test_answers_to_a_stateless_server_go_to_it_and_ours_to_the_pending_call() -> None:
    async with scene() as it:
        for answer in ({"requestState": "its own"}, {"inputResponses": {}}):
            assert await it.call(**answer) == {"by": "stateless"}
        asked = await it.call("ask")
        assert type(asked) is PendingResult
        answered = await it.call("ask", **retry(asked))
        assert answered["heard"]["result"] == {"action": "accept"}
        with pytest.raises(RpcError, match="names no call"):
            await it.call("ask", **retry(asked))
        assert len(it.stateless.asked) == 2


async def test_a_result_with_questions_of_the_stateless_way_is_passed_as_it_is() -> None:
    async with scene() as it:
        it.stateless.result = INPUT_REQUIRED
        assert await it.call(in_session=False) is INPUT_REQUIRED


NO_SESSION: Json = {
    "content": [{"type": "text", "text": "Error calling tool: MCP 2026-07-28 HTTP connections have no session."}],
    "isError": True,
}


async def test_calls_of_clients_with_sessions_run_in_one_once_a_tool_has_failed_without() -> None:
    async with scene() as it:
        assert await it.call(_meta={}) == {"by": "stateless"}
        it.stateless.result = {**NO_SESSION, "isError": False}
        assert await it.call(_meta={}) == it.stateless.result, "a result is only a text"
        it.stateless.result = NO_SESSION
        assert await it.call(_meta={}, in_session=False) == NO_SESSION
        assert it.sessions.tried == 0, "no session can help a client without one"
        assert await it.call(_meta={}) == NO_SESSION, "what the tool did before it failed is not done again"
        assert (await it.call(_meta={}))["by"] == 0
        assert [session.features for session in it.sessions.opened] == [{}]


async def test_a_call_that_may_be_repeated_is_made_again_in_a_session_when_it_failed_without() -> None:
    async with scene() as it:
        it.stateless.result = NO_SESSION
        assert (await it.call(_meta={}, repeatable=True))["by"] == 0


async def test_so_is_one_that_had_gone_out_without_a_task() -> None:
    async with scene() as it:
        it.stateless.result = NO_SESSION
        request = Request.within("tools/call", {"name": "quick"}, timeout_s=60.0, affinity="session:a", in_session=True)
        gone_out = replace(request, repeatable=True, started=GoneOut())
        assert (await it.client.request(gone_out))["by"] == 0
        assert [one.started for one in it.stateless.asked] == [gone_out.started]


class GoneOut:
    """A request that is only waited for."""

    changes = 0
    go_on = None

    def wait(self) -> None:
        """It is waited for."""


async def test_a_call_that_may_be_repeated_ends_where_no_session_can_be_had() -> None:
    async with scene() as it:
        it.stateless.result, it.sessions.fails = NO_SESSION, SessionRefused("unknown method")
        assert await it.call(_meta={}, repeatable=True) == NO_SESSION


async def test_a_server_that_refuses_the_first_session_is_never_tried_again() -> None:
    async with scene() as it:
        it.sessions.fails = SessionRefused("unknown method")
        for _ in range(3):
            assert await it.call() == {"by": "stateless"}
            await asyncio.sleep(10 * TRY_AGAIN_S)
        assert it.sessions.tried == 1


async def test_a_server_whose_second_child_fails_is_not_tried_again_where_that_is_agreed() -> None:
    async with scene(tries_again=False) as it:
        it.sessions.fails = CallNotSent("it ended")
        for _ in range(3):
            assert await it.call() == {"by": "stateless"}
            await asyncio.sleep(10 * TRY_AGAIN_S)
        assert it.sessions.tried == 1


async def test_a_session_that_a_caller_did_not_wait_for_costs_the_next_callers_nothing() -> None:
    async with scene(tries_again=False) as it:
        it.sessions.opens = asyncio.Event()
        impatient = asyncio.create_task(it.call())
        await asyncio.sleep(5.0)
        impatient.cancel()
        await asyncio.wait((impatient,))
        assert await it.call() == {"by": "stateless"}
        it.sessions.opens.set()
        await asyncio.sleep(TRY_AGAIN_S)
        assert (await it.call())["by"] == 0
        assert it.sessions.tried == 2


@pytest.mark.parametrize("failure", [CallNotSent("it is away"), AuthRefused("not you")])
async def test_an_outage_says_nothing_about_a_server_that_never_opened_a_session(failure: MeshError) -> None:
    async with scene() as it:
        it.sessions.fails = failure
        assert await it.call() == await it.call() == {"by": "stateless"}
        assert it.sessions.tried == 1
        await asyncio.sleep(TRY_AGAIN_S)
        it.sessions.fails = None
        assert (await it.call())["by"] == 0


async def test_a_call_is_not_sent_where_a_server_with_sessions_cannot_be_reached() -> None:
    async with scene() as it:
        assert (await it.call())["by"] == 0
        await it.client.request(ended("session:a"))
        it.sessions.fails = CallNotSent("it is away")
        with pytest.raises(CallNotSent, match="it is away"):
            await it.call()
        assert it.stateless.asked == []


async def test_the_end_of_a_clients_session_ends_its_session_at_the_server() -> None:
    async with scene() as it:
        await it.call()
        assert await it.client.request(ended("session:b")) == {"resultType": "complete"}
        await asyncio.sleep(1.0)
        assert it.sessions.closed == 0
        await it.client.request(ended("session:a"))
        await asyncio.sleep(1.0)
        assert it.sessions.closed == 1
        assert it.stateless.asked == [], "no server knows such a request"


async def test_what_wants_to_ask_in_rounds_is_called_again_and_from_then_on_the_stateless_way() -> None:
    async with scene() as it:
        it.sessions.answers = WANTS_ROUNDS
        for _ in range(2):
            assert await it.call() == {"by": "stateless"}
        assert len(it.sessions.opened) == 1
        it.sessions.answers = None
        await it.client.request(ended("session:a"))
        assert (await it.call("another"))["by"] == 1, "it is learnt for each name"


async def test_a_call_whose_result_does_not_fit_a_session_is_made_again_where_that_does_no_harm() -> None:
    async with scene() as it:
        it.sessions.answers = UNFIT
        assert await it.call(repeatable=True) == {"by": "stateless"}


async def test_a_call_whose_result_does_not_fit_a_session_is_not_made_again_where_that_may_do_harm() -> None:
    async with scene() as it:
        it.sessions.answers = UNFIT
        with pytest.raises(RpcError, match=r"invalid result: .* further calls of it are made without one$"):
            await it.call()
        assert it.stateless.asked == []
        assert await it.call() == {"by": "stateless"}


async def test_what_another_client_was_asked_in_rounds_is_called_again_though_its_session_does_not_say_why() -> None:
    async with scene() as it:
        it.sessions.answers, it.stateless.result = UNFIT, INPUT_REQUIRED
        assert await it.call(in_session=False) == INPUT_REQUIRED
        assert await it.call() == INPUT_REQUIRED
        with pytest.raises(RpcError, match="invalid result"):
            await it.call("another")
        assert len(it.stateless.asked) == 2


async def test_other_errors_of_a_session_pass_and_teach_nothing() -> None:
    async with scene() as it:
        it.sessions.answers = RpcError(INVALID_PARAMS, "no such city")
        for _ in range(2):
            with pytest.raises(RpcError, match="no such city"):
                await it.call()
        assert it.stateless.asked == []


async def test_what_is_remembered_of_a_server_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual_era, "IN_ROUNDS_MAX", 1)
    async with scene() as it:
        it.sessions.answers = WANTS_ROUNDS
        for name in ("first", "second", "second"):
            assert await it.call(name) == {"by": "stateless"}
        assert len(it.client._in_rounds) == 1


async def test_a_server_that_once_opened_sessions_is_asked_again_after_a_refusal() -> None:
    era = SecondEra()
    era.opened()
    era.refused(100.0)
    assert not era.is_worth_trying(100.0 + TRY_AGAIN_S - 1)
    assert era.is_worth_trying(100.0 + TRY_AGAIN_S)
    assert repr(era) == f"<SecondEra opens sessions, tried from {100 + TRY_AGAIN_S:g} s>"


def ended(affinity: str) -> Request:
    return replace(Request.within(CLIENT_METHOD, {"event": ClientEvent.ENDED.value}, timeout_s=1.0), affinity=affinity)
