"""Links in loop time that come and go, or are silent together: what is held down, and what is not."""

import asyncio
import itertools
import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from agent.errors import Unreachable
from agent.links.crowd import Crowd, Kind
from agent.links.pause import CALLED_EVERY_S
from agent.links.state import DIALS, FLAPS_MIN, HOLD_DOWN, NAMED_DIALS
from agent.model import HttpTarget, NodeIdentity, ServerScope, ServerSpec
from tests.scripted_client import OtherSide, Rig, now_s, running_link, unreachable

pytestmark = pytest.mark.looptime

SILENT_S = 13.0
SERVER = ServerSpec("kit", HttpTarget("http://kit.test/mcp"), ServerScope.NODE)


async def test_a_peer_that_flaps_is_held_down_whatever_calls_or_sights_it(caplog: pytest.LogCaptureFixture) -> None:
    side = OtherSide()
    ups_s: list[float] = []
    async with running_link(side) as rig:
        while now_s() < 600:
            ups_s.append(await rig.ready())
            await asyncio.sleep(1.0)
            side.clients[-1].lose("gone")
            await rig.down()
            view, flaps = rig.link.view, len(ups_s)
            why = f"held down for {HOLD_DOWN.step_s(flaps - FLAPS_MIN + 1):g} s, as {flaps} connections in a row lasted"
            assert all((why in said) is (flaps >= FLAPS_MIN) for said in (view.last_error, view.said_error)), view
            for _ in range(8):  # The catalog and callers want it back all the time.
                rig.link.sight()
                rig.link.called()
                await asyncio.sleep(1.0)
                if rig.link.view.connected:
                    break
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(ups_s[FLAPS_MIN:])]
    assert min(gaps_s) >= HOLD_DOWN.first_s
    assert max(gaps_s) > HOLD_DOWN.last_s - 1.0, "it grows"
    said = [record for record in caplog.records if record.message == "MCP link down"]
    assert [record.levelname for record in said] == ["WARNING"] * len(ups_s), "each loss once"
    assert len(said) < 600 / HOLD_DOWN.first_s


async def test_calls_from_before_a_loss_end_no_hold_down() -> None:
    side = OtherSide()
    ups_s: list[float] = []

    async def calls() -> None:
        while True:
            rig.link.called()
            await asyncio.sleep(0.5)

    async with running_link(side, SERVER, knock=side.knocked) as rig:
        calling = asyncio.ensure_future(calls())
        while now_s() < 300:
            ups_s.append(await rig.ready())
            await asyncio.sleep(1.0)
            side.clients[-1].lose("gone")
            await rig.down()
        calling.cancel()
    assert min(later - earlier for earlier, later in itertools.pairwise(ups_s[FLAPS_MIN - 1 :])) >= HOLD_DOWN.first_s


async def test_the_log_has_the_end_of_each_session_and_of_dials_in_vain_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        for reason in ("first", "second", "third"):
            await rig.ready()
            side.clients[-1].lose(reason)
            await rig.down()
        side.dial = unreachable
        await asyncio.sleep(60.0)
    said = [record.__dict__["reason"] for record in caplog.records if record.message == "MCP link down"]
    assert said == ["first", "second", "third"]


@pytest.mark.parametrize("hangs", [True, False])
async def test_an_announced_peer_that_hangs_is_dialled_as_often_as_one_that_nothing_announces(*, hangs: bool) -> None:
    dial_time_s = 10.0
    side = OtherSide(dial=lambda: Unreachable("no answer", hangs=hangs), dial_time_s=dial_time_s)
    async with running_link(side):
        await asyncio.sleep(1_000.0)
    waits_s = [later - earlier - dial_time_s for earlier, later in itertools.pairwise(side.opened_at_s)]
    assert max(waits_s) == pytest.approx((NAMED_DIALS if hangs else DIALS).last_s, rel=0.2)


async def test_a_reload_ends_a_hold_down_and_a_session_that_lasts_ends_the_row() -> None:
    side = OtherSide()
    async with running_link(side) as rig:
        for _ in range(FLAPS_MIN):
            await rig.ready()
            side.clients[-1].lose("gone")
            await rig.down()
        began_s = now_s()
        await rig.link.reload().wait()
        assert now_s() - began_s < 1.0
        await asyncio.sleep(30.0)
        for _ in range(2):
            side.clients[-1].lose("gone")
            await rig.down()
            await asyncio.sleep(CALLED_EVERY_S)
            began_s = now_s()
            rig.link.called()
            assert await rig.ready() - began_s < 0.5


async def test_a_node_that_reaches_us_is_dialled_soon_though_the_back_off_is_long() -> None:
    side = OtherSide(dial=unreachable)
    async with running_link(side) as rig:
        await rig.when(lambda: rig.link.view.attempts > 12)
        dials = len(side.opened_at_s)
        for _ in range(40):
            rig.link.reached()
            await asyncio.sleep(5.0)
        assert 35 <= len(side.opened_at_s) - dials <= 60


@pytest.mark.parametrize(("others", "removed"), [(20, 0), (3, 0), (2, 0), (1, 1)])
async def test_silence_of_all_at_once_is_ours_where_there_are_several(others: int, removed: int) -> None:
    crowd = Crowd()
    side = OtherSide(identity=NodeIdentity("id-peer", "peer"))
    async with AsyncExitStack() as stack:
        rigs: list[Rig] = [
            await stack.enter_async_context(running_link(side, crowd=crowd, rng=random.Random(n)))
            for n in range(others)
        ]
        for rig in rigs:
            await rig.ready()
        await asyncio.sleep(3.0)  # Links that came together have their first probes within 2 s of each other.
        side.probe = side.dial = lambda: Unreachable("silence", silent=True)
        await asyncio.sleep(SILENT_S)
        assert sum(not rig.link.view.connected for rig in rigs) == removed
        side.probe = side.dial = lambda: None
        await asyncio.sleep(40.0)
        assert all(rig.link.view.connected for rig in rigs)
        assert sum(rig.told.reconnected for rig in rigs) == removed


async def test_a_thousand_dead_peers_delay_no_server_of_ours() -> None:
    crowd = Crowd(Counter({Kind.ANNOUNCED: 1000, Kind.NAMED: 1000}))
    side = OtherSide(dial=unreachable)
    async with running_link(side, SERVER, crowd=crowd) as rig:
        await rig.down()
        await asyncio.sleep(60.0)
        side.opened_at_s.clear()
        await asyncio.sleep(600.0)
        waits_s = [after - before for before, after in itertools.pairwise(side.opened_at_s)]
        assert max(waits_s) <= NAMED_DIALS.last_s
        assert crowd.down[Kind.OWN] == 1
