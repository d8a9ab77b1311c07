"""Which core is whose: what is measured has the first one alone, the load and the servers behind have the others.

The one rule: this process goes first, so that what it starts stays off the first core unless it is put there.
"""

import os
from typing import Final

# In front of a command that is measured. Nothing on a machine with one core.
GATEWAY_CORE: Final = ("taskset", "-c", "0") if (os.cpu_count() or 1) > 1 else ()


def keep_to_other_cores() -> None:
    """Keep this process and all that it starts off the first core."""
    if (count := os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, range(1, count))
