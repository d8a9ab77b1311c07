"""Which calls that no server has executed go to a replica that offers them only now, and which are not held up."""

import asyncio
from dataclasses import replace

import pytest

from agent.dispatch.renewals import WAIT_S
from agent.errors import (
    NOT_EXECUTED,
    AuthRefused,
    CallNotSent,
    CallOutcomeUnknown,
    CallRefused,
    CallUnanswered,
    RpcError,
)
from agent.model import DEADLINE_META_KEY, OWN_ERROR_KEY
from agent.routing.table import Route
from tests.unit.control.fleet import OK, Fleet, after, fleet

SAID_NO = RpcError(NOT_EXECUTED, "kit__do was not executed: gone", {"outcome": "not_executed", OWN_ERROR_KEY: True})
SAID_GONE = RpcError(-32602, "Unknown tool: 'kit__do'", {"name": "kit__do", OWN_ERROR_KEY: True})

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime(start=1000.0)]


def only(now: Fleet, name: str) -> Route:
    """The route with this one replica."""
    return replace(now.route, replicas=tuple(r for r in now.route.replicas if r.backend_key == f"peer:{name}"))


def seconds_since(began_s: float) -> float:
    return asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize("failure", [CallNotSent("is not connected"), SAID_NO, SAID_GONE])
async def test_a_call_whose_last_replica_has_just_gone_is_done_by_one_of_the_next_table(
    failure: Exception,
) -> None:
    now = fleet(old=[failure], new=[OK])
    table = [only(now, "old")]
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    def change() -> None:
        table[0] = only(now, "new")
        now.dispatch.renewals.routes_changed()

    loop.call_later(0.1, now.dispatch.renewals.routes_changed)  # A table that says nothing of it.
    loop.call_later(0.2, change)
    assert await now.call(route=table[0], present=lambda: table[0]) == OK
    assert seconds_since(began_s) == pytest.approx(0.2, abs=0.01)
    assert now.counts() == {"old": 1, "new": 1}


async def test_it_is_refused_as_before_when_no_replica_comes_in_time() -> None:
    now = fleet(old=[CallNotSent("is not connected")])
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(
        CallRefused, match=r"^kit__do was not executed: server kit on [a-z]+ could not be sent the request$"
    ):
        await now.call(present=lambda: now.route)
    assert seconds_since(began_s) == pytest.approx(WAIT_S, abs=0.01)
    assert now.counts() == {"old": 1}


@pytest.mark.parametrize("name_is", ["gone", "another owner's"])
async def test_no_call_waits_longer_for_a_name_that_is_gone_and_no_other_replica_gets_it(name_is: str) -> None:
    now = fleet(old=[CallNotSent("is not connected")], new=[OK])
    other = None if name_is == "gone" else replace(only(now, "new"), owner="service:other")
    with pytest.raises(CallRefused):
        await now.call(route=only(now, "old"), present=lambda: other)
    assert now.counts() == {"old": 1, "new": 0}


async def test_a_server_that_refuses_the_token_is_not_waited_for_but_looked_up_once_more() -> None:
    now = fleet(old=[AuthRefused("401")], new=[OK])
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(CallRefused):
        await now.call(route=only(now, "old"), present=lambda: only(now, "old"))
    assert await now.call(route=only(now, "old"), present=lambda: only(now, "new")) == OK
    assert seconds_since(began_s) == pytest.approx(0, abs=0.01)


async def test_no_caller_waits_beyond_the_time_that_the_call_has() -> None:
    now = fleet(old=[after(0.9, CallNotSent("refused"))])
    began_s = asyncio.get_running_loop().time()
    params = {"name": "kit__do", "arguments": {}, "_meta": {DEADLINE_META_KEY: 1000}}
    with pytest.raises(CallRefused):
        await now.call(params, present=lambda: now.route)
    assert seconds_since(began_s) == pytest.approx(1.0, abs=0.01)


async def test_what_may_have_been_executed_is_not_sent_to_a_new_replica() -> None:
    now = fleet(old=[CallOutcomeUnknown("reset")], new=[OK])
    with pytest.raises(CallUnanswered):
        await now.call(route=only(now, "old"), present=lambda: only(now, "new"))
    assert now.counts() == {"old": 1, "new": 0}
