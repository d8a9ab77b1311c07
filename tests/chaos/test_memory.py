"""What joins and leaves, and the largest legal request, leave behind in a real node's memory, and what it takes.

Both are measured as `make bench ARGS=churn` does it. The one rule: only the first rounds, which fill the node's caches,
have a bound of their own.
"""

import sys

import pytest

from agent.server.request import VALUES_MAX
from bench.churn import BODY_GOAL_MB, GROWTH_GOAL_MB, body_peaks, churned
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
# Of as many values as are read, and of 4 MB in records.
MANY_VALUES_MB = 64.0
RECORD = {"id": 123_456, "name": "somebody 123456", "value": 1.5}


async def test_memory_does_not_grow_with_hundreds_of_joins_and_leaves_twice_in_a_row() -> None:
    first, second, *grown = await churned(STUBS, rounds=4, joins=JOINS)
    said = ", ".join(f"{mb:.1f}" for mb in grown)
    measured(f"{JOINS:,} joins and leaves: {first:.1f} and {second:.1f} MB more in the first rounds, then {said} MB")
    assert first + second < FIRST_MB
    assert len(grown) == 2
    assert max(grown) < GROWTH_GOAL_MB


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # The client's own care.
async def test_the_largest_legal_body_costs_less_than_sixteen_megabytes() -> None:
    peaks = await body_peaks()
    measured(f"bodies of 4 MB: up to {max(peaks):.1f} MB above what the node held")
    assert max(peaks) < BODY_GOAL_MB


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # The client's own care.
async def test_no_legal_body_of_many_values_costs_more_than_sixty_four_megabytes() -> None:
    peaks = {}
    most = VALUES_MAX // 2 - 100  # Each has a comma and a bracket.
    for name, values in (("lists", [[]] * most), ("objects", [{"a": 1}] * most), ("records", [RECORD] * 70_000)):
        [peaks[name]] = await body_peaks(values, 1)
    said = ", ".join(f"{mb:.1f} MB for {name}" for name, mb in peaks.items())
    measured(f"bodies of as many values as are read: {said} above what the node held")
    assert max(peaks.values()) < MANY_VALUES_MB
