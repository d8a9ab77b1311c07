"""How many descriptors this process may have: as many as the system lets it, which no child inherits; and their lack.

Called at the start of a node, for each child that is started, and where a connection or a child could not be made. The
one rule: children keep the limit that we were started with, for programs that use `select` break with descriptors
beyond 1,024.
"""

import errno
import logging
import resource
import time
from contextlib import suppress
from typing import Final

log = logging.getLogger(__name__)

# What repeats itself is said so often.
SAID_EVERY_S: Final = 60.0

_SHORT: Final = {
    errno.EMFILE: "this node is out of file descriptors",
    errno.ENFILE: "this machine is out of file descriptors",
    errno.ENOMEM: "this machine is out of memory",
    errno.ENOBUFS: "this machine is out of buffers",
    errno.EADDRNOTAVAIL: "this machine has no local port left",
}
_FIXES: Final = {
    errno.EMFILE: "raise `ulimit -n`, or LimitNOFILE of its service",
    errno.ENFILE: "raise fs.file-max",
    errno.EADDRNOTAVAIL: "widen net.ipv4.ip_local_port_range",
}
_given: list[tuple[int, int]] = []
_said_until_s: dict[str, float] = {}


def raise_limit() -> int:
    """Take all descriptors that there are for us; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # Forbidden by the system's own limit, or by a sandbox.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _given[:] = [(soft, hard)]
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def shortage(failure: BaseException | None) -> str:
    """What this node lacks that made an operation fail; empty where the failure is of another kind."""
    return _SHORT.get(failure.errno or 0, "") if isinstance(failure, OSError) else ""


def said_shortage(failure: OSError, *, fork: bool = False) -> str:
    """The same with its fix, for operators, and in the log now and then. `fork`: it was a process to be started."""
    if not (lack := shortage(failure)):
        lack = "this node may start no more processes" if fork and failure.errno == errno.EAGAIN else ""
    if not lack:
        return ""
    fix, now_s = _FIXES.get(failure.errno or 0, ""), time.monotonic()
    if now_s >= _said_until_s.get(lack, 0.0):
        _said_until_s[lack] = now_s + SAID_EVERY_S
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        log.error("this node lacks what it needs", extra={"reason": lack, "fix": fix, "descriptors_max": limit})
    return f"{lack}: {fix}" if fix else lack


def give_usual_limit(pid: int) -> None:
    """Let a child have the limit that we were started with."""
    if _given and hasattr(resource, "prlimit"):
        with suppress(OSError, ValueError):  # It has ended already.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _given[0])
