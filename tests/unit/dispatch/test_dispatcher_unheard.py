"""Calls while most links answer no more: what is not heard gets none; those that nothing else answers wait a while."""

import asyncio

import pytest

from agent.dispatch.renewals import DIAL_WAIT_S
from agent.errors import CallRefused
from agent.model import LinkState
from tests.unit.control.fleet import OK, Fleet, alike, fleet

pytestmark = pytest.mark.looptime(start=1000.0)

HEARD_AT_S = 988.0


def unheard(now: Fleet, *names: str) -> Fleet:
    for name in names:
        link = now.link(name)
        link.state, link.unheard, link.heard_at_s = LinkState.SUSPECT, True, HEARD_AT_S
    return now


def hears(now: Fleet, name: str, after_s: float) -> None:
    def answered() -> None:
        link = now.link(name)
        link.state, link.unheard, link.heard_at_s = LinkState.READY, False, asyncio.get_running_loop().time()
        now.dispatch.renewals.routes_changed()

    asyncio.get_running_loop().call_later(after_s, answered)


def seconds_since(began_s: float) -> float:
    return asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize("sticky", [False, True])
async def test_what_is_not_heard_gets_no_call_while_another_is_and_is_ejected_for_nothing(*, sticky: bool) -> None:
    now = unheard(fleet(sticky=sticky, **alike("abc", OK)), "a", "b")
    for number in range(60):
        await now.call(session_id=f"s{number}", present=lambda: now.route)
    assert now.counts() == {"a": 0, "b": 0, "c": 60}
    assert not [name for name in now.series() if name.startswith("mesh_ejections_total")]


async def test_a_busy_replica_is_better_than_one_that_is_not_heard() -> None:
    now = unheard(fleet(a=[OK], b=[OK]), "a")
    now.link("b").state = LinkState.SUSPECT
    assert [await now.call(present=lambda: now.route) for _ in range(10)] == [OK] * 10
    assert now.counts() == {"a": 0, "b": 10}


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_a_call_that_nothing_else_answers_is_refused_as_soon_as_where_its_server_is_away(names: str) -> None:
    now = unheard(fleet(**alike(names, OK)), *names)
    began_s = asyncio.get_running_loop().time()
    server = "server kit on a" if names == "a" else "server kit"
    said = f"^kit__do was not executed: {server} is away since 15 s: it does not answer, nor do most others, "
    with pytest.raises(CallRefused, match=said) as caught:
        await now.call(present=lambda: now.route)
    assert seconds_since(began_s) == pytest.approx(DIAL_WAIT_S, abs=0.01)
    assert not caught.value.bytes_sent
    assert now.counts() == dict.fromkeys(names, 0)
    assert now.link("a").calls_waiting == 1


async def test_a_call_that_waits_goes_to_the_first_that_is_heard_again() -> None:
    now = unheard(fleet(**alike("ab", OK)), "a", "b")
    hears(now, "b", 1.3)
    began_s = asyncio.get_running_loop().time()
    assert await now.call(present=lambda: now.route) == OK
    assert seconds_since(began_s) == pytest.approx(1.3, abs=0.01)
    assert now.counts() == {"a": 0, "b": 1}
