"""The supervisor in loop time: links open, close, renew and end, and nothing of one link reaches another."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from agent.client.protocol import Request
from agent.links.actions import CloseLink, OpenLink, RelabelLink, RenewLink
from agent.links.dial import TURN_S
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.supervisor import DIALS_MAX, Supervisor
from agent.model import BackendSpec, HttpTarget, LinkState, ServerScope, ServerSpec, StdioTarget
from tests.scripted_client import OWN, PEER, OtherSide, now_s

pytestmark = pytest.mark.looptime

CHILD = ServerSpec("child", StdioTarget("true"), ServerScope.NODE)
SERVER = ServerSpec("web", HttpTarget("http://web/mcp"), ServerScope.SERVICE)


@dataclass
class Rig:
    supervisor: Supervisor
    side: OtherSide
    made: list[Link] = field(default_factory=list)
    fail_hooks_of: str = ""


@asynccontextmanager
async def running(side: OtherSide) -> AsyncIterator[Rig]:
    rig: Rig

    def make(spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
        def changed(_key: str) -> None:
            if rig.fail_hooks_of == spec.name:
                rig.fail_hooks_of = ""
                raise ZeroDivisionError("a bug in a listener")

        hooks = LinkHooks(changed=changed, dialled=lambda _: None, reconnected=lambda _: None)
        link = Link(spec, dials, own=OWN, hooks=hooks, rng=random.Random(1), dial=side.opened)
        rig.made.append(link)
        return link

    async with Supervisor(make) as supervisor:
        rig = Rig(supervisor, side)
        yield rig


async def test_applying_never_waits_and_links_become_ready_by_themselves() -> None:
    async with running(OtherSide(dial_time_s=3.0)) as rig:
        rig.supervisor.apply([OpenLink(PEER), OpenLink(SERVER)])
        assert now_s() == 0.0
        assert rig.supervisor.actual == {PEER.key: PEER, SERVER.key: SERVER}
        await asyncio.sleep(4)
        assert [view.state for view in rig.supervisor.views()] == [LinkState.READY] * 2


async def test_only_a_few_begin_to_dial_at_once() -> None:
    side = OtherSide(dial_time_s=0.8 * TURN_S)
    async with running(side) as rig:
        rig.supervisor.apply(OpenLink(replace(PEER, name=f"p{n}")) for n in range(120))
        await asyncio.sleep(0.6 * TURN_S)
        assert len(side.opened_at_s) == DIALS_MAX
        await asyncio.sleep(3)
        assert len(side.clients) == 120


async def test_a_closed_link_is_gone_at_once_and_its_client_is_closed() -> None:
    async with running(OtherSide()) as rig:
        rig.supervisor.apply([OpenLink(SERVER)])
        await asyncio.sleep(1)
        rig.supervisor.apply([CloseLink(SERVER.key, "no longer wanted")])
        assert rig.supervisor.link(SERVER.key) is None
        await asyncio.sleep(1)
        assert rig.side.closed == 1
        assert rig.made[0].first_attempt.is_set()


async def test_a_link_that_is_closed_before_it_ran_frees_its_waiters() -> None:
    async with running(OtherSide()) as rig:
        rig.supervisor.apply([OpenLink(PEER)])
        rig.supervisor.apply([CloseLink(PEER.key, "changed my mind")])
        async with asyncio.timeout(1):
            await rig.made[0].first_attempt.wait()
        assert rig.side.opened_at_s == []


async def test_a_child_is_started_anew_only_when_the_old_one_has_ended() -> None:
    side = OtherSide(close_time_s=5.0)
    async with running(side) as rig:
        rig.supervisor.apply([OpenLink(CHILD)])
        await asyncio.sleep(1)
        rig.supervisor.apply([RenewLink(replace(CHILD, scope=ServerScope.PRIVATE))])
        await asyncio.sleep(10)
        assert side.opened_at_s == [0.0, 6.0]


async def test_a_peer_is_dialled_anew_while_the_old_client_still_closes() -> None:
    side = OtherSide(close_time_s=5.0)
    async with running(side) as rig:
        rig.supervisor.apply([OpenLink(PEER)])
        await asyncio.sleep(1)
        rig.supervisor.apply([RenewLink(replace(PEER, target=HttpTarget("http://new/mcp")))])
        await asyncio.sleep(10)
        assert side.opened_at_s == [0.0, 1.0]


async def test_a_peer_that_goes_finishes_its_calls_while_its_successor_serves() -> None:
    side = OtherSide()
    async with running(side) as rig:
        rig.supervisor.apply([OpenLink(PEER)])
        await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.made[0].request(Request.within("tools/call", {}, timeout_s=60)), name="call")
            await asyncio.sleep(0)
            rig.supervisor.apply([CloseLink(PEER.key, "it left"), OpenLink(PEER)])
            await asyncio.sleep(2)
            assert rig.supervisor.link(PEER.key) is rig.made[1]
            assert rig.made[1].view.connected
            side.calls.set()
        assert call.result() == {"answered": "tools/call"}
        await asyncio.sleep(1)
        assert side.closed == 1


async def test_a_server_at_another_url_finishes_its_calls_while_its_successor_serves() -> None:
    side = OtherSide()
    async with running(side) as rig:
        rig.supervisor.apply([OpenLink(SERVER)])
        await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.made[0].request(Request.within("tools/call", {}, timeout_s=60)), name="call")
            await asyncio.sleep(0)
            rig.supervisor.apply([RenewLink(replace(SERVER, target=HttpTarget("http://new/mcp")))])
            await asyncio.sleep(2)
            assert rig.made[1].view.connected
            # A child has nothing to wait for where no child was.
            rig.supervisor.apply([RenewLink(replace(SERVER, target=StdioTarget("true")))])
            await asyncio.sleep(2)
            assert rig.made[2].view.connected
            side.calls.set()
        assert call.result() == {"answered": "tools/call"}


@pytest.mark.parametrize("spec", [SERVER, CHILD])
async def test_a_server_that_an_operator_takes_away_ends_whatever_it_is_doing(spec: ServerSpec) -> None:
    side = OtherSide()
    async with running(side) as rig:
        rig.supervisor.apply([OpenLink(spec)])
        await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(rig.made[0].request(Request.within("tools/call", {}, timeout_s=60)), name="call")
            await asyncio.sleep(0)
            rig.supervisor.apply([CloseLink(spec.key, "not wanted")])
            await asyncio.sleep(1)
            assert side.closed == 1
            side.calls.set()


async def test_a_relabelled_link_stays_up() -> None:
    async with running(OtherSide()) as rig:
        rig.supervisor.apply([OpenLink(PEER)])
        await asyncio.sleep(1)
        rig.supervisor.apply([RelabelLink(replace(PEER, aliases=("other",)))])
        await asyncio.sleep(1)
        assert rig.supervisor.actual[PEER.key] == replace(PEER, aliases=("other",))
        assert len(rig.side.clients) == 1


async def test_a_bug_in_one_link_ends_neither_its_siblings_nor_the_node(caplog: pytest.LogCaptureFixture) -> None:
    async with running(OtherSide()) as rig:
        rig.supervisor.apply([OpenLink(PEER), OpenLink(SERVER)])
        await asyncio.sleep(1)
        rig.fail_hooks_of = PEER.name
        rig.side.clients[0].lose("gone")
        await asyncio.sleep(1)
        assert "ZeroDivisionError" in caplog.text
        assert SERVER.key in rig.supervisor.actual


async def test_the_end_closes_every_link_whatever_it_is_doing() -> None:
    side = OtherSide(dial_time_s=2.0)
    async with running(side) as rig:
        rig.supervisor.apply([OpenLink(PEER), OpenLink(CHILD)])
        await asyncio.sleep(3)
        rig.supervisor.apply([OpenLink(SERVER)])
        await asyncio.sleep(1)
    assert len(side.clients) == side.closed == 2
    assert all(link.view.state is LinkState.CLOSED for link in rig.made)


async def test_the_end_does_not_wait_for_drains() -> None:
    async with running(OtherSide()) as rig:
        rig.supervisor.apply([OpenLink(PEER)])
        await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(rig.made[0].request(Request.within("tools/call", {}, timeout_s=60)), name="call")
            await asyncio.sleep(0)
            rig.supervisor.apply([CloseLink(PEER.key, "it left")])
            ended_at_s = now_s()
            await rig.supervisor.__aexit__(None, None, None)
            assert now_s() - ended_at_s < 1
            call.cancel()
