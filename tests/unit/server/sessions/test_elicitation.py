"""What a client of a session may be asked, and how the rounds of a call end; time is the loop's."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp_types import CLIENT_CAPABILITIES_META_KEY

from agent.dispatch.call import Forwarded
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, MCPError
from agent.model import DEADLINE_META_KEY, PENDING_META_KEY, POLL_META_KEY, Json
from agent.routing.table import Replica
from agent.server.sessions.elicitation import (
    FAILED_MAX,
    PATIENCE_S,
    POLL_EVERY_S,
    ROUNDS_MAX,
    SERVER_REQUESTS_MAX,
    AskedClient,
    in_rounds,
    server_requests_for,
)

FORM: Json = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}
URL: Json = {"method": "elicitation/create", "params": {"mode": "url", "message": "?", "url": "https://example.org"}}
MODEL: Json = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
MODEL_WITH_TOOLS: Json = {"method": "sampling/createMessage", "params": {"messages": [], "tools": []}}
ROOTS: Json = {"method": "roots/list"}
DONE: Json = {"resultType": "complete", "content": []}

pytestmark = pytest.mark.looptime(start=1000.0)


def asking(questions: object, **more: object) -> Json:
    return {"resultType": "input_required", "inputRequests": questions, **more}


@pytest.mark.parametrize(
    ("capabilities", "question", "may"),
    [
        ({}, FORM, False),
        ({"elicitation": {}}, FORM, True),
        ({"elicitation": {}}, URL, False),
        ({"elicitation": {"url": {}}}, FORM, False),
        ({"elicitation": {"form": {}, "url": {}}}, FORM, True),
        ({"elicitation": {"form": {}, "url": {}}}, URL, True),
        ({"elicitation": {}}, {"method": "elicitation/create", "params": {"mode": []}}, False),
        ({"elicitation": {}}, MODEL, False),
        ({"sampling": {}}, MODEL, True),
        ({"sampling": {}}, MODEL_WITH_TOOLS, False),
        ({"sampling": {"tools": {}}}, MODEL_WITH_TOOLS, True),
        ({"sampling": {}}, ROOTS, False),
        ({"roots": {}}, ROOTS, True),
        ({"roots": {}}, {"method": "roots/list", "params": "none"}, False),
        ({"roots": {}}, {"method": "tools/list"}, False),
        ({"roots": {}}, {"params": {}}, False),
        ({"roots": {}}, "roots/list", False),
    ],
)
def test_a_client_gets_the_server_requests_that_it_declared(capabilities: Json, question: object, may: bool) -> None:
    assert (server_requests_for(capabilities, asking({"q": question})) is not None) is may
    assert server_requests_for(capabilities, asking({"q": question, "other": {"method": "none/such"}})) is None


def test_a_page_to_visit_gets_an_id_of_its_own_where_its_server_gave_none_as_clients_of_that_time_demand() -> None:
    given = {**URL, "params": {**URL["params"], "elicitationId": "given"}}
    asked = server_requests_for({"elicitation": {"url": {}}}, asking({"a": URL, "b": URL, "c": given}))
    assert asked is not None
    first, second, third = (params.pop("elicitationId") for _, params in asked.values())
    assert first
    assert first != second
    assert third == "given"
    assert [params for _, params in asked.values()] == [URL["params"]] * 3


def test_input_requests_are_an_object_of_bounded_size() -> None:
    many = {str(number): ROOTS for number in range(SERVER_REQUESTS_MAX)}
    assert len(server_requests_for({"roots": {}}, asking(many)) or {}) == SERVER_REQUESTS_MAX
    assert server_requests_for({"roots": {}}, asking({**many, "one more": ROOTS})) is None
    assert server_requests_for({"roots": {}}, asking([ROOTS])) is None
    assert server_requests_for({}, asking(None)) == {}


@dataclass
class Server:
    """Gives its results in turn, the last one for ever; notes what it was sent and when."""

    results: list[Json]
    sent: list[Json] = field(default_factory=list)
    sent_at_s: list[float] = field(default_factory=list)

    async def send(self, params: Json) -> Forwarded:
        self.sent.append(params)
        self.sent_at_s.append(asyncio.get_running_loop().time())
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        return Forwarded(result, Replica("peer:a", "do", "node-a", ours=False))


def client(thinks_s: float = 0.0, **capabilities: object) -> AskedClient:
    async def ask(method: str, _: Json) -> Json:
        await asyncio.sleep(thinks_s)
        return {"to": method}

    return AskedClient(capabilities, ask)


async def test_answers_and_state_go_with_the_next_round_and_nothing_of_the_round_before() -> None:
    server = Server([asking({"a": FORM}, requestState="s1"), asking({"b": ROOTS}), DONE])
    params: Json = {"name": "kit__do", "arguments": {"x": 1}, "_meta": {"theirs": 1}}
    forwarded = await in_rounds(server.send, params, client(elicitation={}, roots={}))
    assert forwarded.result is DONE
    told: Any = {"theirs": 1, CLIENT_CAPABILITIES_META_KEY: {"elicitation": {}, "roots": {}}}
    assert server.sent == [
        {**params, "_meta": told},
        {**params, "_meta": told, "inputResponses": {"a": {"to": "elicitation/create"}}, "requestState": "s1"},
        {**params, "_meta": told, "inputResponses": {"b": {"to": "roots/list"}}},
    ]
    assert params["_meta"] == {"theirs": 1}


@pytest.mark.parametrize(
    ("code", "data"), [(NOT_EXECUTED, {"outcome": "not_executed"}), (-32602, {"reason": "invalid_request_state"})]
)
@pytest.mark.parametrize("is_open", [True, False])
async def test_an_open_call_whose_server_goes_away_while_its_client_thinks_has_an_unknown_outcome(
    is_open: bool, code: int, data: Json
) -> None:
    server = Server([asking({"a": FORM}, requestState="s1", _meta={PENDING_META_KEY: is_open})])

    async def send(params: Json) -> Forwarded:
        if "requestState" in params:
            raise MCPError(code=code, message="it is gone", data=data)
        return await server.send(params)

    with pytest.raises(MCPError, match="it is gone") as caught:
        await in_rounds(send, {}, client(elicitation={}))
    assert caught.value.code == (OUTCOME_UNKNOWN if is_open else code)
    assert (caught.value.data.get("outcome") == "unknown") is is_open


async def test_a_server_request_that_is_not_permitted_is_returned_unchanged() -> None:
    question = asking({"a": FORM})
    server = Server([question])
    assert (await in_rounds(server.send, {"name": "kit__do"}, client(roots={}))).result is question
    assert len(server.sent) == 1


async def test_users_may_think_for_ten_minutes_over_all_rounds_and_no_longer() -> None:
    server = Server([asking({"a": FORM})])
    with pytest.raises(MCPError, match="did not answer in time") as caught:
        await in_rounds(server.send, {}, client(thinks_s=PATIENCE_S * 0.4, elicitation={}))
    assert asyncio.get_running_loop().time() == pytest.approx(1000.0 + PATIENCE_S)
    assert len(server.sent) == 3
    assert caught.value.code == OUTCOME_UNKNOWN
    assert caught.value.data == {"outcome": "unknown", "timed_out": True, "replica": "peer:a", "bytes_sent": True}


async def test_a_callers_own_deadline_counts_for_all_rounds() -> None:
    server = Server([asking({"a": FORM})])
    with pytest.raises(MCPError, match="in time"):
        await in_rounds(server.send, {"_meta": {DEADLINE_META_KEY: 5000}}, client(thinks_s=2.0, elicitation={}))
    assert [params["_meta"][DEADLINE_META_KEY] for params in server.sent] == [5000, 3000, 1000]


@dataclass
class OpenServer:
    """One whose call is open while it asks; `looks` are what it answers to who looks, the last one for ever."""

    looks: list[Json | MCPError]
    sent: list[Json] = field(default_factory=list)
    cancelled: int = 0

    async def send(self, params: Json) -> Forwarded:
        meta = params.get("_meta") or {}
        if meta.get(POLL_META_KEY) is True:
            said = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        else:
            self.sent.append(params)
            said = OPEN if len(self.sent) == 1 else DONE
        if isinstance(said, MCPError):
            raise said
        return Forwarded(said, Replica("peer:a", "do", "node-a", ours=False))

    async def ask(self, method: str, _: Json) -> Json:
        try:
            await asyncio.sleep(20.0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"to": method}

    async def served(self) -> Forwarded:
        return await in_rounds(self.send, {}, AskedClient({"elicitation": {}}, self.ask))


OPEN: Json = asking({"a": FORM, "b": FORM}, requestState="s1", _meta={PENDING_META_KEY: True})
GONE = MCPError(code=NOT_EXECUTED, message="out of reach", data={"outcome": "not_executed"})
UNKNOWN = MCPError(code=OUTCOME_UNKNOWN, message="it broke", data={"outcome": "unknown"})
FORGOTTEN = MCPError(code=-32602, message="names no call", data={"reason": "invalid_request_state"})


@pytest.mark.parametrize(
    ("looks", "told", "looked"),
    [([FORGOTTEN], "names no call", 1), ([UNKNOWN, FORGOTTEN], "it broke", 2), ([GONE], "out of reach", FAILED_MAX)],
)
async def test_a_server_request_of_a_server_that_is_gone_is_cancelled(
    looks: list[Json | MCPError], told: str, looked: int
) -> None:
    server = OpenServer(looks)
    with pytest.raises(MCPError, match=told) as caught:
        await server.served()
    assert caught.value.code == OUTCOME_UNKNOWN
    assert server.cancelled == 1
    assert asyncio.get_running_loop().time() == pytest.approx(1000.0 + looked * POLL_EVERY_S)


async def test_a_call_that_ends_during_a_server_request_is_answered_at_once() -> None:
    server = OpenServer([OPEN, DONE])
    assert (await server.served()).result is DONE
    assert (server.cancelled, len(server.sent)) == (1, 1)


async def test_a_server_request_that_the_server_withdraws_is_cancelled_and_given_answers_are_sent() -> None:
    server = OpenServer([*[OPEN] * 7, asking({"a": FORM}, requestState="s1", _meta={PENDING_META_KEY: True})])
    assert (await server.served()).result is DONE
    assert server.cancelled == 1
    assert server.sent[1]["inputResponses"] == {"a": {"to": "elicitation/create"}}


async def test_a_server_out_of_reach_for_a_moment_is_answered_by_the_same_client() -> None:
    server = OpenServer([GONE, UNKNOWN, OPEN, GONE, GONE, OPEN])
    assert (await server.served()).result is DONE
    assert (server.cancelled, set(server.sent[1]["inputResponses"])) == (0, {"a", "b"})


async def test_a_round_without_server_requests_is_repeated_after_a_pause() -> None:
    server = Server([asking({}, requestState="later")])
    with pytest.raises(MCPError, match="rounds"):
        await in_rounds(server.send, {}, client())
    gaps_s = [after - before for before, after in zip(server.sent_at_s, server.sent_at_s[1:], strict=False)]
    assert gaps_s == [pytest.approx(gap_s) for gap_s in (0.05, 0.1, 0.2, *[0.25] * (ROUNDS_MAX - 3))]
