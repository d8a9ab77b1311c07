"""What joins and leaves leave behind in a real node's memory, measured as `make bench ARGS=churn` does it.

The interpreter gets memory in steps of 1 MB, and how many of them it holds in the end depends on how much is under way
at once, which other work on the machine decides: a round that takes too much is taken again with a new node. What each
link leaves behind would be there each time. The one rule: no round is excused, nor the first one, in which half of the
peers are new to the node.
"""

import sys

import pytest

from bench.churn import GROWTH_GOAL_MB, churned, passed_by
from tests.measured import least, measured

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(480),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

# As many peers as the benchmark has, and a fifth of its joins, which take two minutes: what each link left behind once
# would be 4 MB then.
JOINS, STUBS = 400, 200
# A part of the 2,000 of the benchmark: of each some KB, also of what caches know its address and node by; 3.2 to 5 MB,
# in one run 6.4. To the byte, `tests/unit/control/test_departures_memory.py` has it.
STRANGERS, STRANGERS_MB = 400, 8.0


async def test_memory_does_not_grow_with_hundreds_of_joins_and_leaves_twice_in_a_row() -> None:
    async def grown_mb() -> float:
        grown = await churned(STUBS, rounds=2, joins=JOINS)
        said = " and ".join(f"{mb:.1f}" for mb in grown)
        measured(f"{JOINS:,} joins and leaves, half of {STUBS} peers new in the first round: {said} MB more")
        assert len(grown) == 2
        return max(grown)

    assert await least(grown_mb, GROWTH_GOAL_MB) < GROWTH_GOAL_MB


async def test_peers_that_all_come_once_leave_little_behind() -> None:
    async def grown_mb() -> float:
        grown = await passed_by(STRANGERS)
        measured(f"{STRANGERS} different peers that came and left: {grown:.1f} MB more")
        return grown

    assert await least(grown_mb, STRANGERS_MB) < STRANGERS_MB
