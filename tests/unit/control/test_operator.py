"""Operators' words that come at once: each is judged by what the one before it has come to."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.control.operator import OverrideService, Removal
from agent.control.reconciler import Mesh
from agent.control.tables import MeshHooks
from agent.errors import OverrideRefused
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.supervisor import Supervisor
from agent.model import BackendSpec, HttpTarget, Override
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Instance, InstanceKey
from tests.scripted_client import OWN, OtherSide

pytestmark = pytest.mark.looptime

KNOWN = Instance(InstanceKey("dc", "m", "plain"), "10.0.0.1", 8000)


async def outcome(work: Awaitable[Removal]) -> Removal | int:
    try:
        return await work
    except OverrideRefused as exc:
        return exc.status


@asynccontextmanager
async def ordered_mesh(folder: Path) -> AsyncIterator[tuple[Mesh, OverrideStore, OverrideService, asyncio.TaskGroup]]:
    side = OtherSide()

    def make(spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
        hooks = LinkHooks(mesh.link_changed, lambda _: None, lambda _: None)
        return Link(spec, dials, own=OWN, hooks=hooks, rng=random.Random(1), dial=side.opened)

    async with Supervisor(make) as supervisor, asyncio.TaskGroup() as group:
        store = OverrideStore.open(folder)
        hooks = MeshHooks(lambda _: None, lambda _: None, lambda _: None, lambda _: None)
        mesh = Mesh(own=OWN, supervisor=supervisor, store=store, statics=(), hooks=hooks)
        yield mesh, store, OverrideService(mesh, store, group), group


@pytest.mark.parametrize("undone", [OverrideService.remove, OverrideService.reset])
async def test_an_added_peer_that_is_removed_twice_at_once_leaves_what_discovery_knows(
    undone: Callable[[OverrideService, str], Awaitable[Removal]], tmp_path: Path
) -> None:
    async with ordered_mesh(tmp_path) as (mesh, store, orders, group):
        await store.put(Override("mine", HttpTarget("http://10.0.0.1:8000/mcp")))
        mesh.take_catalog(Catalog((KNOWN,)))
        await mesh.step()
        assert [view.spec.name for view in mesh.peer_views()] == ["mine"]
        removals = [group.create_task(outcome(undone(orders, "mine")), name="remove") for _ in range(2)]
        await asyncio.sleep(1)  # As long as a step takes that is busy with something else.
        loop_task = group.create_task(mesh.run(), name="mesh")
        first, second = [await removal for removal in removals]
        assert isinstance(first, Removal)
        assert (first.linked_as, second) == ("plain", 404)
        assert (store.overrides, store.suppressions) == ((), ())
        assert [view.spec.name for view in mesh.peer_views()] == ["plain"]
        loop_task.cancel()


async def test_removal_of_what_is_not_there_says_what_has_become_of_it(tmp_path: Path) -> None:
    async with ordered_mesh(tmp_path) as (mesh, _, orders, group):
        mesh.take_catalog(Catalog((KNOWN,)))
        await mesh.step()
        loop_task = group.create_task(mesh.run(), name="mesh")
        await orders.remove("plain")
        with pytest.raises(
            OverrideRefused, match=r"is kept away until it is added again or reset \(peers reset plain\)"
        ):
            await orders.remove("plain")
        await orders.reset("plain")
        mesh.take_catalog(Catalog())
        await mesh.settled()
        with pytest.raises(OverrideRefused, match="it has left, and discovery lists it no more"):
            await orders.remove("plain")
        with pytest.raises(OverrideRefused, match=r"named 'other'\.$"):
            await orders.remove("other")
        loop_task.cancel()
