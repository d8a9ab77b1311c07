"""The mesh's word on names whose backend is not there, in loop time: away, unknown, or not yet looked for."""

import asyncio
from pathlib import Path

import pytest

from agent.control.absence import START_S, AbsenceTracker
from agent.errors import MeshError, ProtocolBroken, RpcError, Unreachable
from agent.model import HttpTarget, NodeIdentity, Override, ServerScope, ServerSpec, Suppression
from agent.routing.away import AWAY_FOR_S
from agent.routing.table import Route, RouteKind
from discovery.model import Catalog, Instance, InstanceKey
from tests.scripted_client import OtherSide, failing_times, now_s, unreachable
from tests.unit.control.test_reconciler import SERVER, Rig, running

pytestmark = pytest.mark.looptime

SCHEMA = {"type": "object"}
NODE = NodeIdentity("22222222-0000-4000-8000-000000000000", "two")
ORIGIN = {"node": "two", "node_id": NODE.node_id, "server": "far", "tool": "go", "scope": "service", "via": []}
OFFER = [
    {"name": "far__go", "inputSchema": SCHEMA, "_meta": {"mesh-agent/origin": ORIGIN}},
    {"name": "do", "inputSchema": SCHEMA},
]
META = {"node_id": NODE.node_id, "name": "two", "scheme": "http", "epoch": "1", "mcp_path": "/mcp"}
TWO = Catalog((Instance(InstanceKey("dc", "m", "two-22222222"), "10.1.1.1", 8000, meta=META),))


def found(rig: Rig, name: str) -> Route | None:
    return rig.mesh.routes.find(RouteKind.TOOL, name)


def is_away(rig: Rig, name: str) -> bool:
    route = found(rig, name)
    return route is not None and route.away_since_s is not None


def side() -> OtherSide:
    return OtherSide(tools=list(OFFER), identity=NODE)


async def test_a_server_that_is_dialled_again_is_away_and_then_back(tmp_path: Path) -> None:
    other = OtherSide(tools=list(OFFER))
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        assert not is_away(rig, "kit__do")
        other.dial = unreachable
        other.clients[-1].lose("the child exited")
        await asyncio.sleep(1)
        assert is_away(rig, "kit__do")
        local = rig.mesh.local_routes.find(RouteKind.TOOL, "kit__do")
        assert local is not None
        assert local.away_since_s is not None
        link = rig.mesh.link(SERVER.key)
        assert link is not None
        other.dial = failing_times(0, unreachable)
        await asyncio.sleep(2)
        began_s, dials = now_s(), len(other.opened_at_s)
        link.called()
        await asyncio.sleep(0.1)
        assert len(other.opened_at_s) >= dials
        assert not is_away(rig, "kit__do")
        assert now_s() - began_s < 1


async def test_a_server_that_the_operator_takes_away_is_unknown_at_once_even_while_it_is_away(tmp_path: Path) -> None:
    other = OtherSide(tools=list(OFFER))
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        other.dial = unreachable
        other.clients[-1].lose("the child exited")
        await asyncio.sleep(1)
        assert is_away(rig, "kit__do")
        rig.mesh.take_servers([])
        await rig.mesh.settled()
        assert found(rig, "kit__do") is None


async def test_a_node_that_leaves_the_catalog_is_away_for_ten_minutes(tmp_path: Path) -> None:
    async with running(tmp_path, side()) as rig:
        rig.mesh.take_catalog(TWO)
        await asyncio.sleep(1)
        assert not is_away(rig, "far__go")
        rig.mesh.take_catalog(Catalog())
        await rig.mesh.settled()
        assert is_away(rig, "far__go")
        await asyncio.sleep(AWAY_FOR_S - 60)
        assert is_away(rig, "far__go")
        await asyncio.sleep(120)
        assert found(rig, "far__go") is None


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_discovered_peer_that_the_operator_removes_is_unknown_at_once(
    tmp_path: Path, *, is_there: bool
) -> None:
    async with running(tmp_path, side()) as rig:
        rig.mesh.take_catalog(TWO)
        await asyncio.sleep(1)
        if not is_there:
            rig.mesh.take_catalog(Catalog())
            await rig.mesh.settled()
            assert is_away(rig, "far__go")
        await rig.mesh._store.suppress(Suppression("two", NODE.node_id))
        await rig.mesh.settled()
        assert found(rig, "far__go") is None


async def test_a_peer_that_the_operator_added_and_deletes_is_unknown_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, side()) as rig:
        await rig.mesh._store.put(Override("two", HttpTarget("http://10.1.1.1:8000/mcp")))
        await rig.mesh.settled()
        await asyncio.sleep(1)
        assert not is_away(rig, "far__go")
        assert found(rig, "far__go") is not None
        await rig.mesh._store.remove("two")
        await rig.mesh.settled()
        assert found(rig, "far__go") is None


async def test_a_catalogs_peer_of_before_a_restart_is_expected_for_ten_minutes_though_the_catalog_has_it_no_more() -> (
    None
):
    tracker = AbsenceTracker(waits_for_catalog=True)
    tracker.remember({"peer:far": 100.0, "peer:removed": 100.0})
    tracker.note({}, (), [Suppression("removed")], 200.0)
    assert tracker.absence((), (), 200.0).expected == {"peer:far"}
    tracker.note({}, (), (), 100.0 + AWAY_FOR_S + 1)
    assert tracker.absence((), (), 100.0 + AWAY_FOR_S + 1).expected == frozenset()
    without = AbsenceTracker(waits_for_catalog=False)
    without.remember({"peer:far": 100.0})
    assert without.absence((), (), 200.0).expected == frozenset(), "what the settings name no more is not expected"


async def test_a_server_that_never_started_has_its_names_away_for_ten_minutes(tmp_path: Path) -> None:
    async with running(tmp_path, OtherSide(dial=unreachable)) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(START_S + 1)
        assert is_away(rig, "kit__whatever")
        assert found(rig, "other__whatever") is None
        await asyncio.sleep(AWAY_FOR_S + 60)
        assert found(rig, "kit__whatever") is None


async def test_a_connected_server_that_fails_to_list_its_tools_has_their_names_away(tmp_path: Path) -> None:
    other = OtherSide(listing=lambda: RpcError(-32603, "boom"))
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(START_S + 1)
        assert rig.mesh.view_of("kit").connected
        assert is_away(rig, "kit__whatever")
        other.listing = lambda: None
        await asyncio.sleep(60)
        assert found(rig, "kit__a") is not None
        assert found(rig, "kit__whatever") is None
        other.listing = lambda: RpcError(-32603, "boom")
        await asyncio.sleep(60)
        assert found(rig, "kit__whatever") is None, "what it has is known"


async def test_a_node_has_started_when_its_first_attempts_have_an_outcome(tmp_path: Path) -> None:
    async with running(tmp_path, OtherSide(dial=unreachable, dial_time_s=3)) as rig:
        assert rig.mesh.starting
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(2)
        assert rig.mesh.starting
        assert is_away(rig, "anything")
        await asyncio.sleep(1.5)
        assert not rig.mesh.starting
        assert found(rig, "anything") is None


async def test_a_node_does_not_wait_longer_for_its_first_attempts_than_the_limit(tmp_path: Path) -> None:
    async with running(tmp_path, OtherSide(dial_time_s=3600)) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(START_S - 1)
        assert rig.mesh.starting
        await asyncio.sleep(1.5)
        assert not rig.mesh.starting
        assert found(rig, "anything") is None


async def test_a_node_with_discovery_waits_for_the_first_catalog_and_its_links(tmp_path: Path) -> None:
    async with running(tmp_path, OtherSide(tools=list(OFFER), identity=NODE, dial_time_s=2)) as rig:
        rig.mesh._absences._waits_for_catalog = True
        await asyncio.sleep(3)
        assert rig.mesh.starting
        rig.mesh.take_catalog(TWO)
        await asyncio.sleep(1)
        assert rig.mesh.starting
        await asyncio.sleep(1.5)
        assert not rig.mesh.starting
        assert not is_away(rig, "far__go")


async def test_no_call_hurries_a_server_that_asked_for_a_pause(tmp_path: Path) -> None:
    other = OtherSide(dial=lambda: Unreachable("503", retry_after_s=60.0))
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        link = rig.mesh.link(SERVER.key)
        assert link is not None
        for _ in range(50):
            link.called()
            await asyncio.sleep(1)
        assert len(other.opened_at_s) == 1


@pytest.mark.parametrize("by_proxy", [True, False])
async def test_calls_hurry_what_is_no_mcp_only_where_it_may_be_a_proxys_word_for_an_absent_server(
    tmp_path: Path, by_proxy: bool
) -> None:
    def refuse() -> ProtocolBroken:
        failure = ProtocolBroken("404")
        failure.may_be_away = by_proxy
        return failure

    other = OtherSide(dial=refuse)
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        link = rig.mesh.link(SERVER.key)
        assert link is not None
        for _ in range(30):
            await asyncio.sleep(1)
            link.called()
        assert (len(other.opened_at_s) > 25) is by_proxy


async def test_a_call_that_finds_the_server_gone_before_its_link_does_has_it_dialled_at_once(tmp_path: Path) -> None:
    other = OtherSide(tools=list(OFFER))
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([SERVER])
        for _ in range(3):  # Each time the back-off would be longer.
            await asyncio.sleep(2)
            link = rig.mesh.link(SERVER.key)
            assert link is not None
            assert link.view.connected
            link.called()
            dials, lost_at_s = len(other.opened_at_s), now_s()
            other.clients[-1].lose("the child exited")
            await asyncio.sleep(0.3)
            assert len(other.opened_at_s) == dials + 1
            assert other.opened_at_s[-1] - lost_at_s < 0.1


async def test_calls_hurry_a_link_at_most_once_a_second(tmp_path: Path) -> None:
    other = OtherSide(dial=unreachable)
    async with running(tmp_path, other) as rig:
        rig.mesh.take_servers([ServerSpec("kit", HttpTarget("http://kit/mcp"), ServerScope.SERVICE)])
        await asyncio.sleep(120)
        link = rig.mesh.link("server:kit")
        assert link is not None
        dials = len(other.opened_at_s)
        for _ in range(100):
            link.called()
            await asyncio.sleep(0.1)
        assert 10 <= len(other.opened_at_s) - dials <= 25, "ten calls that count, and a few waits that were over"
        with pytest.raises(MeshError):
            rig.mesh.view_of("other")
