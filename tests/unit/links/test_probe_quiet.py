"""A link at rest in loop time: asked without a task as long as all is usual, and found out in time when it is not."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.client.protocol import Request
from agent.errors import CallTimedOut
from agent.links.offer_keeper import LOOKS_IN_VAIN_MAX, RELIST_EVERY_S
from agent.model import Json, NodeIdentity
from tests.scripted_client import OtherSide, ScriptedClient, now_s, running_link, unreachable

pytestmark = pytest.mark.looptime

NODE = NodeIdentity("id-peer", "peer")


class QuietSide(OtherSide):
    """Another side whose clients may be asked without a task. `answers`: after how long and what; None: never."""

    def __init__(self, *, identity: NodeIdentity | None = None) -> None:
        super().__init__(identity=identity)
        self.answers: tuple[float, bool] | None = (0.01, True)
        self.asked: list[float] = []
        self.looks: list[float] = []
        self.looked = True
        self.dropped = 0
        self.stirred = asyncio.Event()

    async def next_asked(self) -> None:
        """Return when the next question has been asked, and not answered."""
        self.stirred.clear()
        await self.stirred.wait()

    def answer(self, heard: Callable[[bool], None]) -> Callable[[], None]:
        timer: asyncio.TimerHandle | None = None
        if self.answers is not None:
            after_s, is_well = self.answers
            timer = asyncio.get_running_loop().call_later(after_s, heard, is_well)

        def drop() -> None:
            self.dropped += 1
            if timer is not None:
                timer.cancel()

        return drop


@pytest.fixture
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> QuietSide:
    side = QuietSide(identity=getattr(request, "param", None))

    class Quiet:
        def prober(self) -> Callable[[Callable[[bool], None]], Callable[[], None] | None]:
            return self.probe

        def probe(self, heard: Callable[[bool], None]) -> Callable[[], None] | None:
            side.asked.append(now_s())
            side.stirred.set()
            return side.answer(heard)

        def list_quietly(
            self, _method: str, _is_known: Callable[[Json], bool], heard: Callable[[bool], None]
        ) -> Callable[[], None] | None:
            side.looks.append(now_s())
            side.stirred.set()
            asyncio.get_running_loop().call_later(0.01, heard, side.looked)
            return lambda: None

        async def listen_quietly(
            self, on_change: Callable[[str], None], _ended: Callable[[Exception], None]
        ) -> Callable[[], None]:
            on_change("listening")
            return lambda: None

    monkeypatch.setattr(ScriptedClient, "quiet", Quiet())
    return side


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()} - {"link"}


async def test_a_link_at_rest_has_one_task_and_is_probed_every_few_seconds(side: QuietSide) -> None:
    async with running_link(side) as rig:
        await rig.ready()
        before = tasks()
        await asyncio.sleep(600)
        assert tasks() <= before
        assert not tasks() & {"probe", "list", "follow"}
        assert side.probes == []
        assert 600 / 6 <= len(side.asked) <= 600 / 4
        assert set(rig.told.states) == {"dialing", "ready"}


@pytest.mark.parametrize("side", [NODE, None], indirect=True)
async def test_a_peer_that_hangs_at_rest_is_down_within_12_seconds_of_its_last_answer(side: QuietSide) -> None:
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(20)
        last_answer_at_s = side.asked[-1]
        side.answers, side.probe_time_s, side.list_time_s = None, 3600.0, 3600.0
        assert await rig.down() - last_answer_at_s <= 12.0
        assert side.dropped == 1


async def test_an_answer_that_comes_late_is_a_sign_of_life(side: QuietSide) -> None:
    async with running_link(side) as rig:
        await rig.ready()
        side.answers, side.probe_time_s = (3.0, True), 3600.0
        side.lists = {"tools/list": None}
        await asyncio.sleep(300)
        assert rig.link.view.connected
        assert len(side.clients) == 1


@pytest.mark.parametrize("side", [NODE], indirect=True)
async def test_what_is_not_usual_is_asked_for_at_once_in_the_ordinary_way_and_is_no_miss(side: QuietSide) -> None:
    async with running_link(side) as rig:
        await rig.ready()
        side.answers = (0.01, False)
        await asyncio.sleep(60)
        assert len(side.probes) == len(side.asked) >= 10
        assert all(0 < probed - asked < 0.1 for asked, probed in zip(side.asked, side.probes, strict=True))
        assert set(rig.told.states) == {"dialing", "ready"}
        side.probe = side.dial = unreachable
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 12 - 3


@pytest.mark.parametrize("side", [NODE], indirect=True)
async def test_a_call_without_an_answer_does_not_wait_for_a_quiet_probe(side: QuietSide) -> None:
    side.calling = lambda: CallTimedOut("no answer")
    async with running_link(side) as rig:
        await rig.ready()
        side.answers, side.probe_time_s = None, 3600.0
        await side.next_asked()
        with pytest.raises(CallTimedOut):
            await rig.link.request(Request.within("tools/call", {}, timeout_s=1))
        began_at_s = now_s()
        assert await rig.down() - began_at_s < 4.0


async def test_lists_that_are_as_they_were_are_looked_at_and_not_read(side: QuietSide) -> None:
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(10 * RELIST_EVERY_S)
        assert len(side.listings) == 1
        assert 9 <= len(side.looks) <= 10
        side.looked = False
        side.tools.append({"name": "b", "inputSchema": {}})
        began_at_s = now_s()
        assert await rig.when(lambda: len(rig.link.view.offer.tools) == 2) - began_at_s <= RELIST_EVERY_S + 1


async def test_looks_that_say_nothing_give_way_to_listings(side: QuietSide) -> None:
    side.looked = False
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(10 * RELIST_EVERY_S + 5)
        assert len(side.listings) >= 10
        assert len(side.looks) == LOOKS_IN_VAIN_MAX


async def test_a_change_that_is_announced_during_a_look_is_read(side: QuietSide) -> None:
    told: list[Callable[[str], None]] = []

    async def remembers(
        _: object, on_change: Callable[[str], None], _ended: Callable[[Exception], None]
    ) -> Callable[[], None]:
        told.append(on_change)
        on_change("listening")
        return lambda: None

    listen: Callable[..., Awaitable[Callable[[], None]]] = remembers
    type(ScriptedClient.quiet).listen_quietly = listen  # type: ignore[attr-defined]  # the fixture's own class
    async with running_link(side) as rig:
        await rig.ready()
        while not side.looks:
            await side.next_asked()
        side.tools.append({"name": "b", "inputSchema": {}})
        told[0]("tools")
        began_at_s = now_s()
        assert await rig.when(lambda: len(rig.link.view.offer.tools) == 2) - began_at_s < 1.0
