"""Cores of a part of their strength, by the kernel's quota of processor time (cgroup v1's `cpu` controller, as root).

Processes that have a core each are measured so where there are no more cores than processes: each gets the same part of
one, and what is left over is enough for the load and the servers, which then take nothing from them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

SHARE: Final = 0.4
# Short, so that a process that has used its part up goes on soon.
PERIOD_US: Final = 10_000
_CONTROLLER: Final = Path("/sys/fs/cgroup/cpu")


def why_not() -> str:
    """What is missing; empty: nothing."""
    if not (_CONTROLLER / "cpu.cfs_quota_us").exists():
        return f"there is no cgroup v1 at {_CONTROLLER}"
    return "" if os.access(_CONTROLLER, os.W_OK) else f"{_CONTROLLER} may not be written to"


@contextmanager
def a_part_each(pids: Sequence[int]) -> Iterator[None]:
    """Let each of these processes use `SHARE` of one core at most."""
    with ExitStack() as stack:
        for pid in pids:
            stack.enter_context(_limited(pid))
        yield


@contextmanager
def _limited(pid: int) -> Iterator[None]:
    group = _CONTROLLER / f"mesh-bench-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(SHARE * PERIOD_US)))
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield
        finally:
            (_CONTROLLER / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()
