"""Calls that nothing waits for yet: how long, in whose name one goes on, and what is left of one afterwards."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from agent.authority.allowance import Allowance
from agent.authority.caller import Caller, caller, serve_for
from agent.authority.grant import ANYONE, Grant
from agent.errors import MCPError
from agent.lossless_json.raw import RawObject
from agent.routing.table import Replica, Route, RouteKind
from agent.server.fast_path.connection import FastRequest, Handler
from agent.server.preferences import USUAL
from agent.server.search import CALL_TOOL
from agent.server.started import WAITED_FOR_S, StartedCalls, StartedRequest, startable

ANN, BOB = Caller(Grant("ann")), Caller(Grant("bob"))
REPLICA = Replica("server:kit", "do", "me", ours=True, hops=0)
ROUTE = Route(RouteKind.TOOL, "kit__do", {"name": "kit__do"}, "d", (REPLICA,), True, "service:kit", namespace="kit")


class Left:
    """A request that notes when it was left, and goes then, unless it `fails`."""

    def __init__(self, calls: StartedCalls, *, fails: bool = False) -> None:
        self._calls, self._fails = calls, fails
        self.left_at_s: list[float] = []

    def leave(self) -> None:
        self.left_at_s.append(asyncio.get_running_loop().time())
        self._calls.since_s.pop(cast("StartedRequest", self), None)
        if self._fails:
            raise RuntimeError("a bug")


def added(calls: StartedCalls, **more: bool) -> Left:
    calls.add(cast("StartedRequest", one := Left(calls, **more)), asyncio.get_running_loop().time())
    return one


@pytest.mark.looptime(start=100.0)
async def test_each_call_is_left_half_a_second_after_it_began_by_one_timer() -> None:
    calls = StartedCalls()
    first = added(calls)
    await asyncio.sleep(0.2)
    second = added(calls)
    answered = added(calls)
    calls.since_s.pop(cast("StartedRequest", answered), None)
    await asyncio.sleep(2.0)
    third = added(calls)
    await asyncio.sleep(2.0)
    left_at_s = [at_s for one in (first, second, answered, third) for at_s in one.left_at_s]
    assert left_at_s == pytest.approx([100.0 + WAITED_FOR_S, 100.2 + WAITED_FOR_S, 102.2 + WAITED_FOR_S], abs=0.01)
    assert repr(calls) == "<StartedCalls 0>"


@pytest.mark.looptime(start=100.0)
async def test_one_that_cannot_be_left_costs_no_other_its_turn() -> None:
    calls, loop = StartedCalls(), asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    added(calls, fails=True)
    await asyncio.sleep(1.0)
    other = added(calls)
    await asyncio.sleep(1.0)
    assert len(other.left_at_s) == 1


class Client:
    """The connection of a client: what it was answered with, and how its request went on."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.answers: list[bytes] = []
        self.callers: list[Caller] = []

    def answer(self, body: bytes) -> bool:
        if self.takes:
            self.answers.append(body)
        return self.takes

    def go_on(self, _beginning: object, _body: bytes, handler_of: Callable[[FastRequest], Handler]) -> None:
        copy_context().run(handler_of, cast("FastRequest", None))


class Owner:
    """The server of an era. `raises`: its result cannot be written."""

    def __init__(self, *, raises: bool = False) -> None:
        self.started_calls = StartedCalls()
        self.raises = raises
        self.in_name_of: list[Caller] = []

    def written(self, _started: StartedRequest, _forwarded: object) -> tuple[bytes, ...]:
        if self.raises:
            raise MCPError(code=-32603, message="too deep")
        return b'{"content":', b"[]}"

    def go_on(self, _request: FastRequest, _started: StartedRequest) -> Handler:
        self.in_name_of.append(caller())
        return cast("Handler", None)


def request_of(owner: Owner, client: Client, request_id: object = 7, who: Caller = ANN) -> StartedRequest:
    more: Any = {"params": {"name": "kit__do"}, "index": None, "route": ROUTE, "preferences": USUAL}
    out: Any = (owner, client, None, b"")
    request = StartedRequest(*out, caller=who, request_id=cast("int", request_id), **more)
    owner.started_calls.since_s[request] = 0.0
    return request


LINK = {"type": "resource_link", "uri": "a://x", "name": "x"}
RESULT = RawObject({"content": []}, b'{"content":[]}')


@pytest.mark.parametrize(("request_id", "shown"), [(7, b"7"), ('a"b', b'"a\\"b"')])
async def test_a_result_is_answered_under_its_id_and_nothing_of_its_call_is_left(
    request_id: object, shown: bytes
) -> None:
    owner, client = Owner(), Client()
    assert request_of(owner, client, request_id).take(RESULT, REPLICA)
    assert client.answers == [b'{"jsonrpc":"2.0","id":' + shown + b',"result":{"content":[]}}']
    assert repr(owner.started_calls) == "<StartedCalls 0>"


@pytest.mark.parametrize(
    ("owner", "client", "result"),
    [
        (Owner(raises=True), Client(), RESULT),
        (Owner(), Client(takes=False), RESULT),
        (Owner(), Client(), RawObject({"content": [LINK]}, orjson.dumps({"content": [LINK]}))),
    ],
)
async def test_a_result_that_cannot_be_answered_at_once_is_not_taken(
    owner: Owner, client: Client, result: RawObject
) -> None:
    request = request_of(owner, client)
    assert not request.take(result, REPLICA)
    assert client.answers == []
    assert repr(owner.started_calls) == "<StartedCalls 1>", "it is still under way"
    request.wait()
    assert repr(owner.started_calls) == "<StartedCalls 0>"


async def test_a_call_goes_on_in_its_own_callers_name_not_in_another_ones() -> None:
    owner = Owner()
    serve_for(BOB)
    request_of(owner, Client(), who=ANN).wait()
    assert owner.in_name_of == [ANN]
    assert caller() is BOB, "and changes nothing for that one"


def found(route: Route | None, who: Caller = ANN, *, offers: bool = False, name: str = "kit__do") -> Route | None:
    views: Any = SimpleNamespace(offers=offers, index=SimpleNamespace(tool=lambda _params: route))
    return startable(views, who, {"name": name})


class Records:
    records_calls = True


def test_only_what_its_name_says_all_of_is_startable() -> None:
    assert found(ROUTE) is ROUTE
    assert found(ROUTE, Caller(ANYONE)) is ROUTE
    assert found(None) is None
    assert found(ROUTE, offers=True) is None, "a session may have another"
    assert found(ROUTE, name="do") is None, "it is counted by its own name"
    assert found(ROUTE, Caller(Grant("ann"), allowance=Allowance(1.0, 1))) is None
    assert found(ROUTE, Caller(Grant("ann"), cast("Any", Records()))) is None
    searching = Route(RouteKind.TOOL, CALL_TOOL, {"name": CALL_TOOL}, "d", (REPLICA,), True, "service:kit", False)
    assert found(searching, name=CALL_TOOL) is None
