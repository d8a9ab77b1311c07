"""A call whose server is away: what it waits for, for how long, which dial it hurries, and how it ends."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from agent.dispatch.renewals import DIAL_WAIT_S, WAIT_S
from agent.errors import NOT_EXECUTED, CallOutcomeUnknown, CallRefused, CallUnanswered, NoLongerOffered, RpcError
from agent.model import ALTERNATIVES_META_KEY, DEADLINE_META_KEY, OWN_ERROR_KEY, Json, LinkState, ListFault, Offer
from agent.routing.away import places_of
from agent.routing.table import Route
from tests.scripted_client import OWN
from tests.unit.control.fleet import OK, Fleet, fleet, own_server

SAID_NO = RpcError(NOT_EXECUTED, "kit__do was not executed: away", {"outcome": "not_executed", OWN_ERROR_KEY: True})
SAID_GONE = RpcError(-32602, "Unknown tool: 'kit__do'", {"name": "kit__do", OWN_ERROR_KEY: True})

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime(start=1000.0)]


def away(now: Fleet, since_s: float = 988.0) -> Route:
    return replace(now.route, away_since_s=since_s)


def down(now: Fleet, state: LinkState = LinkState.BACKOFF) -> Fleet:
    for link in now.links.values():
        link.state = state
    return now


def seconds_since(began_s: float) -> float:
    return asyncio.get_running_loop().time() - began_s


def comes_back(now: Fleet, table: list[Route | None], after_s: float, state: LinkState = LinkState.READY) -> None:
    def change() -> None:
        for link in now.links.values():
            link.state, link.up_since_s = state, asyncio.get_running_loop().time()
        table[0] = now.route
        now.dispatch.renewals.routes_changed()

    asyncio.get_running_loop().call_later(after_s, change)


@pytest.mark.parametrize("state", [LinkState.BACKOFF, LinkState.PARKED])
async def test_a_call_of_a_server_that_is_down_hurries_its_link_and_is_refused_after_a_while(state: LinkState) -> None:
    now = down(fleet(a=[OK]), state)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(CallRefused, match=r"^kit__do was not executed: server kit on a is away since 12 s$") as caught:
        await now.call(route=away(now), present=lambda: away(now))
    assert seconds_since(began_s) == pytest.approx(WAIT_S, abs=0.01)
    assert (caught.value.backend, caught.value.bytes_sent, now.counts()) == ("peer:a", False, {"a": 0})
    assert now.link("a").calls_waiting == 1
    assert not [name for name in now.series() if name.startswith("mesh_ejections_total")]


async def test_a_call_goes_to_the_server_that_comes_back_while_it_waits() -> None:
    now = down(fleet(a=[OK]))
    table: list[Route | None] = [away(now)]
    began_s = asyncio.get_running_loop().time()
    comes_back(now, table, 0.3)
    assert await now.call(route=away(now), present=lambda: table[0]) == OK
    assert seconds_since(began_s) == pytest.approx(0.3, abs=0.01)


async def test_a_call_below_the_name_of_a_peer_that_has_listed_nothing_yet_goes_to_what_it_lists_then() -> None:
    now = down(fleet(a=[OK]), LinkState.DIALING)
    unlisted = next(places_of(now.link("a").spec, 999.0, OWN))
    table: list[Route | None] = [unlisted]
    began_s = asyncio.get_running_loop().time()
    comes_back(now, table, 0.3)
    assert await now.call(route=unlisted, present=lambda: table[0]) == OK
    assert seconds_since(began_s) == pytest.approx(0.3, abs=0.01)


async def test_a_dial_under_way_is_waited_for_longer_but_not_for_ever() -> None:
    now = down(fleet(a=[OK]), LinkState.DIALING)
    table: list[Route | None] = [away(now)]
    comes_back(now, table, 2.0)
    assert await now.call(route=away(now), present=lambda: table[0]) == OK
    down(now, LinkState.DIALING)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(CallRefused, match=r"server kit on a is away since \d+ s: it has not answered yet$"):
        await now.call(route=away(now), present=lambda: away(now))
    assert seconds_since(began_s) == pytest.approx(DIAL_WAIT_S, abs=0.01)


@pytest.mark.parametrize(("listed_after_s", "is_called"), [(WAIT_S - 0.2, True), (WAIT_S + 0.2, False)])
async def test_a_dial_that_took_all_of_the_time_is_not_in_vain_and_its_list_is_waited_for_a_moment(
    listed_after_s: float, *, is_called: bool
) -> None:
    now = down(fleet(ours=own_server(), kit=[OK]), LinkState.DIALING)
    table: list[Route | None] = [was_away := away(now)]
    linked_after_s, began_s = DIAL_WAIT_S - 0.1, asyncio.get_running_loop().time()
    comes_back(now, [None], linked_after_s)
    asyncio.get_running_loop().call_later(linked_after_s + listed_after_s, comes_back, now, table, 0.0)
    if is_called:
        assert await now.call(route=was_away, present=lambda: table[0]) == OK
    else:
        with pytest.raises(CallRefused):
            await now.call(route=was_away, present=lambda: table[0])
        assert seconds_since(began_s) == pytest.approx(linked_after_s + WAIT_S, abs=0.01)


@pytest.mark.parametrize(
    ("meta", "waited_s"), [({DEADLINE_META_KEY: 200}, 0.2), ({ALTERNATIVES_META_KEY: True}, 0.0), ({}, WAIT_S)]
)
async def test_no_call_waits_beyond_its_time_nor_where_its_caller_has_another_replica(
    meta: Json, waited_s: float
) -> None:
    now = down(fleet(a=[OK]))
    began_s = asyncio.get_running_loop().time()
    params = {"name": "kit__do", "arguments": {}, "_meta": meta}
    with pytest.raises(CallRefused):
        await now.call(params, route=away(now), present=lambda: away(now))
    assert seconds_since(began_s) == pytest.approx(waited_s, abs=0.01)


async def test_a_link_that_is_lost_before_the_table_says_so_costs_no_attempt_and_no_budget() -> None:
    now = down(fleet(a=[OK]))
    table: list[Route | None] = [now.route]
    comes_back(now, table, 0.2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(now.call(present=lambda: table[0]), name="call") for _ in range(50)]
    assert [task.result() for task in tasks] == [OK] * 50
    assert sum(count for name, count in now.series().items() if name.startswith("mesh_retries")) == 0


async def test_our_own_server_is_listed_before_it_gets_a_call_that_found_it_away() -> None:
    now = fleet(ours=own_server(), kit=[OK])
    table: list[Route | None] = [away(now)]
    comes_back(now, table, 0.2)
    began_s = asyncio.get_running_loop().time()
    assert await now.call(route=away(now), present=lambda: table[0]) == OK
    assert seconds_since(began_s) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("state", [LinkState.READY, LinkState.IDLE])
async def test_a_server_that_is_connected_and_not_in_the_table_yet_is_waited_for(state: LinkState) -> None:
    now = down(fleet(ours=own_server(), kit=[OK]), state)
    table: list[Route | None] = [away(now)]
    comes_back(now, table, 2 * WAIT_S)
    began_s = asyncio.get_running_loop().time()
    assert await now.call(route=away(now), present=lambda: table[0]) == OK
    assert seconds_since(began_s) == pytest.approx(2 * WAIT_S, abs=0.01)


async def test_a_server_that_is_connected_and_cannot_be_listed_is_not_waited_for() -> None:
    now = fleet(ours=own_server(), kit=[OK])
    now.link("kit").offer = Offer(faults=(ListFault("tools/list", "it is broken"),))
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(CallRefused):
        await now.call(route=away(now), present=lambda: away(now))
    assert seconds_since(began_s) == pytest.approx(WAIT_S, abs=0.01)


async def test_another_node_is_asked_about_its_own_server_that_is_away() -> None:
    now = fleet(a=[OK])
    assert await now.call(route=away(now), present=lambda: away(now)) == OK


async def test_what_another_node_says_of_a_name_that_was_away_there_is_the_end_of_it() -> None:
    began_s = asyncio.get_running_loop().time()
    now = fleet(a=[SAID_NO])
    with pytest.raises(CallRefused, match=r"^kit__do was not executed: away$"):
        await now.call(route=away(now), present=lambda: away(now))
    now = fleet(a=[SAID_GONE])
    with pytest.raises(NoLongerOffered):
        await now.call(route=away(now), present=lambda: away(now))
    assert seconds_since(began_s) == pytest.approx(0, abs=0.01), "that node has waited already"


async def test_a_name_that_becomes_unknown_while_a_call_waits_is_said_to_be_unknown() -> None:
    now = down(fleet(a=[OK]))
    table: list[Route | None] = [away(now)]

    def forget() -> None:
        table[0] = None
        now.dispatch.renewals.routes_changed()

    asyncio.get_running_loop().call_later(0.1, forget)
    with pytest.raises(NoLongerOffered):
        await now.call(route=away(now), present=lambda: table[0])


async def test_while_the_node_starts_a_call_waits_for_whichever_server_turns_up() -> None:
    now = fleet(a=[OK])
    unknown = replace(now.route, replicas=(), owner="", away_since_s=0.0)
    table: list[Route | None] = [unknown]
    comes_back(now, table, 2.0)
    assert await now.call(route=unknown, present=lambda: table[0]) == OK
    with pytest.raises(CallRefused, match="this node is starting"):
        await now.call(route=unknown, present=lambda: unknown)


@pytest.mark.parametrize(("annotations", "answered"), [({"readOnlyHint": True}, True), (None, False)])
async def test_a_read_that_was_cut_off_is_sent_again_to_the_server_that_is_back(
    annotations: Json | None, *, answered: bool
) -> None:
    now = fleet(annotations=annotations, a=[CallOutcomeUnknown("was ended"), OK])
    table: list[Route | None] = [away(now)]
    comes_back(now, table, 0.3)
    if answered:
        assert await now.call(present=lambda: table[0]) == OK
    else:
        with pytest.raises(CallUnanswered):
            await now.call(present=lambda: table[0])


async def test_a_suspect_link_gets_new_calls_only_while_no_other_one_is_ready() -> None:
    now = fleet(a=[OK], b=[OK], c=[OK])
    now.link("a").state = LinkState.SUSPECT
    for _ in range(60):
        await now.call()
    assert Counter(now.counts())["a"] == 0
    now.link("b").state = now.link("c").state = LinkState.BACKOFF
    for _ in range(10):
        assert await now.call() == OK
    assert now.counts()["a"] == 10, "better a busy one than none"


async def test_a_sticky_call_stays_on_its_replica_though_that_is_suspect() -> None:
    now = fleet(sticky=True, a=[OK], b=[OK])
    await now.call(session_id="one")
    held = next(name for name, count in now.counts().items() if count)
    now.link(held).state = LinkState.SUSPECT
    for _ in range(5):
        await now.call(session_id="one")
    assert now.counts()[held] == 6


async def test_only_a_call_that_has_another_replica_says_so_to_the_next_node() -> None:
    now = fleet(a=[OK])
    await now.call()
    assert ALTERNATIVES_META_KEY not in now.link("a").asked[0]["_meta"]
    now = fleet(a=[OK], b=[OK])
    await now.call()
    asked = now.link("a").asked + now.link("b").asked
    assert asked[0]["_meta"][ALTERNATIVES_META_KEY] is True
