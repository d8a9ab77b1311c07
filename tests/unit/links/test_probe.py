"""Signs of life in loop time: what counts as one, how soon silence ends a session, and what keeps a busy one."""

import asyncio

import pytest

from agent.client.protocol import Request
from agent.errors import CallTimedOut, MeshError, ProtocolBroken, Unreachable
from agent.model import LinkState, NodeIdentity
from tests.scripted_client import OtherSide, Rig, cannot_listen, failing_times, now_s, running_link, unreachable

pytestmark = pytest.mark.looptime

NODE = NodeIdentity("id-peer", "peer")


async def test_one_missed_probe_changes_nothing_the_second_is_suspect_the_third_is_down() -> None:
    side = OtherSide(identity=NODE)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe = failing_times(1, unreachable)
        await asyncio.sleep(30)
        assert set(rig.told.states) == {"dialing", "ready"}
        side.probe = side.dial = unreachable
        began_at_s = now_s()
        await rig.when(lambda: rig.link.view.state is LinkState.SUSPECT)
        assert rig.link.view.connected
        assert rig.link.view.ready_at_s == 0.0
        # These probes fail at once; three that are waited for in vain take 3 s more, and 12 s are promised.
        assert await rig.down() - began_at_s < 12 - 3
        assert rig.link.view.ready_at_s is None
        await asyncio.sleep(0.01)
        assert side.closed == len(side.clients) == 1


def short() -> Unreachable:
    failure = Unreachable("this node is out of file descriptors", silent=True)
    failure.short = True
    return failure


async def test_a_probe_for_which_this_node_has_no_descriptor_is_no_miss_and_is_tried_again_soon() -> None:
    side = OtherSide(identity=NODE)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe = short
        await asyncio.sleep(200)
        assert set(rig.told.states) == {"dialing", "ready"}
        assert 100 < len(side.probes) < 200
        side.probe = side.dial = unreachable
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12


async def test_a_dial_for_which_this_node_has_no_descriptor_is_tried_again_each_second_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    side = OtherSide(identity=NODE, dial=failing_times(60, short))
    async with running_link(side) as rig:
        await rig.ready()
        assert 50 < now_s() < 70
        assert rig.link.view.attempts == 0
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == ["MCP link down"]


@pytest.mark.parametrize("failure", [CallTimedOut("no answer"), ProtocolBroken("HTML")])
async def test_a_call_without_an_answer_is_reason_to_probe_at_once(failure: MeshError) -> None:
    side = OtherSide(identity=NODE)
    side.calling = lambda: failure
    async with running_link(side) as rig:
        await rig.ready()
        with pytest.raises(type(failure)):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=1))
        await asyncio.sleep(0.1)
        assert len(side.probes) == 1
        assert rig.link.view.state is LinkState.READY  # It answered: the tool is slow, not the backend.
        side.probe = side.dial = unreachable
        with pytest.raises(type(failure)):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=1))
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 1.0


# These probes fail at once; three that are waited for in vain take 3 s more.
async def test_a_node_that_answers_nothing_while_a_call_waits_is_doubted_long_before_its_next_probe() -> None:
    side = OtherSide(identity=NODE)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe = side.dial = lambda: Unreachable("it hangs")
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=600)), name="call")
            began_at_s = now_s()
            assert 2.0 <= await rig.down() - began_at_s < 3.0
            call.cancel()


async def test_a_server_that_is_busy_with_a_call_is_never_taken_down_and_is_found_dead_after_the_call() -> None:
    side = OtherSide(identity=None)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe, side.probe_time_s, side.list_time_s = unreachable, 3600.0, 3600.0
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=600)), name="call")
            await rig.when(lambda: rig.link.view.state is LinkState.SUSPECT)
            asked = len(side.probes)
            await asyncio.sleep(500)
            assert rig.link.view.state is LinkState.SUSPECT
            assert len(side.probes) - asked <= 500 / 10 + 1, "its pipe is not filled with questions"
            side.calls.set()
            assert await call == {"answered": "tools/call"}
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12
        assert len(side.clients) == 1


async def test_a_call_that_its_client_gives_up_keeps_its_server_until_the_calls_deadline() -> None:
    side = OtherSide(identity=None)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe, side.probe_time_s, side.list_time_s = unreachable, 3600.0, 3600.0
        began_at_s = now_s()
        await _gives_up_after(rig, 4.0, timeout_s=100)
        ended_at_s = await rig.down()
        assert 100 < ended_at_s - began_at_s < 100 + 12
        assert len(side.probes) <= 100 / 10 + 6, "its pipe is not filled with questions"


async def test_a_probe_that_is_answered_ends_the_work_on_a_call_that_was_given_up() -> None:
    side = OtherSide(identity=None)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe_time_s = 5.0
        await _gives_up_after(rig, 1.0, timeout_s=600)
        await rig.when(lambda: rig.link.view.state is LinkState.SUSPECT)
        await rig.when(lambda: rig.link.view.state is LinkState.READY)
        side.probe, side.probe_time_s, side.list_time_s = unreachable, 3600.0, 3600.0
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12
        assert len(side.clients) == 1


async def test_a_server_that_refuses_connections_is_not_at_work_on_a_call_that_was_given_up() -> None:
    side = OtherSide(identity=None)
    async with running_link(side) as rig:
        await rig.ready()
        await _gives_up_after(rig, 1.0, timeout_s=600)
        side.probe = side.listing = side.dial = unreachable
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12


async def test_after_a_call_that_timed_out_silence_is_waited_for_as_long_as_in_the_quiet() -> None:
    side = OtherSide(identity=None)
    side.calling = lambda: CallTimedOut("no answer")
    async with running_link(side) as rig:
        await rig.ready()
        side.probe, side.probe_time_s, side.list_time_s = unreachable, 3600.0, 3600.0
        with pytest.raises(CallTimedOut):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=0))
        began_at_s = now_s()
        assert 9 < await rig.down() - began_at_s < 12


async def _gives_up_after(rig: Rig, seconds: float, *, timeout_s: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=timeout_s))


async def test_a_server_that_is_busy_again_and_again_is_ready_whenever_it_answers() -> None:
    side = OtherSide(identity=None, probe_time_s=3.0)
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(120)
        assert rig.link.view.connected, "an answer that comes late is a sign of life"
        assert len(side.clients) == 1


async def test_a_server_that_never_answers_ping_but_lists_is_up_and_is_probed_with_its_list() -> None:
    side = OtherSide(identity=None, probe_time_s=3600.0)
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(60)
        assert rig.link.view.state is LinkState.READY
        pings, listings = len(side.probes), len(side.listings)
        await asyncio.sleep(60)
        assert len(side.probes) == pings
        assert len(side.listings) - listings >= 60 / 6
        side.listing = side.dial = unreachable
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12


async def test_a_node_that_is_slow_with_a_call_and_answers_its_probes_stays_ready() -> None:
    side = OtherSide(identity=NODE)
    async with running_link(side) as rig:
        await rig.ready()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=600)), name="call")
            await asyncio.sleep(60)
            assert 20 <= len(side.probes) <= 40
            assert set(rig.told.states) == {"dialing", "ready"}
            side.calls.set()
            assert await call == {"answered": "tools/call"}
        asked = len(side.probes)
        await asyncio.sleep(20)
        assert len(side.probes) - asked <= 6  # In the quiet as usual.


async def test_a_suspect_that_answers_again_is_ready() -> None:
    side = OtherSide(identity=NODE)
    async with running_link(side) as rig:
        await rig.ready()
        side.probe = failing_times(2, unreachable)
        await rig.when(lambda: rig.link.view.state is LinkState.SUSPECT)
        await rig.when(lambda: rig.link.view.state is LinkState.READY)
        assert len(side.clients) == 1


async def test_a_server_that_needs_twelve_seconds_for_each_answer_stays_up() -> None:
    side = OtherSide(listen=cannot_listen, list_time_s=12.0, probe_time_s=12.0, start_deadline_s=60.0)
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(300)
        assert set(rig.told.states) == {"dialing", "ready"}
        assert side.closed == 0


async def test_a_server_that_was_slow_only_when_it_had_just_started_is_found_hung_as_soon_as_any() -> None:
    side = OtherSide(listen=cannot_listen, list_time_s=25.0, start_deadline_s=60.0)
    async with running_link(side) as rig:
        await rig.ready()
        side.list_time_s = 0.1
        await asyncio.sleep(40)
        assert len(side.listings) > 1, "it is listed every 30 s"
        side.probe_time_s = side.list_time_s = 3600.0
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12.0


@pytest.mark.parametrize(("ping_s", "list_s"), [(2.0, 2.0), (4.0, 0.0)])
async def test_a_server_that_answers_late_and_one_thing_at_a_time_stays_up(ping_s: float, list_s: float) -> None:
    side = OtherSide(listen=cannot_listen, probe_time_s=ping_s, list_time_s=list_s, is_serial=True)
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(300)
        assert rig.link.view.connected
        assert (side.closed, len(side.clients)) == (0, 1)
