"""How long to wait after a failure. PURE: the caller draws the random number.

Called by the watch and by the registration loop. The one rule: full jitter, for ever; the delay is drawn from the whole
range below the step, so that many nodes that lost one Consul do not come back in step.
"""

FIRST_STEP_S = 0.25  # design: 250 ms doubling to 30 s, full jitter
LAST_STEP_S = 30.0
# A restarted agent is back within seconds, and a refused connection costs nobody anything: while an outage is young,
# steps stop growing here, so that a node is back in the mesh within 2 s of its agent.
YOUNG_STEP_S = 2.0
YOUNG_OUTAGE_S = 60.0


def step_s(attempt: int, *, last_step_s: float = LAST_STEP_S) -> float:
    """The back-off step of the n-th failure in a row (1 is the first), in seconds."""
    return min(last_step_s, FIRST_STEP_S * 2.0 ** min(attempt - 1, 20))


def delay_s(attempt: int, draw: float, *, last_step_s: float = LAST_STEP_S) -> float:
    """The delay before the next attempt; `draw` is uniform in [0, 1)."""
    return step_s(attempt, last_step_s=last_step_s) * draw


def last_step_for(*, unreachable: bool, outage_s: float) -> float:
    """How far the steps may grow: little while an agent that cannot be reached at all may just be restarting."""
    return YOUNG_STEP_S if unreachable and outage_s < YOUNG_OUTAGE_S else LAST_STEP_S
