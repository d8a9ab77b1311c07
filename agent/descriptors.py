"""How many descriptors this process may have: as many as the system lets it, which no child inherits.

Called once at the start of a node, and for each child that is started. The one rule: children keep the limit that we
were started with, for programs that use `select` break with descriptors beyond 1,024.
"""

import resource
from contextlib import suppress

_given: list[tuple[int, int]] = []


def raise_limit() -> int:
    """Take all descriptors that there are for us; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # Forbidden by the system's own limit, or by a sandbox.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _given[:] = [(soft, hard)]
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def give_usual_limit(pid: int) -> None:
    """Let a child have the limit that we were started with."""
    if _given and hasattr(resource, "prlimit"):
        with suppress(OSError, ValueError):  # It has ended already.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _given[0])
