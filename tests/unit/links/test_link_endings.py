"""How a link is reloaded, retired, parked and cancelled, in loop time; nothing of it may be lost or swallowed."""

import asyncio
from collections.abc import Callable

import pytest

from agent.client.protocol import Request
from agent.errors import CallNotSent, Unreachable
from agent.links.link import DRAIN_TIMEOUT_S
from agent.links.listing import OfferReader
from agent.links.pause import CALLED_IN_VAIN_EVERY_S
from agent.links.state import CRASHES_MAX
from agent.model import Json, LinkState, ServerScope, ServerSpec, StdioTarget
from tests.scripted_client import OtherSide, ScriptedClient, now_s, running_link

pytestmark = pytest.mark.looptime

CHILD = ServerSpec("child", StdioTarget("true"), ServerScope.NODE)


def unreachable() -> Unreachable:
    return Unreachable("refused")


# Reload


async def test_a_reload_of_a_ready_link_is_over_when_the_new_client_is_listed() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        await rig.ready()
        side.dial_time_s = 3.0
        attempted = rig.link.reload()
        await attempted.wait()
        assert now_s() == 3.0
        assert rig.link.view.connected
        assert side.closed == 1
        assert rig.told.reconnected == 0


async def test_a_reload_that_fails_is_over_when_it_has_failed() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        await rig.ready()
        side.dial = unreachable
        await rig.link.reload().wait()
        assert rig.link.view.state is LinkState.BACKOFF
        assert rig.link.view.last_error == "refused"


async def test_a_reload_cuts_a_back_off_short() -> None:
    side = OtherSide(dial=unreachable)
    async with running_link(side) as rig:
        await asyncio.sleep(300)
        side.dial = lambda: None
        at_s = now_s()
        await rig.link.reload().wait()
        assert now_s() == at_s
        assert rig.link.view.connected


async def test_a_reload_while_dialling_waits_for_that_very_dial() -> None:
    side = OtherSide(dial_time_s=5.0)
    async with running_link(side) as rig:
        await asyncio.sleep(1)
        first = rig.link.first_attempt
        await rig.link.reload().wait()
        assert now_s() == 5.0
        assert first.is_set()
        await asyncio.sleep(10)
        assert len(side.clients) == 1


async def test_two_reloads_at_once_are_both_answered_by_one_dial() -> None:
    side = OtherSide(dial_time_s=1.0)
    async with running_link(side) as rig:
        await rig.ready()
        one, other = rig.link.reload(), rig.link.reload()
        async with asyncio.timeout(5):
            await one.wait()
            await other.wait()
        assert len(side.clients) == 2


async def test_waiters_for_the_first_attempt_are_freed_when_the_link_ends() -> None:
    async with running_link(OtherSide(dial_time_s=3600)) as rig:
        await asyncio.sleep(1)
        rig.task.cancel()
        await rig.link.first_attempt.wait()
        assert rig.link.view.state is LinkState.CLOSED


# Children


async def test_a_child_that_fails_five_times_is_parked_and_a_reload_tries_it_again() -> None:
    side = OtherSide(dial=unreachable)
    async with running_link(side, CHILD) as rig:
        await rig.when(lambda: rig.link.view.state is LinkState.PARKED)
        assert len(side.opened_at_s) == 5
        assert rig.link.view.next_attempt_at_s == pytest.approx(now_s() + 60)
        await asyncio.sleep(3600)
        assert 5 + 3600 / 300 <= len(side.opened_at_s) <= 5 + 3600 / 300 + 4
        assert rig.link.view.state is LinkState.PARKED
        tried = len(side.opened_at_s)
        await rig.link.reload().wait()
        assert len(side.opened_at_s) == tried + 1
        side.dial = lambda: None
        await rig.ready()


async def test_a_parked_child_that_is_called_gets_no_more_than_five_tries_in_half_a_minute() -> None:
    side = OtherSide(dial=unreachable)
    async with running_link(side, CHILD, knock=side.knocked) as rig:
        await rig.when(lambda: rig.link.view.state is LinkState.PARKED)
        began_s, tried = now_s(), len(side.opened_at_s)
        while now_s() < began_s + 10 * CALLED_IN_VAIN_EVERY_S:
            rig.link.called()
            await asyncio.sleep(1.0)
        assert len(side.opened_at_s) - tried <= 10 * CRASHES_MAX


async def test_reloading_a_child_often_does_not_park_it() -> None:
    side = OtherSide()
    async with running_link(side, CHILD) as rig:
        await rig.ready()
        for _ in range(8):
            await rig.link.reload().wait()
        side.clients[-1].lose("exited with code 1")
        await rig.down()
        assert rig.link.view.state is LinkState.BACKOFF
        assert rig.link.view.attempts == 1


# Retirement


async def test_retiring_waits_for_calls_in_flight_and_then_closes() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        await rig.ready()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=60)), name="call")
            await asyncio.sleep(1)
            assert rig.link.retire()
            await asyncio.sleep(5)
            assert not rig.task.done()
            side.calls.set()
        assert call.result() == {"answered": "tools/call"}
        await rig.task
        assert now_s() == 6.0
        assert side.closed == 1


async def test_retiring_waits_no_longer_than_its_time() -> None:
    async with running_link(OtherSide()) as rig:
        await rig.ready()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=600)), name="call")
            await asyncio.sleep(0)
            assert rig.link.retire()
            await rig.task
            assert now_s() == DRAIN_TIMEOUT_S
            call.cancel()


async def test_a_retiring_link_whose_client_breaks_does_not_dial_again() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        await rig.ready()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=60)), name="call")
            await asyncio.sleep(0)
            assert rig.link.retire()
            side.clients[0].lose("reset")
            await rig.task
            call.cancel()
        assert len(side.opened_at_s) == 1


async def test_a_link_that_is_retired_while_it_reloads_does_not_dial_again() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        await rig.ready()
        rig.link.reload()
        assert rig.link.retire()
        async with asyncio.timeout(2 * DRAIN_TIMEOUT_S):
            await rig.task
        assert len(side.opened_at_s) == 1


async def test_a_link_without_a_client_has_nothing_to_drain() -> None:
    async with running_link(OtherSide(dial=unreachable)) as rig:
        await rig.down()
        assert not rig.link.retire()


# Cancellation


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.0, 1.5, 2.5])
async def test_a_link_that_is_cancelled_at_any_moment_ends_and_closes_its_client(after_s: float) -> None:
    side = OtherSide(dial_time_s=1.0, list_time_s=1.0)
    async with running_link(side) as rig:
        await asyncio.sleep(after_s)
        rig.task.cancel()
        await asyncio.wait([rig.task])
        assert rig.task.cancelled()
    assert side.closed == len(side.clients)


async def test_a_cancellation_that_meets_a_breaking_client_is_not_swallowed() -> None:
    async def slow_to_end(on_change: Callable[[str], None]) -> None:
        on_change("listening")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)  # As a client that tells the other side that its subscription is over.

    side = OtherSide(listen=slow_to_end)
    async with running_link(side) as rig:
        await rig.ready()
        side.clients[0].lose("reset")
        await asyncio.sleep(0.5)
        rig.task.cancel()
        await asyncio.wait([rig.task], timeout=60)
        assert rig.task.cancelled()
        assert len(side.opened_at_s) == 1


async def test_a_request_without_a_client_was_not_sent() -> None:
    async with running_link(OtherSide(dial=unreachable)) as rig:
        await rig.down()
        with pytest.raises(CallNotSent, match="peer:peer is not connected: refused"):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=1))


async def test_a_listing_that_fails_in_the_moment_of_its_cancellation_is_cancelled_and_does_not_go_on() -> None:
    class ClientThatBreaks(ScriptedClient):
        async def request(self, _request: Request) -> Json:
            try:
                return await asyncio.Event().wait()  # type: ignore[return-value]  # it never returns
            except asyncio.CancelledError:
                raise Unreachable("broken in that very moment") from None

    async with asyncio.TaskGroup() as group:
        reader = OfferReader(ClientThatBreaks(OtherSide()))
        listing = group.create_task(reader.read(timeout_s=5), name="listing")
        await asyncio.sleep(1)
        listing.cancel()
        await asyncio.wait([listing])
        assert listing.cancelled()
