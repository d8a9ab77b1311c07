"""Calls while replicas are in maintenance: none for them as long as another one is there."""

import pytest

from agent.errors import CallNotSent
from agent.model import LinkState
from tests.unit.control.fleet import OK, alike, fleet, own_server

pytestmark = pytest.mark.looptime(start=1000.0)


@pytest.mark.parametrize("sticky", [False, True])
async def test_one_in_maintenance_gets_no_call_while_another_is_there_and_is_back_at_once(*, sticky: bool) -> None:
    now = fleet(sticky=sticky, **alike("abc", OK))
    now.dispatch.drain(frozenset({"peer:a"}))
    for number in range(60):
        await now.call(session_id=f"s{number}")
    assert now.counts()["a"] == 0
    assert min(now.counts()["b"], now.counts()["c"]) > 0
    now.dispatch.drain(frozenset())
    for number in range(60):
        await now.call(session_id=f"s{number}")
    assert now.counts()["a"] > 0


async def test_our_own_server_in_maintenance_leaves_calls_to_others() -> None:
    now = fleet(ours=own_server("kit"), kit=[OK], b=[OK])
    now.dispatch.drain(frozenset({"server:kit"}))
    for _ in range(20):
        await now.call()
    assert now.counts() == {"kit": 0, "b": 20}


async def test_where_all_are_in_maintenance_or_it_is_alone_calls_go_through() -> None:
    for now in (fleet(a=[OK]), fleet(a=[OK], b=[OK])):
        now.dispatch.drain(frozenset({"peer:a", "peer:b"}))
        assert [await now.call() for _ in range(10)] == [OK] * 10


async def test_one_in_maintenance_is_better_than_one_that_is_down_or_refuses() -> None:
    now = fleet(a=[OK], b=[OK])
    now.dispatch.drain(frozenset({"peer:a"}))
    now.link("b").state = LinkState.BACKOFF
    assert await now.call() == OK
    assert now.counts() == {"a": 1, "b": 0}
    now = fleet(a=[OK], b=[CallNotSent("refused")])
    now.dispatch.drain(frozenset({"peer:a"}))
    assert await now.call() == OK
    assert now.counts() == {"a": 1, "b": 1}


async def test_a_busy_replica_that_misses_probes_is_there_all_the_same() -> None:
    now = fleet(a=[OK], b=[OK])
    now.dispatch.drain(frozenset({"peer:a"}))
    now.link("b").state = LinkState.SUSPECT
    assert [await now.call() for _ in range(10)] == [OK] * 10
    assert now.counts() == {"a": 0, "b": 10}
