"""Faults of the network and of processes that a seed draws, on real nodes; `make chaos` draws more, and for longer."""

import random
from pathlib import Path

import pytest

from tests.chaos.journal_server import WRITE
from tests.chaos.load import steady_load
from tests.chaos.seeded import HEALED_WITHIN_S, proxied_mesh, reads_failed
from tests.measured import measured
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# Long enough that the link is down and backs off; `make chaos` waits longer.
LASTS_S = 5.0
RESETS = 4
DOWN = "MCP link down"
SELECTION = ("reset", "packets to it are lost", "connections refused")


async def test_faults_of_the_network_cost_no_read_double_no_write_and_heal_soon(tmp_path: Path) -> None:
    async with proxied_mesh(tmp_path, random.Random(1)) as chaos:
        async with steady_load(chaos.front) as books:
            await books.grows(50)
            for fault in SELECTION:
                await chaos.strike(books, fault, LASTS_S if "lost" in fault else 0.5)
        await eventually(chaos.is_quiet)
    measured("; ".join(f"{one.fault} for {one.lasted_s:g} s: healed in {one.healed_s:.1f} s" for one in chaos.struck))
    measured(f"failed {len(books.failed())} of {len(books.ended)} calls")
    assert not books.compare(*(one.server for one in chaos.replicas))
    assert not reads_failed(chaos, books)
    assert all(one.healed_s < HEALED_WITHIN_S for one in chaos.struck), chaos.struck


async def test_connections_of_the_only_replica_that_lives_are_reset_and_no_read_is_lost(tmp_path: Path) -> None:
    async with proxied_mesh(tmp_path, random.Random(1)) as chaos:
        dead, alive = chaos.replicas

        async def is_alone() -> bool:
            return not (await chaos.front.peers())[dead.name]["connected"]

        # All start together: the front may have dialled one in vain that was not there yet.
        before = len(chaos.front.events(DOWN))
        async with steady_load(chaos.front) as books:
            await books.grows(50)
            dead.node.kill()
            await eventually(is_alone)
            await books.grows(50)
            for _ in range(RESETS):
                alive.server.when_busy(alive.to.reset)
                await books.grows(50)
            down = {one["backend"] for one in chaos.front.events(DOWN)[before:]}
        await eventually(chaos.is_quiet)
    cut_off = len(books.failed(WRITE))
    measured(f"{RESETS} times all connections were reset: {len(books.ended)} calls, {cut_off} writes were cut off")
    assert not books.compare(*(one.server for one in chaos.replicas))
    assert cut_off
    assert not reads_failed(chaos, books)
    assert down == {f"peer:{dead.name}"}, "a reset connection says nothing of the other side"
