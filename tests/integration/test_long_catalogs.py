"""A change of one of 5,000 instances: how long it holds up the event loop, and with it every call.

The parts are a node's own, in a process of their own, and processor time of the loop's thread counts. The one rule: the
better half of several changes is judged, for other work of the machine makes each one slower and none quicker.
"""

from statistics import median_low

import pytest

from agent.model import LinkState
from bench.catalog_change import costs_of_changes

INSTANCES, CHANGES = 5_000, 5
# docs/reliability.md, what many peers cost; it is a third of that, the first change after a start included.
LONGEST_PIECE_MAX_S = 0.020


@pytest.mark.timeout(120)
@pytest.mark.parametrize("state", [LinkState.BACKOFF, LinkState.READY])
async def test_a_change_of_one_of_5000_instances_holds_up_the_event_loop_for_20_ms_at_most(state: LinkState) -> None:
    costs = await costs_of_changes(INSTANCES, CHANGES, state)
    assert len(costs) == CHANGES
    assert median_low(cost.longest_s for cost in costs) <= LONGEST_PIECE_MAX_S, costs
