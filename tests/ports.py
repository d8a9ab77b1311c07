"""Ports for the servers that tests and benchmarks start: free ones, and never the same for two processes.

Each process that imports this, or is copied by tests/copied_workers.py, has ranges of its own while it lives: a socket
that holds a range's first port says so to all others, and the kernel takes that word back when the process ends,
however it ends. The one rule: a port is given out once, and then only again after all the rest. No other file chooses
ports (tests/unit/project/test_ports.py): one that does chooses those of another process, which are not in use yet.
"""

import importlib
import itertools
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Above the ports that are anyone's defaults.
FIRST, LAST = 10_000, 65_535
RANGE_PORTS = 200
# Of one process: a crowd of servers takes 120 ports, and for a minute after it most of them linger.
OWN_RANGES = 3
# From these the kernel gives one to each connection, and to each server that names none: first and last.
GIVEN_BY_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUALLY_GIVEN = (32_768, 60_999)


def ranges_beside(first: int, last: int) -> list[int]:
    """The first ports of all ranges; those come last that the kernel gives ports of, from `first` to `last`."""
    ranges = range(FIRST, LAST - RANGE_PORTS + 1, RANGE_PORTS)
    return sorted(ranges, key=lambda port: first < port + RANGE_PORTS and port <= last)


def _given_by_kernel() -> tuple[int, int]:
    try:
        first, last = map(int, GIVEN_BY_KERNEL.read_text().split())
    except OSError:
        return USUALLY_GIVEN
    return first, last


def _hold(kind: socket.SocketKind, port: int) -> socket.socket | None:
    # Without SO_REUSEADDR: a port whose last connections linger is passed over.
    held = socket.socket(socket.AF_INET, kind)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        return None
    return held


def _guarded_range() -> tuple[socket.socket, range]:
    for first in ranges_beside(*_given_by_kernel()):
        if guard := _hold(socket.SOCK_STREAM, first):
            return guard, range(first + 1, first + RANGE_PORTS)
    raise RuntimeError("no free range of ports")


# On import, so that no test is blamed for the descriptor.
_GUARDED = [_guarded_range() for _ in range(OWN_RANGES)]
OWN_PORTS = tuple(port for _, ports in _GUARDED for port in ports)
# Open to the end of the process: socket objects would be warned of there.
_GUARDS = {guard.detach(): inode for guard, inode in [(one, os.fstat(one.fileno()).st_ino) for one, _ in _GUARDED]}
_PORTS = itertools.cycle(OWN_PORTS)


def begin_anew() -> None:
    """In a copy of a process that has imported this: leave its ranges to it, and have others."""
    for number in _GUARDS:
        os.close(number)
    importlib.reload(sys.modules[__name__])


def is_guarded() -> bool:
    """Whether this process still holds its ranges, as it has to until it ends."""
    try:
        return all(os.fstat(number).st_ino == inode for number, inode in _GUARDS.items())
    except OSError:
        return False


def free_port() -> int:
    """A port that no program listens on, by TCP or UDP: Consul's gossip needs both."""
    return free_ports(1)[0]


def is_free(port: int) -> bool:
    """Whether a program could listen on it now."""
    held = [_hold(kind, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    for one in held:
        if one is not None:
            one.close()
    return all(held)


def free_ports(count: int) -> list[int]:
    """So many different ones. Once round all of them is enough: after that they would come again."""
    free = filter(is_free, itertools.islice(_PORTS, len(OWN_PORTS)))
    found = list(itertools.islice(free, count))
    if len(found) < count:
        raise RuntimeError(f"{count} ports were wanted, and {len(found)} are free; `many_ports` has more")
    return found


@contextmanager
def many_ports(count: int) -> Iterator[list[int]]:
    """More than a process has; no other one is given them while the context lasts."""
    with ExitStack() as guards:
        found: list[int] = []
        while len(found) < count:
            guard, ports = _guarded_range()
            guards.enter_context(guard)
            found += filter(is_free, ports)
        yield found[:count]
