"""What joins and leaves leave behind in a real node's memory, and what the largest legal requests take of it.

They are measured as `make bench ARGS="churn bodies"` does it. The one rule: only the first rounds, which fill the
node's caches, have a bound of their own.
"""

import sys

import pytest

from bench.bodies import BODY_GOAL_MB, KINDS, body_peaks
from bench.churn import GROWTH_GOAL_MB, churned
from tests.measured import measured

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

# A quarter of the benchmark's, which takes two minutes: what links that ended once left behind would be 5 MB then.
JOINS = STUBS = 500
# More than that would be no cache any more: 500 links that were there at once, and all that is made once.
FIRST_MB = 24.0
# Read whole, the last four would take 40 to 190 MB, and the second one five bytes for each of its own.
WORST = (
    "a text",
    "a text with one emoji",
    "72,000 records",
    "500,000 objects",
    "1,400,000 empty arrays",
    "400,000 arguments",
)


async def test_memory_does_not_grow_with_hundreds_of_joins_and_leaves_twice_in_a_row() -> None:
    first, second, *grown = await churned(STUBS, rounds=4, joins=JOINS)
    said = ", ".join(f"{mb:.1f}" for mb in grown)
    measured(f"{JOINS:,} joins and leaves: {first:.1f} and {second:.1f} MB more in the first rounds, then {said} MB")
    assert first + second < FIRST_MB
    assert len(grown) == 2
    assert max(grown) < GROWTH_GOAL_MB


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # The client's own care.
@pytest.mark.parametrize(("era", "hops"), [("2026-07-28", 2), ("sessions", 1)])
async def test_no_legal_body_costs_a_node_on_its_way_more_than_sixteen_megabytes(era: str, hops: int) -> None:
    peaks = [max(peak) for peak in await body_peaks([KINDS[kind]() for kind in WORST], era=era, hops=hops)]
    said = ", ".join(f"{mb:.1f} MB for {kind}" for kind, mb in zip(WORST, peaks, strict=True))
    measured(f"bodies of 4 MB, one after the other, {era}, {hops} nodes: {said} above what each node held before it")
    assert max(peaks) < BODY_GOAL_MB, said
