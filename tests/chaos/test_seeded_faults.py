"""Faults of the network and of processes that a seed draws, on real nodes; `make chaos` draws more, and for longer."""

import random
from pathlib import Path

import pytest

from tests.chaos.load import steady_load
from tests.chaos.seeded import HEALED_WITHIN_S, proxied_mesh, reads_failed
from tests.measured import measured
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# Long enough that the link is down and backs off; `make chaos` waits longer.
LASTS_S = 5.0
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
    assert not reads_failed(books)
    assert all(one.healed_s < HEALED_WITHIN_S for one in chaos.struck), chaos.struck
