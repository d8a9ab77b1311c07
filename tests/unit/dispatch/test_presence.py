"""Calls that were cut off, or that no table leads to a replica of, while one lives or is about to be there."""

import asyncio
from dataclasses import replace

import pytest

from agent.dispatch.renewals import DIAL_WAIT_S, WAIT_S
from agent.errors import CallNotSent, CallOutcomeUnknown, CallRefused, CallUnanswered
from agent.model import Json, LinkState
from agent.routing.table import Route
from tests.unit.control.fleet import OK, Fleet, ScriptedLink, fleet

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime(start=1000.0)]

READS = {"readOnlyHint": True}


def cut_off() -> CallOutcomeUnknown:
    failure = CallOutcomeUnknown("reset")
    failure.cut_off = True
    return failure


def seconds_since(began_s: float) -> float:
    return asyncio.get_running_loop().time() - began_s


def hears(now: Fleet, name: str, after_s: float) -> None:
    def answered() -> None:
        now.link(name).heard_at_s = asyncio.get_running_loop().time()
        now.dispatch.renewals.routes_changed()

    asyncio.get_running_loop().call_later(after_s, answered)


def only(now: Fleet, name: str, **changes: float) -> Route:
    return replace(
        now.route, replicas=tuple(r for r in now.route.replicas if r.backend_key == f"peer:{name}"), **changes
    )


@pytest.mark.parametrize("after_s", [0.01, 0.8])
async def test_a_read_that_was_cut_off_goes_to_its_only_replica_again_once_that_has_answered_a_probe(
    after_s: float,
) -> None:
    now = fleet(annotations=READS, a=[cut_off(), OK])
    began_s = asyncio.get_running_loop().time()
    hears(now, "a", after_s)
    assert await now.call(present=lambda: now.route) == OK
    assert seconds_since(began_s) == pytest.approx(after_s, abs=0.01)
    assert now.counts() == {"a": 2}


async def test_a_read_that_both_replicas_cut_off_goes_to_the_one_that_lives() -> None:
    async def reset(link: ScriptedLink) -> Json:
        # Its link is down, and the other one's connections are reset while that has the call.
        link.state = LinkState.BACKOFF
        raise cut_off()

    now = fleet(annotations=READS, a=[reset], b=[reset])
    first: list[str] = []

    async def once_more(link: ScriptedLink) -> Json:
        if not first:
            first.append(link.spec.name)
            return await reset(link)
        if len(first) == 1:
            first.append(link.spec.name)
            hears(now, link.spec.name, 0.02)
            raise cut_off()
        return OK

    for link in now.links.values():
        link.answers = [once_more]
    assert await now.call(present=lambda: now.route) == OK
    assert now.counts() == {first[0]: 1, first[1]: 2}


@pytest.mark.parametrize(
    ("failure", "annotations"),
    [(CallOutcomeUnknown("HTTP 502"), READS), (cut_off(), None)],
    ids=["answered", "writes"],
)
async def test_what_was_answered_and_what_must_not_be_repeated_goes_to_no_replica_again(
    failure: Exception, annotations: Json | None
) -> None:
    now = fleet(annotations=annotations, a=[failure, OK])
    hears(now, "a", 0.01)
    with pytest.raises(CallUnanswered):
        await now.call(present=lambda: now.route)
    assert now.counts() == {"a": 1}


async def test_a_read_is_cut_off_once_more_and_no_third_time_by_the_same_replica() -> None:
    now = fleet(annotations=READS, a=[cut_off()])
    hears(now, "a", 0.01)
    hears(now, "a", 0.02)
    with pytest.raises(CallUnanswered):
        await now.call(present=lambda: now.route)
    assert now.counts() == {"a": 2}


async def test_a_link_that_was_cut_off_and_answers_no_probe_is_waited_for_only_while_it_is_up() -> None:
    now = fleet(annotations=READS, a=[cut_off()])
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(CallUnanswered):
        await now.call(present=lambda: now.route)
    assert seconds_since(began_s) == pytest.approx(DIAL_WAIT_S, abs=0.01)
    now.link("a").state, began_s = LinkState.BACKOFF, asyncio.get_running_loop().time()
    with pytest.raises(CallRefused):
        await now.call(present=lambda: now.route)
    assert seconds_since(began_s) == pytest.approx(WAIT_S, abs=0.01)


@pytest.mark.parametrize("annotations", [READS, None])
async def test_a_call_waits_for_a_replica_that_is_connected_and_in_no_table_yet(annotations: Json | None) -> None:
    failure: Exception = CallNotSent("refused") if annotations is None else CallOutcomeUnknown("was ended")
    now = fleet(annotations=annotations, a=[OK, failure], b=[OK])
    table = [now.route]
    while now.counts()["b"] == 0 or now.counts()["a"] == 0:
        await now.call(present=lambda: table[0])
    now.link("b").answers, now.link("a").answers = [OK], [failure]
    table[0] = only(now, "a")
    now.unlisted.add("peer:b")

    def change() -> None:
        now.unlisted.clear()
        table[0] = now.route
        now.dispatch.renewals.routes_changed()

    asyncio.get_running_loop().call_later(WAIT_S + 0.3, change)
    began_s = asyncio.get_running_loop().time()
    assert await now.call(route=table[0], present=lambda: table[0]) == OK
    assert seconds_since(began_s) == pytest.approx(WAIT_S + 0.3, abs=0.01)


async def test_a_call_hurries_and_waits_for_a_replica_that_the_table_has_lost_before() -> None:
    now = fleet(a=[OK], b=[OK])
    table = [now.route]
    while now.counts()["b"] == 0 or now.counts()["a"] == 0:
        await now.call(present=lambda: table[0])
    now.link("a").state, now.link("b").state = LinkState.BACKOFF, LinkState.DIALING
    table[0] = only(now, "a", away_since_s=990.0)

    def change() -> None:
        now.link("b").state = LinkState.READY
        table[0] = only(now, "b")
        now.dispatch.renewals.routes_changed()

    asyncio.get_running_loop().call_later(WAIT_S + 0.3, change)
    assert await now.call(route=table[0], present=lambda: table[0]) == OK
    assert (now.link("a").calls_waiting, now.link("b").calls_waiting) == (1, 1)
