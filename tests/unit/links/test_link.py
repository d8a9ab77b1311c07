"""A link's life in loop time: dialling, listing, probing, backing off, and ending, whatever the other side does."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from tenacity import AsyncRetrying

from agent.client.protocol import Request
from agent.client.streams import RESOURCES, TASKS, Subject
from agent.errors import AuthRefused, CallNotSent, CallTimedOut, RpcError, Unreachable
from agent.links.listing import RETRY_PAUSES_S
from agent.model import HttpTarget, Json, LinkState, NodeIdentity, ServerScope, ServerSpec
from tests.scripted_client import (
    OtherSide,
    Rig,
    cannot_listen,
    failing_times,
    listens,
    no_failure,
    now_s,
    running_link,
    unreachable,
)

pytestmark = pytest.mark.looptime

NODE = NodeIdentity("id-peer", "peer")
SERVER = ServerSpec("kit", HttpTarget("http://kit.test/mcp"), ServerScope.NODE)


class Wishes:
    """Wants what a test sets."""

    def __init__(self, *uris: str, subject: Subject = RESOURCES) -> None:
        self.subject = subject
        self.uris = frozenset(uris)
        self.told: list[str] = []

    def wanted(self, backend_key: str) -> frozenset[str]:  # noqa: ARG002 - the protocol's signature
        return self.uris

    def owed(self, backend_key: str) -> frozenset[str]:  # noqa: ARG002 - as above
        return frozenset()

    def settled(self, backend_key: str, name: str, refusal: RpcError | None) -> None:  # noqa: ARG002 - as above
        self.told.append(name)

    def updated(self, backend_key: str, name: str, params: Json) -> None:
        raise AssertionError((backend_key, name, params))


async def test_a_link_is_ready_when_the_first_whole_offer_is_there() -> None:
    async with running_link(OtherSide()) as rig:
        await rig.ready()
        view = rig.link.view
        assert (view.state, len(view.offer.tools), view.last_error) == (LinkState.READY, 1, "")
        assert rig.link.first_attempt.is_set()
        assert rig.told.dials == ["ok"]
        assert now_s() == 0.0


async def test_a_link_that_is_up_holds_nothing_of_its_retrying() -> None:
    gc.collect()
    gc.disable()  # Nothing collects circles of what was there when a node was ready.
    of_others = {id(one) for one in gc.get_objects() if isinstance(one, AsyncRetrying)}
    try:
        async with running_link(OtherSide()) as rig:
            await rig.ready()
            await asyncio.sleep(1)
            held = [one for one in gc.get_objects() if isinstance(one, AsyncRetrying) and id(one) not in of_others]
            assert held == []
    finally:
        gc.enable()


async def test_no_view_shows_ready_without_its_offer() -> None:
    async with running_link(OtherSide()) as rig:
        seen = await rig.when(lambda: rig.link.view.connected)
        assert seen == 0.0
        assert rig.link.view.offer.tools


async def test_a_change_stream_that_never_comes_up_holds_the_first_listing_for_two_seconds_only() -> None:
    async def silent(_: Callable[[str], None]) -> None:
        await asyncio.Event().wait()

    async with running_link(OtherSide(listen=silent)) as rig:
        assert await rig.ready() == 2.0


async def test_a_listing_that_hangs_is_a_failed_dial_after_ten_seconds() -> None:
    async with running_link(OtherSide(list_time_s=3600)) as rig:
        assert await rig.down() == 10.0
        assert rig.link.view.last_error == "listing took too long"
        assert rig.link.first_attempt.is_set()


async def test_the_first_listing_of_a_server_has_the_time_that_is_left_to_start() -> None:
    async with running_link(OtherSide(list_time_s=25.0, start_deadline_s=30.0), SERVER) as rig:
        assert await rig.ready() == 25.0


async def test_a_server_that_lists_slowly_may_list_as_slowly_later() -> None:
    side = OtherSide(listen=cannot_listen, list_time_s=25.0, start_deadline_s=30.0)
    async with running_link(side, SERVER) as rig:
        await rig.ready()
        side.tools = [{"name": "another", "inputSchema": {}}]
        assert await rig.when(lambda: rig.link.view.offer.tools[0]["name"] == "another", within_s=90.0) > 25.0


async def test_a_server_that_has_not_listed_when_its_time_to_start_is_over_is_a_failed_dial() -> None:
    async with running_link(OtherSide(list_time_s=3600, start_deadline_s=4.0), SERVER) as rig:
        assert await rig.down() == 4.0
        assert rig.link.view.last_error == "listing took too long"


async def test_a_dial_waits_as_long_as_the_server_asked_for_and_no_longer_than_five_minutes() -> None:
    for asked_s, waits_s in ((40.0, 40.0), (86_400.0, 300.0)):
        side = OtherSide(dial=failing_times(1, partial(Unreachable, "HTTP 503", retry_after_s=asked_s)))
        async with running_link(side) as rig:
            began_s = now_s()
            assert await rig.ready() - began_s == pytest.approx(waits_s)


async def test_a_slow_first_listing_is_not_probed_to_death() -> None:
    side = OtherSide(list_time_s=9.0, probe=unreachable)
    async with running_link(side) as rig:
        assert await rig.ready() == 9.0
        assert side.probes == []


async def test_a_listing_that_fails_later_leaves_the_offer_and_is_tried_again() -> None:
    side = OtherSide()
    changes: list[Callable[[str], None]] = []

    async def remembers(on_change: Callable[[str], None]) -> None:
        changes.append(on_change)
        await listens(on_change)

    side.listen = remembers
    async with running_link(side) as rig:
        await rig.ready()
        side.tools.append({"name": "b", "inputSchema": {}})
        side.listing = failing_times(1, lambda: CallTimedOut("no answer"))
        changed_at_s = now_s()
        changes[0]("tools")
        at_s = await rig.when(lambda: len(rig.link.view.offer.tools) == 2)
        assert RETRY_PAUSES_S[0] <= at_s - changed_at_s < RETRY_PAUSES_S[0] + 1
        assert "backoff" not in rig.told.states


@pytest.mark.parametrize("failure", [AuthRefused("401"), CallNotSent("refused")])
async def test_a_listing_that_is_refused_ends_the_session(failure: Exception) -> None:
    side = OtherSide(listen=cannot_listen)
    async with running_link(side) as rig:
        await rig.ready()
        side.listing = lambda: failure
        side.probe = lambda: Unreachable("refused")
        await rig.down()
        assert rig.told.reconnected == 1


async def test_an_error_in_place_of_a_list_is_tried_again_soon() -> None:
    side = OtherSide(listing=failing_times(1, lambda: RpcError(-32603, "not yet")))
    async with running_link(side) as rig:
        assert await rig.ready() < 1.0


async def test_a_burst_of_changes_is_two_listings() -> None:
    side = OtherSide()
    changes: list[Callable[[str], None]] = []

    async def remembers(on_change: Callable[[str], None]) -> None:
        changes.append(on_change)
        await listens(on_change)

    side.listen = remembers
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(1)
        before = len(side.listings)
        for _ in range(20):
            changes[0]("tools")
            await asyncio.sleep(0.001)
        await asyncio.sleep(3)
        assert len(side.listings) - before == 2


async def test_what_cannot_be_listened_to_is_listed_every_half_minute() -> None:
    side = OtherSide(listen=cannot_listen)
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(301)
        assert 10 <= len(side.listings) <= 12


async def test_a_stream_that_keeps_ending_is_opened_ever_more_slowly() -> None:
    ends: list[float] = []

    async def ends_at_once(on_change: Callable[[str], None]) -> None:
        ends.append(now_s())
        on_change("listening")
        raise Unreachable("the stream ended")

    async with running_link(OtherSide(listen=ends_at_once)) as rig:
        await rig.ready()
        await asyncio.sleep(600)
        assert rig.link.view.connected
        assert len(ends) < 30
        assert ends[1] == ends[0]  # One end is ordinary, and answered at once.


async def test_the_end_of_the_stream_of_a_dead_peer_is_noticed_at_once() -> None:
    side = OtherSide()
    stop = asyncio.Event()

    async def until_stopped(on_change: Callable[[str], None]) -> None:
        on_change("listening")
        await stop.wait()
        raise Unreachable("the stream ended")

    side.listen = until_stopped
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(1)
        side.probe = side.dial = unreachable
        stop.set()
        at_s = now_s()
        assert await rig.down() == at_s


def asked(rig: Rig, group: asyncio.TaskGroup) -> asyncio.Task[Json]:
    return group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=60)))


async def stopping(rig: Rig, stop: asyncio.Event) -> None:
    """What a peer does that was stopped: its streams end, and it takes no more connections."""
    rig.side.probe = rig.side.dial = unreachable
    stop.set()
    await rig.down()


def ends_at(stop: asyncio.Event) -> Callable[[Callable[[str], None]], Awaitable[None]]:
    async def listen(on_change: Callable[[str], None]) -> None:
        on_change("listening")
        await stop.wait()
        raise Unreachable("the stream ended")

    return listen


async def test_a_peer_that_stops_may_finish_its_calls_but_gets_no_new_ones() -> None:
    stop = asyncio.Event()
    side = OtherSide(listen=ends_at(stop))
    async with running_link(side) as rig, asyncio.TaskGroup() as group:
        await rig.ready()
        call = asked(rig, group)
        await asyncio.sleep(1)
        await stopping(rig, stop)
        with pytest.raises(CallNotSent):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=1))
        await asyncio.sleep(20)
        assert side.closed == 0
        side.calls.set()
        assert await call == {"answered": "tools/call"}
        await asyncio.sleep(1)
        assert side.closed == 1


async def test_the_client_of_a_peer_that_stopped_is_kept_for_thirty_seconds_at_most_or_until_a_reload() -> None:
    for reload_after_s in (None, 5):
        stop = asyncio.Event()
        side = OtherSide(listen=ends_at(stop))
        async with running_link(side) as rig, asyncio.TaskGroup() as group:
            await rig.ready()
            call = asked(rig, group)
            await asyncio.sleep(1)
            await stopping(rig, stop)
            await asyncio.sleep(reload_after_s or 29)
            assert side.closed == 0
            if reload_after_s is not None:
                rig.link.reload()
                await asyncio.sleep(0.1)
            else:
                await asyncio.sleep(1.1)
            assert side.closed == 1
            call.cancel()


async def test_a_peer_that_is_taken_away_while_it_stops_is_still_waited_for() -> None:
    stop = asyncio.Event()
    side = OtherSide(listen=ends_at(stop))
    async with running_link(side) as rig, asyncio.TaskGroup() as group:
        await rig.ready()
        call = asked(rig, group)
        await asyncio.sleep(1)
        await stopping(rig, stop)
        assert rig.link.retire()
        await asyncio.sleep(10)
        assert side.closed == 0
        side.calls.set()
        assert await call == {"answered": "tools/call"}
        await asyncio.wait([rig.task])
        assert rig.link.view.state is LinkState.CLOSED
        assert len(side.clients) == 1


async def test_calls_to_a_peer_that_hangs_are_not_waited_for() -> None:
    side = OtherSide(identity=NODE)
    async with running_link(side) as rig, asyncio.TaskGroup() as group:
        await rig.ready()
        call = asked(rig, group)
        side.probe = side.dial = unreachable
        await rig.down()
        await asyncio.sleep(0.1)
        assert side.closed == 1
        call.cancel()


async def test_failed_dials_wait_longer_and_longer_but_never_more_than_thirty_seconds() -> None:
    side = OtherSide(dial=unreachable)
    async with running_link(side) as rig:
        await asyncio.sleep(3600)
        gaps = [later - sooner for sooner, later in zip(side.opened_at_s, side.opened_at_s[1:], strict=False)]
        assert gaps[0] <= 0.5
        assert 10 < max(gaps) <= 15.0
        assert set(rig.told.dials) == {"Unreachable"}
        assert rig.link.view.next_attempt_at_s is not None


async def test_a_sighting_of_a_connected_link_lists_again_and_does_not_shorten_a_later_wait() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(1)
        before = len(side.listings)
        rig.link.sight()
        await asyncio.sleep(1)
        assert len(side.listings) == before + 1
        side.dial = lambda: AuthRefused("401")
        side.clients[-1].lose("gone")
        await rig.down()
        await asyncio.sleep(0)
        opened = len(side.opened_at_s)
        await rig.when(lambda: len(side.opened_at_s) > opened)
        assert len(side.opened_at_s) == opened + 1
        first = side.opened_at_s[-1]
        await rig.when(lambda: len(side.opened_at_s) > opened + 1)
        assert side.opened_at_s[-1] - first >= 7.5


async def test_an_unexpected_exception_is_a_state_and_not_the_end() -> None:
    side = OtherSide(dial=failing_times(1, lambda: ZeroDivisionError("ours")))
    async with running_link(side) as rig:
        await rig.down()
        assert rig.link.view.failure == "ProtocolBroken"
        assert "ZeroDivisionError" in rig.link.view.last_error
        assert 7.5 <= await rig.ready() <= 15


async def test_a_bug_inside_the_session_is_a_state_too() -> None:
    async def broken(_: Callable[[str], None]) -> None:
        raise ZeroDivisionError("ours")

    async with running_link(OtherSide(listen=broken)) as rig:
        await rig.down()
        assert "ZeroDivisionError" in rig.link.view.last_error


async def test_a_client_that_cannot_be_closed_does_not_end_the_link() -> None:
    side = OtherSide(closing=failing_times(1, lambda: ValueError("stuck")))
    async with running_link(side) as rig:
        await rig.ready()
        side.clients[0].lose("gone")
        await rig.down()
        await rig.ready()
        assert len(side.clients) == 2


async def test_a_lost_link_counts_as_down_before_its_client_is_closed() -> None:
    side = OtherSide(close_time_s=6.0)
    async with running_link(side) as rig:
        await rig.ready()
        side.clients[0].lose("exited")
        assert await rig.down() == 0.0
        with pytest.raises(CallNotSent, match="exited"):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=1))


async def test_recovery_clears_what_went_wrong() -> None:
    side = OtherSide(dial=failing_times(3, unreachable))
    async with running_link(side) as rig:
        await rig.ready()
        view = rig.link.view
        assert (view.last_error, view.failure, view.next_attempt_at_s) == ("", "", None)
        assert view.reconnects == 0


async def test_a_link_without_subscriptions_has_no_task_for_them_until_the_first() -> None:
    def tasks() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks()} & {"follow", "follow resourceSubscriptions"}

    wishes = Wishes()
    async with running_link(OtherSide(), watches=(wishes,)) as rig:
        await rig.ready()
        rig.link.look_at_subscriptions()
        await asyncio.sleep(1)
        assert tasks() == {"follow"}
        wishes.uris = frozenset({"notes://home"})
        rig.link.look_at_subscriptions()
        await asyncio.sleep(1)
        assert tasks() == {"follow", "follow resourceSubscriptions"}
        assert wishes.told == ["notes://home"]


async def test_names_that_were_wanted_before_the_link_was_up_are_followed_when_it_is() -> None:
    wishes = Wishes("notes://home")
    async with running_link(OtherSide(), watches=(wishes,)) as rig:
        await rig.ready()
        await asyncio.sleep(1)
        assert wishes.told == ["notes://home"]


async def test_what_is_wanted_in_the_moment_in_which_a_follower_fails_is_followed_by_the_next_client() -> None:
    class Broken(Wishes):
        def settled(self, backend_key: str, name: str, refusal: RpcError | None) -> None:
            super().settled(backend_key, name, refusal)
            if len(self.told) == 1:
                raise ZeroDivisionError("ours")

    looked: list[None] = []

    def look(_: asyncio.Task[None]) -> None:
        tasks.uris = frozenset({"task-1"})
        looked.append(rig.link.look_at_subscriptions())

    resources, tasks = Broken(), Wishes(subject=TASKS)
    async with running_link(OtherSide(), watches=(resources, tasks)) as rig:
        await rig.ready()
        resources.uris = frozenset({"notes://home"})
        rig.link.look_at_subscriptions()
        (follower,) = [one for one in asyncio.all_tasks() if one.get_name() == "follow resourceSubscriptions"]
        follower.add_done_callback(look)
        await rig.down()
        assert (looked, tasks.told) == ([None], [])
        assert "ZeroDivisionError" in rig.link.view.failure + rig.link.view.last_error
        await rig.ready()
        await asyncio.sleep(1)
        assert (resources.told, tasks.told) == (["notes://home"] * 2, ["task-1"])


async def test_a_peer_that_stays_dead_is_news_for_the_mesh_once() -> None:
    side = OtherSide(dial=unreachable)
    async with running_link(side) as rig:
        await rig.down()
        told = rig.told.changes
        await rig.when(lambda: len(side.opened_at_s) > 20)
        assert (told, rig.told.changes) == (1, 1)
        side.dial = no_failure
        await rig.ready()
        assert rig.told.changes > 1
