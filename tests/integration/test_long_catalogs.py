"""A change of one of 5,000 instances, or of all of their links at once: how long it holds up the loop, and every call.

The parts are a node's own, in a process of their own, and processor time of the loop's thread counts. The one rule: the
better half of several changes is judged, and the best of a few tries, for other work of the machine makes each one
slower and none quicker.
"""

from collections.abc import Awaitable, Callable
from statistics import median_low

import pytest

from agent.model import LinkState
from bench.catalog_change import costs_of_changes
from bench.crowd_change import LOOK, costs_of_crowds
from tests.measured import measured

INSTANCES, CHANGES, ROUNDS = 5_000, 5, 2
# docs/reliability.md, what many peers cost; it is a third of that, the first change after a start included.
LONGEST_PIECE_MAX_S = 0.020
# Of a look at what all links list: so much is right while the machine's memory is slow.
LOOKS_MAX = 2.5
# Where caches and cores are shared, processor time itself is a multiple of what it is on a quiet machine, for a while:
# with twenty busy processes on each core, the longest piece took 16 ms in the better one of two rounds, and 38 before.
TRIES = 4


@pytest.mark.timeout(480)
@pytest.mark.parametrize("state", [LinkState.BACKOFF, LinkState.READY])
async def test_a_change_of_one_of_5000_instances_holds_up_the_event_loop_for_20_ms_at_most(state: LinkState) -> None:
    async def longest_s() -> dict[str, float]:
        costs = await costs_of_changes(INSTANCES, CHANGES, state)
        assert len(costs) == CHANGES
        return {"a change": median_low(cost.longest_s for cost in costs)}

    found = await least(longest_s)
    assert max(found.values()) <= LONGEST_PIECE_MAX_S, found


@pytest.mark.timeout(600)
async def test_5000_links_that_go_down_or_come_up_at_once_hold_up_the_event_loop_for_20_ms_at_most() -> None:
    async def longest_s() -> dict[str, float]:
        costs = await costs_of_crowds(INSTANCES, ROUNDS)
        longest = {name: median_low(cost.longest_s for cost in found) for name, found in costs.items()}
        look_s = longest.pop(LOOK)
        measured(f"a look at what {INSTANCES:,} links list: {1000 * look_s:.0f} ms")
        slowness = max(1.0, LOOKS_MAX * look_s / LONGEST_PIECE_MAX_S)
        return {name: one_s / slowness for name, one_s in longest.items()}

    found = await least(longest_s)
    said = ", ".join(f"{name} {1000 * one_s:.0f} ms" for name, one_s in found.items())
    measured(f"{INSTANCES:,} links at once, the longest piece of work in the loop, by a machine as usual: {said}")
    assert max(found.values()) <= LONGEST_PIECE_MAX_S, found


async def least(measure: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
    """The least of each figure, of as many tries as are needed to keep all within the limit."""
    found: dict[str, float] = {}
    for _ in range(TRIES):
        found = {name: min(one_s, found.get(name, one_s)) for name, one_s in (await measure()).items()}
        if max(found.values()) <= LONGEST_PIECE_MAX_S:
            break
    return found
