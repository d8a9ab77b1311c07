"""What joins and leaves, and the largest legal request, leave behind in a real node's memory, and what it takes.

Both are measured as `make bench ARGS=churn` does it. The one rule: only the first rounds, which fill the node's caches,
have a bound of their own.
"""

import sys
from typing import Any

import pytest

from bench.churn import BODY_BYTES, BODY_GOAL_MB, GROWTH_GOAL_MB, body_peaks, churned
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
RECORD = {"id": 123_456, "name": "somebody 123456", "value": 1.5}


async def test_memory_does_not_grow_with_hundreds_of_joins_and_leaves_twice_in_a_row() -> None:
    first, second, *grown = await churned(STUBS, rounds=4, joins=JOINS)
    said = ", ".join(f"{mb:.1f}" for mb in grown)
    measured(f"{JOINS:,} joins and leaves: {first:.1f} and {second:.1f} MB more in the first rounds, then {said} MB")
    assert first + second < FIRST_MB
    assert len(grown) == 2
    assert max(grown) < GROWTH_GOAL_MB


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # The client's own care.
async def test_the_largest_legal_body_costs_less_than_sixteen_megabytes_whatever_it_holds() -> None:
    kinds = largest()
    peaks = dict(zip(kinds, await body_peaks(kinds.values()), strict=True))
    said = ", ".join(f"{mb:.1f} MB for {name}" for name, mb in peaks.items())
    measured(f"bodies of 4 MB, peak above what the node held: {said}")
    assert max(peaks.values()) < BODY_GOAL_MB


def largest() -> dict[str, Any]:
    """What fills the largest legal body."""
    deep: list[Any] = []
    for _ in range(240):
        deep = [deep]
    return {
        "a text": "x" * BODY_BYTES,
        "a text of emojis": "\U0001f600" * (BODY_BYTES // 4),
        "records": [RECORD] * 72_000,
        "200,000 objects": [{"a": 1}] * 200_000,
        "as many objects as fit": [{"a": 1}] * (BODY_BYTES // 8),
        "a million numbers": [123] * 1_000_000,
        "as many lists as fit": [[]] * (BODY_BYTES // 3),
        "deep lists": [deep] * 8_000,
    }
