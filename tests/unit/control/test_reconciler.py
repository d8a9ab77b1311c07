"""The mesh's loop in loop time: resync, generations, and who answered where."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.control.contributions import table_digest
from agent.control.reconciler import RESYNC_EVERY_S, Mesh
from agent.control.tables import MeshHooks
from agent.errors import MeshError, OverrideRefused
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.supervisor import Supervisor
from agent.model import BackendSpec, HttpTarget, NodeIdentity, ServerScope, ServerSpec
from agent.routing.table import RouteKind, RouteTable
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Instance, InstanceKey
from tests.scripted_client import OWN, OtherSide, no_failure, unreachable

pytestmark = pytest.mark.looptime

SERVER = ServerSpec("kit", HttpTarget("http://kit/mcp"), ServerScope.SERVICE)


@dataclass
class Rig:
    mesh: Mesh
    supervisor: Supervisor
    side: OtherSide
    loop_task: asyncio.Task[None]
    told: list[frozenset[RouteKind]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    in_fleets: list[frozenset[RouteKind]] = field(default_factory=list)


@asynccontextmanager
async def running(folder: Path, side: OtherSide | None = None) -> AsyncIterator[Rig]:
    side = side or OtherSide()
    told: list[frozenset[RouteKind]] = []
    gone: list[str] = []
    in_fleets: list[frozenset[RouteKind]] = []

    def make(spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
        hooks = LinkHooks(mesh.link_changed, lambda _: None, lambda _: None)
        return Link(spec, dials, own=OWN, hooks=hooks, rng=random.Random(1), dial=side.opened)

    async with Supervisor(make) as supervisor, asyncio.TaskGroup() as group:
        mesh = Mesh(
            own=OWN,
            supervisor=supervisor,
            store=OverrideStore.open(folder),
            statics=(),
            hooks=MeshHooks(told.append, lambda _: None, lambda _: None, gone.append, fleets_changed=in_fleets.append),
        )
        task = group.create_task(mesh.run(), name="mesh")
        try:
            yield Rig(mesh, supervisor, side, task, told, gone, in_fleets)
        finally:
            task.cancel()


def instances(count: int) -> Catalog:
    return Catalog(
        tuple(
            Instance(
                InstanceKey("dc", "m", f"node-{n:04}"),
                f"10.1.{n // 200}.{n % 200 + 1}",
                8000,
                meta={"node_id": f"id-{n}", "name": f"node-{n:04}"},
            )
            for n in range(count)
        )
    )


async def test_a_wake_that_was_lost_costs_one_resync_at_most(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.mesh.settled()
        rig.mesh.servers = (SERVER,)  # As if the code that changed it had forgotten to wake the loop.
        await asyncio.sleep(RESYNC_EVERY_S + 1)
        assert rig.mesh.view_of("kit").connected


async def test_a_link_that_ended_against_its_will_is_opened_again_by_the_resync(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        link = rig.supervisor.link(SERVER.key)
        assert link is not None
        rig.supervisor._tasks[link].cancel()
        await asyncio.sleep(RESYNC_EVERY_S + 1)
        assert rig.supervisor.link(SERVER.key) is not link
        assert rig.mesh.view_of("kit").connected


async def test_settled_returns_when_its_own_change_was_acted_on(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.mesh.take_servers([SERVER])
        await rig.mesh.settled()
        assert rig.supervisor.link(SERVER.key) is not None
        rig.mesh.take_servers([])
        await rig.mesh.settled()
        assert rig.supervisor.link(SERVER.key) is None
        assert rig.gone == [SERVER.key]


async def test_waiting_for_a_loop_that_is_gone_is_refused_not_endless(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.mesh.settled()
        async with asyncio.TaskGroup() as group:
            refusal = group.create_task(refused(rig.mesh), name="settle")
            rig.loop_task.cancel()
        assert refusal.result() == 503
        assert await refused(rig.mesh) == 503


async def refused(mesh: Mesh) -> int:
    with pytest.raises(OverrideRefused, match="stopping") as caught:
        await mesh.settled()
    return caught.value.status


async def test_nothing_changed_notifies_no_client(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        before = len(rig.told)
        table = rig.mesh.routes
        await asyncio.sleep(10 * RESYNC_EVERY_S)
        assert len(rig.told) == before
        assert rig.mesh.routes is table


@pytest.mark.parametrize("scope", [ServerScope.FLEET, ServerScope.NODE])
async def test_lists_that_nodes_of_fleets_change_are_noted_apart(scope: ServerScope, tmp_path: Path) -> None:
    async with running(tmp_path, OtherSide(tools=[{"name": "a", "inputSchema": {"type": "object"}}])) as rig:
        rig.mesh.take_servers([replace(SERVER, scope=scope)])
        await asyncio.sleep(1)
        noted, others = (rig.in_fleets, rig.told) if scope is ServerScope.FLEET else (rig.told, rig.in_fleets)
        assert any(RouteKind.TOOL in kinds for kinds in noted)
        assert not any(RouteKind.TOOL in kinds for kinds in others)


async def test_unknown_and_disabled_names_are_distinct(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.mesh.take_servers([ServerSpec("off", HttpTarget("http://x/mcp"), ServerScope.NODE, enabled=False)])
        await rig.mesh.settled()
        with pytest.raises(MeshError, match="disabled in the servers file"):
            rig.mesh.view_of("off")
        with pytest.raises(MeshError, match="Known: none"):
            rig.mesh.view_of("who")


def test_equal_tables_have_one_digest() -> None:
    assert table_digest(RouteTable()) == table_digest(RouteTable())


async def test_what_the_mesh_reads_of_a_server_the_local_table_shares_also_after_a_change(tmp_path: Path) -> None:
    schema = {"type": "object"}
    async with running(tmp_path, OtherSide(tools=[{"name": "a", "inputSchema": schema}])) as rig:
        rig.mesh.take_servers([SERVER])
        await asyncio.sleep(1)
        assert rig.mesh.local_routes.tools["kit__a"] is rig.mesh.routes.tools["kit__a"]
        rig.side.tools[:] = [{"name": "b", "inputSchema": schema}]
        link = rig.supervisor.link(SERVER.key)
        assert link is not None
        link.sight()
        await asyncio.sleep(1)
        assert rig.mesh.local_routes.tools == rig.mesh.routes.tools
        assert rig.mesh.local_routes.tools["kit__b"] is rig.mesh.routes.tools["kit__b"]


async def test_a_node_that_reaches_us_is_dialled_again_though_its_link_backs_off(tmp_path: Path) -> None:
    side = OtherSide(dial=unreachable, identity=NodeIdentity("id-0", "node-0000"))
    async with running(tmp_path, side) as rig:
        rig.mesh.take_catalog(instances(1))
        await asyncio.sleep(600)
        side.dial = no_failure
        rig.mesh.heard_of("id-of-a-stranger")
        await asyncio.sleep(0.1)
        assert not rig.mesh.view_of("node-0000").connected
        rig.mesh.heard_of("id-0")
        await asyncio.sleep(0.1)
        assert rig.mesh.view_of("node-0000").connected
        rig.mesh.heard_of("id-0")


@pytest.mark.timeout(20)  # Else it would go on for ever: the time of this loop stands still while there is a next step.
async def test_a_resync_whose_timer_fires_a_tick_early_is_followed_by_a_pause(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for _ in range(200):
            await asyncio.sleep(0.01)
            await rig.mesh.settled()
            await asyncio.sleep(RESYNC_EVERY_S + 1.0)
