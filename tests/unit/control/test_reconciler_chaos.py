"""A mesh under seeded chaos in loop time: whatever came in whatever order, when it is quiet everything wanted is up.

Catalogs, orders, servers, lost clients, failing dials, hanging listings and reloads meet at random. A failing case
names its seed, which replays it.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.control.operator import OverrideService
from agent.control.reconciler import Mesh
from agent.control.tables import MeshHooks
from agent.errors import AuthRefused, MeshError, OverrideRefused, Unreachable
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.supervisor import Supervisor
from agent.model import BackendSpec, HttpTarget, LinkState, Override, ServerScope, ServerSpec, StdioTarget
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Instance, InstanceKey
from tests.scripted_client import OWN, OtherSide

pytestmark = pytest.mark.looptime

STEPS = 60
# Longer than the longest back-off of a child (60 s) and than the drain of a link (30 s).
QUIET_S = 200.0


@dataclass
class Chaos:
    rng: random.Random
    mesh: Mesh
    orders: OverrideService
    supervisor: Supervisor
    side: OtherSide
    group: asyncio.TaskGroup

    async def step(self) -> None:
        act = self.rng.choice(
            [self.catalog, self.servers, self.add, self.remove, self.lose, self.reload, self.weather, self.weather]
        )
        act()
        await asyncio.sleep(self.rng.choice([0, 0, 0.01, 0.3, 3, 40]))

    def catalog(self) -> None:
        chosen = self.rng.sample(range(8), self.rng.randrange(8))
        self.mesh.take_catalog(Catalog(tuple(sorted((self.instance(n) for n in chosen), key=lambda one: one.key))))

    def instance(self, number: int) -> Instance:
        meta = {"node_id": f"id-{number}", "name": f"n{number}", "epoch": str(self.rng.randrange(3))}
        return Instance(InstanceKey("dc", "m", f"s{number}"), f"10.0.0.{number + 1}", 8000, meta=meta)

    def servers(self) -> None:
        self.mesh.take_servers(
            [
                ServerSpec(f"s{n}", StdioTarget("x") if n % 2 else HttpTarget(f"http://s{n}/mcp"), ServerScope.NODE)
                for n in self.rng.sample(range(5), self.rng.randrange(5))
            ]
        )

    def add(self) -> None:
        number = self.rng.randrange(8)
        target = HttpTarget(f"http://10.0.0.{number + 1}:8000/mcp", token=self.rng.choice([None, "t"]))
        self.order(self.orders.add(Override(self.rng.choice([f"n{number}", f"o{number}"]), target)))

    def remove(self) -> None:
        self.order(self.orders.remove(self.rng.choice("no") + str(self.rng.randrange(8))))

    def order(self, work: object) -> None:
        async def carried_out() -> None:
            with suppress(OverrideRefused):
                await work  # type: ignore[misc]  # a coroutine

        self.group.create_task(carried_out(), name="order")

    def lose(self) -> None:
        if self.side.clients:
            self.rng.choice(self.side.clients).lose("chaos")

    def reload(self) -> None:
        views = self.mesh.views()
        if views:
            name = self.rng.choice(views).spec.name

            async def reloaded() -> None:
                with suppress(MeshError):
                    await self.mesh.reload(name, 10.0)

            self.group.create_task(reloaded(), name="reload")

    def weather(self) -> None:
        kinds: list[type[Exception] | None] = [None, None, Unreachable, AuthRefused, ValueError]

        def outcome(of: list[type[Exception] | None]) -> Exception | None:
            kind = self.rng.choice(of)
            return None if kind is None else kind("chaos")

        self.side.dial = self.side.listing = lambda: outcome(kinds)
        self.side.probe = lambda: outcome(kinds[:3])
        self.side.dial_time_s = self.rng.choice([0, 0, 2.0, 20.0])
        self.side.list_time_s = self.rng.choice([0, 0, 1.0, 50.0])
        self.side.close_time_s = self.rng.choice([0, 0, 1.0, 6.0])

    def calm(self) -> None:
        side = self.side
        side.dial = side.listing = side.probe = lambda: None
        side.dial_time_s = side.list_time_s = side.close_time_s = 0.0


@asynccontextmanager
async def chaos(seed: int, folder: Path) -> AsyncIterator[Chaos]:
    rng = random.Random(seed)
    side = OtherSide()

    def make(spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
        hooks = LinkHooks(mesh.link_changed, lambda _: None, lambda _: None)
        return Link(spec, dials, own=OWN, hooks=hooks, rng=rng, dial=side.opened)

    async with Supervisor(make) as supervisor, asyncio.TaskGroup() as group:
        store = OverrideStore.open(folder)
        mesh = Mesh(
            own=OWN,
            supervisor=supervisor,
            store=store,
            statics=(),
            hooks=MeshHooks(lambda _: None, lambda _: None, lambda _: None, lambda _: None),
        )
        loop_task = group.create_task(mesh.run(), name="mesh")
        try:
            yield Chaos(rng, mesh, OverrideService(mesh, store, group), supervisor, side, group)
        finally:
            loop_task.cancel()


# The simulation runs a thousand times as many (tests/simulation), without children, listings that hang and reloads.
@pytest.mark.parametrize("seed", range(4))
async def test_after_any_chaos_everything_that_is_wanted_is_up_and_nothing_else_runs(seed: int, tmp_path: Path) -> None:
    async with chaos(seed, tmp_path) as world:
        world.weather()
        for _ in range(STEPS):
            await world.step()
        world.calm()
        await asyncio.sleep(QUIET_S)
        for view in world.mesh.views():
            if view.state is LinkState.PARKED:  # Only an operator gets a child out of there.
                await world.mesh.reload(view.spec.name, 10.0)
        await world.mesh.settled()
        wanted = {spec.key for spec in (*world.mesh.servers, *world.mesh.selection.peers)}
        assert {view.key for view in world.mesh.views()} == wanted
        assert [view for view in world.mesh.views() if not view.connected] == []
        assert len(world.supervisor._tasks) == len(wanted)
        assert len(world.side.clients) - world.side.closed == len(wanted)
        assert [task for task in asyncio.all_tasks() if task.get_name() in ("order", "reload")] == []
    assert len(world.side.clients) == world.side.closed
