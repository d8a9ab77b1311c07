"""The wait between two dials: what cuts it short, by how the dial before it failed, and how often of hundreds."""

import asyncio
import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from agent.client.knocks import CALLED_FOR_S, KNOCK_EVERY_S
from agent.errors import AuthRefused, LinkFailed, ProtocolBroken, Unreachable
from agent.links.crowd import Kind
from agent.links.pause import (
    CALLED_EVERY_S,
    CALLED_IN_VAIN_EVERY_S,
    CALLED_PER_S_MAX,
    RETURN_KNOCK_EVERY_S,
    UNCALLED_PER_S_MAX,
    UNTOLD_PER_S_MAX,
    Haste,
    Pacing,
    Pause,
    Turns,
    haste_after,
)
from agent.model import BackendSpec, HttpTarget, ServerScope, ServerSpec
from tests.scripted_client import now_s

pytestmark = pytest.mark.looptime

SERVER = ServerSpec("server", HttpTarget("http://server/mcp"), ServerScope.SERVICE)
# Longer than any of the waits here.
LONG_S = 300.0


def refused() -> Unreachable:
    failure = Unreachable("refuses the connection")
    failure.refused = True
    return failure


def said(status: int, *, asks_s: float | None = None, in_own_words: bool = False) -> Unreachable:
    return Unreachable("answered", retry_after_s=asks_s).as_said(status, in_own_words=in_own_words)


@pytest.mark.parametrize(
    ("failure", "haste"),
    [
        (refused(), Haste(CALLED_EVERY_S, by_knock=True, uncalled=True)),
        (said(502), Haste(CALLED_EVERY_S, by_knock=True, uncalled=True)),
        (said(503, asks_s=3_600.0), Haste(CALLED_EVERY_S, by_knock=True, uncalled=True)),
        (said(503, asks_s=3_600.0, in_own_words=True), Haste(CALLED_EVERY_S, by_knock=True)),
        (said(429, asks_s=60.0), Haste(math.inf)),
        (said(429), Haste(CALLED_EVERY_S, uncalled=True)),
        (Unreachable("no answer", hangs=True), Haste(CALLED_EVERY_S, uncalled=True)),
        (ProtocolBroken("a page").as_away(), Haste(CALLED_EVERY_S, uncalled=True)),
        (AuthRefused("no token"), Haste(CALLED_IN_VAIN_EVERY_S, uncalled=True)),
    ],
)
def test_what_may_cut_a_wait_short_is_read_off_the_failure(failure: LinkFailed, haste: Haste) -> None:
    assert haste_after(failure, Kind.OWN, misled=False) == haste
    assert not haste_after(failure, Kind.ANNOUNCED, misled=False).uncalled
    assert not haste_after(failure, Kind.OWN, misled=True).by_knock


def test_turns_come_in_order_and_no_faster_than_they_may() -> None:
    turns = Turns(per_s_max=10)
    assert [turns.wait_s(5.0) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    assert turns.wait_s(9.0) == 0.0


class Away:
    """A server that refuses connections until `back_s`, or for which knocks are answered by a gateway."""

    def __init__(self, *, back_s: float = math.inf) -> None:
        self.back_s = back_s
        self.knocked_at_s: list[float] = []

    async def knock(self, _spec: BackendSpec, _refused: bool) -> bool:
        self.knocked_at_s.append(now_s())
        return now_s() >= self.back_s


async def cut_after_s(pause: Pause, within_s: float = LONG_S, kind: Kind = Kind.OWN) -> float:
    began_s = now_s()
    try:
        async with asyncio.timeout(within_s):
            await pause.cut_short(SERVER, kind, looks=True)
    except TimeoutError:
        return math.inf
    return now_s() - began_s


def pause_after(failure: LinkFailed, away: Away, *, kind: Kind = Kind.OWN, pacing: Pacing | None = None) -> Pause:
    pause = Pause(away.knock, pacing or Pacing(), random.Random(7))
    pause.failed(failure, kind)
    return pause


async def calling(pause: Pause, every_s: float) -> None:
    while True:
        pause.called(parked=False)
        await asyncio.sleep(every_s)


@pytest.mark.parametrize("failure", [refused, lambda: said(503, asks_s=3_600.0)])
async def test_a_server_that_is_back_is_found_by_a_knock_in_time(failure: Callable[[], Unreachable]) -> None:
    away, pacing = Away(back_s=100.0), Pacing()
    pacing.untold[Kind.OWN] = Turns(UNTOLD_PER_S_MAX, LONG_S)  # Others have all turns.
    assert await cut_after_s(pause_after(failure(), away, pacing=pacing)) < 100.0 + RETURN_KNOCK_EVERY_S
    pause = pause_after(failure(), away := Away(back_s=now_s() + 100.0), pacing=pacing)
    calls = asyncio.ensure_future(calling(pause, CALLED_FOR_S / 2))
    assert await cut_after_s(pause) < 100.0 + KNOCK_EVERY_S + 0.1
    calls.cancel()
    assert min(later - before for before, later in pairwise(away.knocked_at_s)) > 0.0


async def test_one_that_asks_for_a_pause_gets_it_also_when_it_is_called() -> None:
    pause = pause_after(said(429, asks_s=200.0), away := Away(back_s=0.0))
    calls = asyncio.ensure_future(calling(pause, 0.5))
    assert await cut_after_s(pause) == math.inf
    calls.cancel()
    assert not away.knocked_at_s


async def test_one_that_says_so_in_its_own_words_is_left_alone_without_calls() -> None:
    pause = pause_after(said(503, asks_s=200.0, in_own_words=True), away := Away(back_s=0.0))
    assert await cut_after_s(pause) == math.inf
    calls = asyncio.ensure_future(calling(pause, 2.0))
    assert await cut_after_s(pause) < KNOCK_EVERY_S
    calls.cancel()
    assert len(away.knocked_at_s) == 1


async def test_what_answers_knocks_for_an_absent_server_is_dialled_from_then_on() -> None:
    pause = pause_after(said(503), away := Away(back_s=0.0))
    assert await cut_after_s(pause) < RETURN_KNOCK_EVERY_S
    pause.failed(said(503), Kind.OWN)
    assert await cut_after_s(pause) < RETURN_KNOCK_EVERY_S
    assert len(away.knocked_at_s) == 1
    pause.linked()
    pause.failed(said(503), Kind.OWN)
    await cut_after_s(pause)
    assert len(away.knocked_at_s) == 2


async def test_one_that_ends_the_connection_of_a_knock_is_dialled_though_its_proxy_says_that_it_is_away() -> None:
    for called, within_s in ((True, KNOCK_EVERY_S), (False, RETURN_KNOCK_EVERY_S)):
        pause = pause_after(said(503, asks_s=3_600.0), Away())
        if called:
            pause.called(parked=False)
        assert await cut_after_s(pause) < within_s + 0.1
    pacing = Pacing()
    pauses = [pause_after(said(502), Away(), pacing=pacing) for _ in range(300)]
    dials = sum([after_s < math.inf for after_s in await asyncio.gather(*[cut_after_s(one, 10.0) for one in pauses])])
    assert 0 < dials <= 10.0 * UNTOLD_PER_S_MAX


async def test_an_announced_peer_is_knocked_at_only_while_it_is_called() -> None:
    pause = pause_after(refused(), away := Away(), kind=Kind.ANNOUNCED)
    assert await cut_after_s(pause, kind=Kind.ANNOUNCED) == math.inf
    assert not away.knocked_at_s
    pause.called(parked=False)
    await cut_after_s(pause, kind=Kind.ANNOUNCED)
    assert CALLED_FOR_S / KNOCK_EVERY_S <= len(away.knocked_at_s) <= CALLED_FOR_S / KNOCK_EVERY_S + 2


async def test_300_that_are_down_are_each_knocked_at_in_time_and_more_of_them_no_faster_together() -> None:
    for count, called, every_s in ((300, True, KNOCK_EVERY_S), (300, False, RETURN_KNOCK_EVERY_S), (600, True, 3.6)):
        pacing, aways = Pacing(), [Away() for _ in range(count)]
        pauses = [pause_after(refused(), away, pacing=pacing) for away in aways]
        async with asyncio.TaskGroup() as group:
            for pause in pauses:
                group.create_task(cut_after_s(pause, 20.0))
            for _ in range(10):
                for pause in pauses if called else ():
                    pause.called(parked=False)
                await asyncio.sleep(2.0)
        gaps_s = [later - before for away in aways for before, later in pairwise(away.knocked_at_s)]
        assert max(gaps_s) < every_s + 0.35, called
        per_s = CALLED_PER_S_MAX if called else UNCALLED_PER_S_MAX
        assert sum(len(away.knocked_at_s) for away in aways) <= 20.0 * per_s + count
