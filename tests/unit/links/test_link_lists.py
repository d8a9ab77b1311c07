"""A link and its server's lists in loop time: failing hanging or silent ones, and changes told in calls."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from agent.client.protocol import Request
from agent.errors import AnswerUnreadable, CallNotSent, RpcError, Unreachable
from agent.links.listing import LATE_S, RETRY_PAUSES_S
from agent.links.offer_keeper import CHANGE_WAIT_S, LIST_TIMEOUT_S, RELIST_EVERY_S
from agent.model import Json, ListFault, NodeIdentity
from tests.scripted_client import OtherSide, Rig, cannot_listen, listens, now_s, running_link

pytestmark = pytest.mark.looptime

CHANGED = "notifications/tools/list_changed"
PROMPTS: Json = {"prompts": [{"name": "p"}]}
WITH_PROMPTS: Json = {"tools": {"listChanged": True}, "prompts": {}}


def asked_at_s(side: OtherSide) -> list[float]:
    return [at_s for _, at_s in side.lists_asked]


async def test_a_failing_list_is_shown_and_asked_for_again_ever_more_slowly_until_it_is_there() -> None:
    side = OtherSide(capabilities=WITH_PROMPTS, lists={"prompts/list": RpcError(-32603, "no disk")})
    async with running_link(side) as rig:
        assert await rig.ready() == 0.0
        offer = rig.link.view.offer
        assert (len(offer.tools), len(offer.prompts)) == (1, 0)
        assert offer.faults == (ListFault("prompts/list", "prompts/list was answered with error -32603: no disk"),)
        await asyncio.sleep(sum(RETRY_PAUSES_S[:3]) + 1)
        tries = asked_at_s(side)
        pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert [round(pause) for pause in pauses] == [1, 2, 5]
        assert len(side.listings) == 1, "the tools are not asked for again with it"
        side.lists["prompts/list"] = PROMPTS
        await rig.when(lambda: len(rig.link.view.offer.prompts) == 1)
        assert rig.link.view.offer.faults == ()
        assert "backoff" not in rig.told.states


async def test_a_failing_list_of_tools_leaves_the_link_up_and_heals() -> None:
    failure: list[BaseException | None] = [RpcError(-32000, "loading")]
    side = OtherSide(listing=lambda: failure[0])
    async with running_link(side) as rig:
        await rig.ready()
        assert len(rig.link.view.offer.tools) == 0
        await asyncio.sleep(20)
        failure[0] = None
        await rig.when(lambda: len(rig.link.view.offer.tools) == 1)
        assert len(side.opened_at_s) == 1, "a server that is still loading is not started anew"


async def test_a_list_that_cannot_be_read_leaves_the_link_up() -> None:
    side = OtherSide(listing=lambda: AnswerUnreadable.about("the server", "gave an answer that is not JSON"))
    async with running_link(side) as rig:
        await rig.ready()
        assert [fault.method for fault in rig.link.view.offer.faults] == ["tools/list"]
        assert "backoff" not in rig.told.states


def not_accepted(*, silent: bool) -> CallNotSent:
    failure = CallNotSent("the connection")
    failure.silent = silent
    return failure


@pytest.mark.parametrize(("silent", "refused"), [(True, False), (False, False), (False, True)])
async def test_a_list_that_could_not_be_asked_for_leaves_the_link_to_its_probes(silent: bool, refused: bool) -> None:
    side = OtherSide(listen=cannot_listen)
    async with running_link(side) as rig:
        await rig.ready()
        side.listing = lambda: not_accepted(silent=silent)
        side.probe = side.dial = lambda: Unreachable("refused") if refused else None
        await asyncio.sleep(2 * RELIST_EVERY_S)
        assert rig.link.view.connected is not refused
        assert rig.told.reconnected == refused


async def test_a_list_that_hangs_does_not_hold_the_tools_back_and_is_given_its_time_later() -> None:
    side = OtherSide(capabilities=WITH_PROMPTS, lists={"prompts/list": None})
    async with running_link(side) as rig:
        assert await rig.ready() == LATE_S
        assert [fault.method for fault in rig.link.view.offer.faults] == ["prompts/list"]
        assert len(rig.link.view.offer.tools) == 1
        await asyncio.sleep(RETRY_PAUSES_S[0] + LIST_TIMEOUT_S + RETRY_PAUSES_S[1] + 1)
        first, second, third = asked_at_s(side)
        assert second - first >= LATE_S + RETRY_PAUSES_S[0]
        assert third - second >= LIST_TIMEOUT_S + RETRY_PAUSES_S[1]
        assert rig.link.view.connected


async def test_a_server_that_could_tell_of_changes_and_never_does_is_read_every_half_minute() -> None:
    side = OtherSide(capabilities=WITH_PROMPTS, lists={"prompts/list": PROMPTS}, listen=listens)
    async with running_link(side) as rig:
        await rig.ready()
        side.tools.append({"name": "b", "inputSchema": {}})
        assert await rig.when(lambda: len(rig.link.view.offer.tools) == 2) <= RELIST_EVERY_S + 1
        await asyncio.sleep(10 * RELIST_EVERY_S)
        assert 11 <= len(side.listings) <= 13


async def test_another_node_whose_stream_holds_is_read_only_when_it_tells_of_a_change() -> None:
    side = OtherSide(identity=NodeIdentity("id-peer", "peer"))
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(10 * RELIST_EVERY_S)
        assert len(side.listings) == 1


async def test_what_a_session_listed_stays_listed_while_the_next_one_cannot_list_it() -> None:
    side = OtherSide(capabilities=WITH_PROMPTS, lists={"prompts/list": PROMPTS})
    async with running_link(side) as rig:
        await rig.ready()
        side.lists["prompts/list"] = RpcError(-32603, "not yet")
        side.clients[0].lose("reset")
        await rig.down()
        await rig.ready()
        assert [len(rig.link.view.offer.prompts), len(rig.link.view.offer.faults)] == [1, 1]


def one_more_tool(side: OtherSide) -> None:
    side.tools.append({"name": f"t{len(side.tools)}", "inputSchema": {}})


async def test_a_change_announced_on_the_stream_of_a_call_is_listed_and_shown_before_it_goes_on() -> None:
    side = OtherSide(says=["notifications/progress", CHANGED])
    side.calls.set()
    heard: list[tuple[str, int, int]] = []
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(1)
        one_more_tool(side)

        async def hear(method: str, _params: Json) -> None:
            heard.append((method, len(rig.link.view.offer.tools), len(rig.told.settled)))

        await rig.link.request(Request.within("tools/call", {}, timeout_s=60, on_notification=hear))
        assert heard == [("notifications/progress", 1, 0), (CHANGED, 2, 1)]


async def test_a_change_announced_on_the_stream_of_a_call_counts_though_its_caller_takes_no_notices() -> None:
    side = OtherSide(says=[CHANGED])
    side.calls.set()
    async with running_link(side) as rig:
        await rig.ready()
        await asyncio.sleep(1)
        one_more_tool(side)
        await rig.link.request(Request.within("tools/call", {}, timeout_s=60))
        assert len(rig.link.view.offer.tools) == 2


async def changing(rig: Rig, change: Callable[[], None]) -> float:
    """A call during which something changes; returns how long its result took after that."""
    async with asyncio.TaskGroup() as group:
        call = group.create_task(rig.link.request(Request.within("tools/call", {}, timeout_s=60)), name="call")
        await asyncio.sleep(1)
        change()
        rig.side.calls.set()
        began_at_s = now_s()
        await call
        return now_s() - began_at_s


async def test_a_result_waits_for_the_list_that_its_server_said_has_changed_meanwhile() -> None:
    told: list[Callable[[str], None]] = []

    async def remembers(on_change: Callable[[str], None]) -> None:
        told.append(on_change)
        await listens(on_change)

    side = OtherSide(listen=remembers, list_time_s=0.25)
    async with running_link(side) as rig:
        await rig.ready()

        def change() -> None:
            one_more_tool(side)
            told[0]("tools")

        assert 0.25 <= await changing(rig, change) < 0.5
        assert len(rig.link.view.offer.tools) == 2
        assert len(rig.told.settled) == 1


async def test_a_list_that_cannot_be_read_holds_no_result_back_for_long() -> None:
    side = OtherSide(says=[CHANGED])
    async with running_link(side) as rig:
        await rig.ready()
        side.list_time_s = 3600
        side.calls.set()
        began_at_s = now_s()
        await rig.link.request(Request.within("tools/call", {}, timeout_s=60))
        assert now_s() - began_at_s <= CHANGE_WAIT_S


async def test_a_call_without_any_change_waits_for_nothing() -> None:
    side = OtherSide(list_time_s=5.0)
    async with running_link(side) as rig:
        await rig.ready()
        assert await changing(rig, lambda: None) == 0.0
        assert rig.told.settled == []
