"""Ports for the servers that tests start: free ones, and never the same for two processes of tests.

Each process that imports this has a range of its own while it lives: a socket that holds the range's first port
says so to all others, and the kernel takes that word back when the process ends, however it ends. The one rule: a port
is given out once, and then only again after the whole rest of the range.
"""

import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# Below the range from which the kernel gives out ports for connections, above the ports that are anyone's defaults.
FIRST, LAST = 10_000, 32_000
RANGE_PORTS = 200


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
    for first in range(FIRST, LAST, RANGE_PORTS):
        if guard := _hold(socket.SOCK_STREAM, first):
            return guard, range(first + 1, first + RANGE_PORTS)
    raise RuntimeError("no free range of ports")


# On import, so that no test is blamed for the descriptor.
_GUARD, _RANGE = _guarded_range()
_GUARD.detach()  # Open to the end of the process: a socket object would be warned of there.
_PORTS = itertools.cycle(_RANGE)


def free_port() -> int:
    """A port that no program listens on, by TCP or UDP: Consul's gossip needs both."""
    for port in itertools.islice(_PORTS, len(_RANGE)):
        if _is_free(port):
            return port
    raise RuntimeError("no free port")


def _is_free(port: int) -> bool:
    held = [_hold(kind, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    for one in held:
        if one is not None:
            one.close()
    return all(held)


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    return [free_port() for _ in range(count)]


@contextmanager
def many_ports(count: int) -> Iterator[list[int]]:
    """More than one range has; no other process is given them while the context lasts."""
    with ExitStack() as guards:
        found: list[int] = []
        while len(found) < count:
            guard, ports = _guarded_range()
            guards.enter_context(guard)
            found += filter(_is_free, ports)
        yield found[:count]
