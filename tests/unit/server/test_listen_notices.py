"""Notices in loop time: the first at once, then at most one per kind and interval, the last never lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agent.routing.table import RouteKind
from agent.server.listen import FLEET_INTERVAL_S, INTERVAL_S, Notices

pytestmark = pytest.mark.looptime


@dataclass
class Rig:
    notices: Notices
    told: list[tuple[float, str]] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    sessions: list[tuple[float, str]] = field(default_factory=list)


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    streams: list[tuple[float, str]] = []
    sessions: list[tuple[float, str]] = []
    counted: list[str] = []

    def tell_streams(method: str) -> None:
        streams.append((now_s(), method.split("/")[1]))

    def tell_sessions(method: str) -> None:
        sessions.append((now_s(), method))

    rig = Rig(Notices((tell_streams, tell_sessions), counted.append), streams, counted, sessions)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.notices.run(), name="notices")
        await asyncio.sleep(1)
        yield rig
        task.cancel()


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def test_the_first_change_is_reported_at_once_in_both_eras() -> None:
    async with running() as rig:
        rig.notices.changed({RouteKind.TOOL})
        await asyncio.sleep(0.01)
        assert rig.told == [(1.0, "tools")]
        assert rig.sessions == [(1.0, "notifications/tools/list_changed")]
        assert rig.counted == ["tools"]


async def test_a_burst_is_two_notices_and_the_last_change_is_in_the_second() -> None:
    async with running() as rig:
        for _ in range(100):
            rig.notices.changed({RouteKind.TOOL})
            await asyncio.sleep(0.001)
        last_change_at_s = now_s()
        await asyncio.sleep(5)
        assert len(rig.told) == 2
        assert last_change_at_s <= rig.told[1][0] <= 1.0 + INTERVAL_S + 0.01


async def test_steady_change_is_reported_at_most_four_times_a_second() -> None:
    async with running() as rig:
        for _ in range(1000):
            rig.notices.changed({RouteKind.TOOL, RouteKind.PROMPT})
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        tools = [at_s for at_s, kind in rig.told if kind == "tools"]
        assert 35 <= len(tools) <= 42
        assert len([1 for _, kind in rig.told if kind == "prompts"]) == len(tools)


async def test_templates_are_resources_to_a_client_and_namespaces_are_nothing() -> None:
    async with running() as rig:
        rig.notices.changed({RouteKind.TEMPLATE, RouteKind.RESOURCE})
        await asyncio.sleep(1)
        rig.notices.changed({RouteKind.NAMESPACE})
        rig.notices.changed(set())
        await asyncio.sleep(1)
        assert [kind for _, kind in rig.told] == ["resources"]


async def test_nodes_of_fleets_that_come_and_go_are_one_notice_in_two_seconds() -> None:
    async with running() as rig:
        for _ in range(100):
            rig.notices.fleets_changed({RouteKind.TOOL})
            await asyncio.sleep(0.05)
        rig.notices.fleets_changed(set())
        await asyncio.sleep(FLEET_INTERVAL_S)
        times = [at_s for at_s, kind in rig.told if kind == "tools"]
        assert times == pytest.approx([1.0, 3.0, 5.0, 7.0], abs=0.06)
        rig.notices.changed({RouteKind.TOOL})
        await asyncio.sleep(INTERVAL_S * 2)
        assert len(rig.told) == 5, "other changes are not held back by those of fleets"
