"""What ends a link and what does not when many are silent together, in loop time: streams, probes, lists and dials.

Each link has its own other side, and they share a crowd, as those of one node do.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from agent.client.protocol import Request
from agent.errors import CallNotSent, CallTimedOut, MeshError, Unreachable
from agent.links.crowd import SELF_DOUBT_MAX_S, Crowd
from agent.links.probe import DOUBT_PAUSE_S, PROBE_EVERY_S, PROBE_TIMEOUT_S
from agent.model import HttpTarget, Json, NodeIdentity, ServerScope, ServerSpec
from tests.scripted_client import OtherSide, Rig, now_s, running_link

pytestmark = pytest.mark.looptime

MANY = 20
SERVER = ServerSpec("kit", HttpTarget("http://kit.test/mcp"), ServerScope.NODE)
FOUND_WITHIN_S = 12.0
# The kernel ends an idle connection whose other end has vanished.
STREAM_ENDS_AFTER_S = 4.0
SILENT_S = 30.0
# The kernel ends a connection whose data are not acknowledged (docs/reliability.md, TCP_USER_TIMEOUT_MS).
USER_TIMEOUT_S = 4.0


class Peer:
    """One other side, whose packets can be lost. `fails_at_once`: there is no way to it, and the kernel says so."""

    def __init__(self, number: int) -> None:
        self.side = OtherSide(identity=NodeIdentity(f"id-{number}", f"peer-{number}"), listen=self._listen)
        self.streams = 0
        self._ended = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None
        self._is_well = True
        self.stream_ends: Callable[[], object] = self._ended.set
        self._failure: Callable[[], Unreachable] = Unreachable  # The last one.
        self._on_change: Callable[[str], None] = lambda _kind: None

    async def _listen(self, on_change: Callable[[str], None]) -> None:
        if self._is_well:
            self._ended.clear()
            self.streams += 1
            self._on_change = on_change
            on_change("listening")
            await self._ended.wait()
        raise self._failure()

    def is_lost(self, *, fails_at_once: bool) -> None:
        """No packet arrives any more; its stream ends `STREAM_ENDS_AFTER_S` later."""
        self._ending = asyncio.get_running_loop().call_later(STREAM_ENDS_AFTER_S, self.stream_ends)
        self._fail(partial(Unreachable, "no answer", silent=True))
        if not fails_at_once:
            self.side.probe_time_s = 3600.0

    def is_cut(self, *, lists: bool = False) -> None:
        """What stands between ends all connections, and lets no packet through from then on.

        `lists`: while lists are read, in a session that ends with its connection.
        """
        self.is_lost(fails_at_once=False)
        if lists:
            self.side.listing = partial(CallNotSent, "reset")
            self._on_change("tools")
        self._failure = partial(Unreachable, "reset")
        self.side.probe = partial(Unreachable, "no answer", silent=True)
        self.side.probe_time_s = PROBE_TIMEOUT_S
        self._ended.set()

    def ask(self, heard: Callable[[bool], None]) -> Callable[[], None]:
        """Probe it without a task; what is not acknowledged ends the connection that it was asked over."""
        after_s = 0.001 if self._is_well else USER_TIMEOUT_S
        return asyncio.get_running_loop().call_later(after_s, heard, self._is_well).cancel

    def is_refused(self) -> None:
        """Its process is gone."""
        self._fail(partial(Unreachable, "refused"))
        self._ended.set()

    def _fail(self, failure: Callable[[], Unreachable]) -> None:
        self._is_well = False
        self._failure = self.side.probe = self.side.dial = self.side.listing = failure

    def is_heard(self) -> None:
        """As before; a stream that has not ended goes on."""
        if self._ending is not None:
            self._ending.cancel()
        self._is_well, self.side.probe_time_s = True, 0.0
        self.side.probe = self.side.dial = self.side.listing = lambda: None


class QuietQuestions:
    """A peer at rest is asked without a task, as nodes are."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def prober(self) -> Callable[[Callable[[bool], None]], Callable[[], None] | None]:
        return self._peer.ask

    def list_quietly(
        self, method: str, is_known: Callable[[Json], bool], heard: Callable[[bool], None]
    ) -> Callable[[], None] | None:
        """Never here."""

    async def listen_quietly(
        self, on_change: Callable[[str], None], ended: Callable[[MeshError], None]
    ) -> Callable[[], None]:
        """The stream ends as that of a peer that is asked by a task."""
        on_change("listening")
        stop = asyncio.Event()
        self._peer.stream_ends = lambda: stop.is_set() or ended(Unreachable("no answer", silent=True))
        return stop.set


@asynccontextmanager
async def linked(count: int, *, quiet: bool = False) -> AsyncIterator[list[tuple[Peer, Rig]]]:
    """Links to so many peers, whose probes are spread over the time. `quiet`: they are asked without a task."""
    crowd, pairs = Crowd(), list[tuple[Peer, Rig]]()
    async with AsyncExitStack() as stack:
        for number in range(count):
            peer = Peer(number)
            peer.side.quiet = QuietQuestions(peer) if quiet else None
            link = running_link(peer.side, crowd=crowd, rng=random.Random(number))
            pairs.append((peer, await stack.enter_async_context(link)))
            await asyncio.sleep(PROBE_EVERY_S / count)
        for _, rig in pairs:
            await rig.ready()
        await asyncio.sleep(61.0)
        yield pairs


def up(pairs: list[tuple[Peer, Rig]]) -> list[bool]:
    return [rig.link.view.connected for _, rig in pairs]


@pytest.mark.parametrize("count", [2, 3, 4, MANY])
@pytest.mark.parametrize("fails_at_once", [True, False])
async def test_when_the_packets_of_most_peers_are_lost_no_link_ends_and_all_go_on_when_they_come_again(
    fails_at_once: bool, count: int
) -> None:
    async with linked(count) as pairs:
        for peer, _ in pairs:
            peer.is_lost(fails_at_once=fails_at_once)
        await asyncio.sleep(SILENT_S)
        assert all(up(pairs))
        listed = [len(peer.side.listings) for peer, _ in pairs]
        for peer, _ in pairs:
            peer.is_heard()
        await asyncio.sleep(3.0)
        assert [peer.streams for peer, _ in pairs] == [2] * count, "the stream of changes is opened anew, and soon"
        assert all(len(peer.side.listings) > before for (peer, _), before in zip(pairs, listed, strict=True))
        await asyncio.sleep(SILENT_S)
        assert {state for _, rig in pairs for state in rig.told.states} <= {"dialing", "ready", "suspect"}
        assert {rig.told.states[-1] for _, rig in pairs} == {"ready"}
        assert sum(rig.told.reconnected for _, rig in pairs) == 0


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_peer_that_hangs_beside_busy_servers_of_ours_is_found_as_soon_as_ever(servers: int) -> None:
    crowd, busy = Crowd(), OtherSide()
    async with AsyncExitStack() as stack:
        rigs = [
            await stack.enter_async_context(running_link(busy, SERVER, crowd=crowd, rng=random.Random(number)))
            for number in range(servers)
        ]
        peer = Peer(servers)
        rigs.append(await stack.enter_async_context(running_link(peer.side, crowd=crowd)))
        for rig in rigs:
            await rig.ready()
        calls = [
            asyncio.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=300))) for rig in rigs[:-1]
        ]
        busy.probe_time_s = 3600.0
        await asyncio.sleep(60.0)
        assert all(rig.link.view.connected for rig in rigs)
        began_at_s = now_s()
        peer.is_lost(fails_at_once=False)
        await rigs[-1].down()
        assert now_s() - began_at_s < FOUND_WITHIN_S
        busy.calls.set()
        await asyncio.gather(*calls)


@pytest.mark.parametrize("lost", [13, 16, MANY])
async def test_a_connection_that_ends_for_want_of_acknowledgements_is_silence_too(lost: int) -> None:
    async with linked(MANY, quiet=True) as pairs:
        for peer, _ in pairs[:lost]:
            peer.is_lost(fails_at_once=False)
        await asyncio.sleep(SILENT_S)
        assert up(pairs) == [True] * MANY


@pytest.mark.parametrize("called", [True, False])
async def test_packets_that_come_again_at_any_moment_end_no_link(called: bool) -> None:
    async with linked(MANY) as pairs:
        for tenths in range(40, 100, 3):
            for peer, _ in pairs:
                peer.is_lost(fails_at_once=False)
                peer.side.calling = (lambda: CallTimedOut("no answer")) if called else None
            await asyncio.sleep(tenths / 20)
            if called:
                for _, rig in pairs[: MANY // 2]:
                    with pytest.raises(MeshError):
                        await rig.link.request(Request.within("tools/call", {}, timeout_s=1))
            await asyncio.sleep(tenths / 20)
            for peer, _ in pairs:
                peer.is_heard()
            await asyncio.sleep(61.0)
            assert [rig.told.reconnected for _, rig in pairs] == [0] * MANY, f"lost for {tenths / 10} s"


@pytest.mark.parametrize("fails_at_once", [True, False])
async def test_the_first_of_many_that_is_called_and_found_silent_is_not_believed_before_the_others_are_asked(
    fails_at_once: bool,
) -> None:
    async with linked(MANY) as pairs:
        for peer, _ in pairs:
            peer.is_lost(fails_at_once=fails_at_once)
        first, rig = pairs[0]
        first.side.calling = lambda: CallTimedOut("no answer")
        for _ in range(100):
            with pytest.raises(MeshError):
                await rig.link.request(Request.within("tools/call", {}, timeout_s=1))
            await asyncio.sleep(0.25)
        assert all(up(pairs))


@pytest.mark.parametrize("fails_at_once", [True, False])
@pytest.mark.parametrize(
    ("count", "lost"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (6, 3), (MANY, 1), (MANY, 3), (MANY, 6), (200, 10)],
)
async def test_few_that_are_silent_among_healthy_ones_are_found_as_soon_as_ever(
    count: int, lost: int, fails_at_once: bool
) -> None:
    async with linked(count) as pairs:
        began_at_s = now_s()
        for peer, _ in pairs[:lost]:
            peer.is_lost(fails_at_once=fails_at_once)
        await asyncio.gather(*(rig.down() for _, rig in pairs[:lost]))
        assert now_s() - began_at_s < FOUND_WITHIN_S
        assert all(up(pairs[lost:]))


@pytest.mark.parametrize("count", [2, 3, MANY])
@pytest.mark.parametrize("lists", [False, True])
async def test_when_what_stands_between_ends_most_connections_and_is_silent_then_no_link_ends(
    lists: bool, count: int
) -> None:
    async with linked(count) as pairs:
        for peer, _ in pairs:
            peer.is_cut(lists=lists)
        await asyncio.sleep(SILENT_S)
        assert all(up(pairs))
        assert {rig.link.view.state.value for _, rig in pairs} == {"suspect"}, "others are called, where there are any"
        for peer, _ in pairs:
            peer.is_heard()
        await asyncio.sleep(3.0)
        assert [peer.streams for peer, _ in pairs] == [2] * count, "the stream of changes is opened anew, and soon"
        assert {rig.told.states[-1] for _, rig in pairs} == {"ready"}
        assert sum(rig.told.reconnected for _, rig in pairs) == 0


@pytest.mark.parametrize(
    ("count", "cut", "within_s"),
    [(1, 1, 1.5), (2, 1, 4.0), (3, 1, 4.0), (4, 2, 4.0), (5, 1, 4.0), (MANY, 1, 4.0), (MANY, 6, 6.0)],
)
async def test_few_whose_connections_end_and_that_are_silent_then_are_gone_soon(
    count: int, cut: int, within_s: float
) -> None:
    async with linked(count) as pairs:
        began_at_s = now_s()
        for peer, _ in pairs[:cut]:
            peer.is_cut()
        await asyncio.gather(*(rig.down() for _, rig in pairs[:cut]))
        assert now_s() - began_at_s < within_s
        assert all(up(pairs[cut:]))


async def test_while_all_are_silent_calls_under_way_end_none_are_sent_and_the_first_answer_lets_them_through() -> None:
    async with linked(3) as pairs:
        for peer, _ in pairs:
            peer.is_lost(fails_at_once=False)
            peer.side.calls.set()
        await asyncio.sleep(FOUND_WITHIN_S)
        assert [peer.side.given_up for peer, _ in pairs] == [1] * 3
        assert [rig.link.view.unheard for _, rig in pairs] == [True] * 3
        request = Request.within("tools/call", {}, timeout_s=1)
        with pytest.raises(CallNotSent, match="does not answer, nor do most others"):
            await pairs[0][1].link.request(request)
        for peer, _ in pairs:
            peer.is_heard()
        for _, rig in pairs:
            rig.link.called()
        began_s = now_s()
        await asyncio.gather(*(rig.when(lambda rig=rig: not rig.link.view.unheard) for _, rig in pairs))
        assert now_s() - began_s <= PROBE_TIMEOUT_S + DOUBT_PAUSE_S
        assert await pairs[0][1].link.request(request)
        assert [peer.side.given_up for peer, _ in pairs] == [1] * 3


async def test_one_that_refuses_while_all_are_silent_is_gone_and_what_it_leaves_is_judged_anew() -> None:
    async with linked(3) as pairs:
        for peer, _ in pairs[:2]:
            peer.is_lost(fails_at_once=False)
        await asyncio.sleep(SILENT_S)
        assert all(up(pairs)), "two of three are most"
        pairs[0][0].is_refused()
        pairs[0][0].side.probe_time_s = 0.0
        began_s = now_s()
        await pairs[0][1].down()
        await pairs[1][1].down()
        assert now_s() - began_s < FOUND_WITHIN_S
        assert up(pairs) == [False, False, True]


async def test_peers_that_refuse_connections_are_gone_at_once_however_many() -> None:
    async with linked(MANY) as pairs:
        for peer, _ in pairs:
            peer.is_refused()
        await asyncio.sleep(1.0)
        assert not any(up(pairs))


async def test_a_silence_of_all_is_believed_at_last() -> None:
    async with linked(MANY) as pairs:
        for peer, _ in pairs:
            peer.is_lost(fails_at_once=False)
        await asyncio.sleep(SELF_DOUBT_MAX_S)
        assert all(up(pairs))
        await asyncio.sleep(FOUND_WITHIN_S + PROBE_EVERY_S)
        assert not any(up(pairs))
