"""How long to wait before the next dial.

Called by links; the random source is theirs. The one rule: waits grow to a cap and are spread at random, so that a
fleet that lost one peer does not come back in step.
"""

import math
from typing import TYPE_CHECKING, Final

from agent.model import LinkState

if TYPE_CHECKING:
    import random

    from agent.core.link_state import LinkStanding

# docs/architecture.md, faults: half a second hides a restart, 30 s is the longest that a returned peer goes unnoticed
# when no catalog announces it.
BASE_S: Final = 0.5
CAP_S: Final = 30.0
# A stdio child that keeps exiting costs a process start each time.
STDIO_CAP_S: Final = 60.0
SPLAY_MAX_S: Final = 5.0
SPLAY_ABOVE: Final = 50
# 2**64 half seconds exceed every cap; a larger exponent would only overflow the float.
_DOUBLINGS_MAX: Final = 64


def delay_s(
    attempt: int, rng: "random.Random", *, base_s: float = BASE_S, cap_s: float = CAP_S, retry_soon: bool = True
) -> float:
    """Seconds to wait after the `attempt`-th failure in a row (1 is the first).

    Doubling from `base_s` to `cap_s` with full jitter. Without `retry_soon` (authentication, protocol, identity) only
    an operator can help, so the wait is drawn from the upper half of `cap_s` at once.
    """
    assert attempt >= 1
    if not retry_soon:
        return rng.uniform(cap_s / 2, cap_s)
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX)))


def wait_s(standing: "LinkStanding", rng: "random.Random", *, retry_soon: bool) -> float:
    """Seconds until a link's next dial: none after a reload, and for ever while it is parked."""
    match standing.state:
        case LinkState.IDLE:
            return 0.0
        case LinkState.PARKED:
            return math.inf
    cap_s = STDIO_CAP_S if standing.is_child else CAP_S
    return delay_s(max(1, standing.attempts), rng, cap_s=cap_s, retry_soon=retry_soon)


def splay_s(due_count: int, rng: "random.Random") -> float:
    """Seconds to hold one of `due_count` first dials back: 0, or up to 5 when more than 50 are due at once."""
    return rng.uniform(0.0, SPLAY_MAX_S) if due_count > SPLAY_ABOVE else 0.0
