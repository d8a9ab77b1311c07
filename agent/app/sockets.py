"""The listening socket, bound before anything else starts, because the port decides which state folder is ours.

Called by the wiring. The one rule: a port that was asked for is used or refused, only the default may move on.
"""

import errno
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Final

from agent.errors import ConfigRefused

BACKLOG: Final = 1024
# The default port moves on by at most this many; with more nodes than that, ports are set.
PORTS_TRIED_MAX: Final = 100

# A client that vanished without a word (a cable, a laptop's lid) is noticed in 30 s, like one that reads nothing
# (`agent.server.write_deadline`): TCP may recover once. The options of dialled sockets (`agent.client.http.dial`), with
# more time: a phone that changes its network is not heard for seconds, and Linux takes a reader that takes nothing for
# one that is not heard, as another node may be whose own client reads slowly. Nodes are noticed by the links to them.
KEEPALIVE_IDLE_S: Final = 15
KEEPALIVE_INTERVAL_S: Final = 5
KEEPALIVE_PROBES: Final = 3
USER_TIMEOUT_MS: Final = 30_000

# What the resolver answers: family, type, protocol, canonical name, address.
AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


@contextmanager
def bound_socket(host: str, port: int, *, explicit: bool) -> Generator[socket.socket, None, None]:
    """Yield a bound, listening socket. Raises `ConfigRefused` naming the setting and the fix."""
    ports = [port] if explicit else range(port, min(port + PORTS_TRIED_MAX, 65_536))
    for candidate in ports:
        try:
            bound = _bind(host, candidate)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE and not explicit:
                continue
            raise ConfigRefused(_why_not(host, candidate, exc)) from exc
        with bound:
            yield bound
        return
    raise ConfigRefused(f"PORT: no free port from {port} on; set PORT to a free one")


def listened_host(bound: socket.socket, host: str) -> str:
    """The host to register for what is listened on: a name that means this machine alone becomes the one address.

    Other names stay, for they may mean more to others than the address does.
    """
    address = str(bound.getsockname()[0])
    return address if ip_address(address).is_loopback else host


def display_host(bind_host: str) -> str:
    """The host of a URL for use on this machine."""
    if bind_host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{bind_host}]" if ":" in bind_host else bind_host


def _bind(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = preferred(found)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_vanished_clients(bound)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def _notice_vanished_clients(bound: socket.socket) -> None:
    """Accepted sockets take these options over from the listening one; those that the platform lacks are left out."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            bound.setsockopt(socket.IPPROTO_TCP, option, value)


def preferred(found: Sequence[AddressInfo]) -> AddressInfo:
    """The address to listen on when a name gives several: IPv4 first, which `localhost` means to most clients."""
    return min(found, key=lambda info: info[0] != socket.AF_INET)


def _why_not(host: str, port: int, exc: OSError) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return f"PORT: {port} is in use on {host}; stop what uses it or set PORT to a free one"
        case errno.EACCES:
            return f"PORT: {port} needs rights that this user does not have; set PORT to 1024 or more"
        case errno.EADDRNOTAVAIL:
            return f"HOST: {host} is no address of this machine; set HOST to one that is, or 0.0.0.0"
        case _:
            return f"HOST and PORT: cannot listen on {host}:{port}: {exc.strerror or exc}"
