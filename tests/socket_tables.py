"""What the kernel says of sockets: who has a port of this machine, and what a descriptor that was left open leads to.

Called where a test was refused the port that it gave to a server, and where it left a socket behind. Neither should
happen, and the answer is the evidence of the one who looks into it later. Linux only; elsewhere nothing is found.
"""

import asyncio
import gc
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.ports import is_guarded

PROC = Path("/proc")
TABLES = ("tcp", "tcp6", "udp", "udp6")
# include/net/tcp_states.h of Linux; a UDP socket without a peer is "close".
STATES = (
    "established",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "close",
    "close-wait",
    "last-ack",
    "listen",
    "closing",
    "new-syn-recv",
)


@dataclass(frozen=True)
class Row:
    """One socket of a table."""

    table: str
    state: str
    local_port: int
    remote_port: int
    inode: str

    def __str__(self) -> str:
        return f"{self.table} {self.state} {self.local_port} to {self.remote_port}"


def who_has(port: int) -> str:
    """One line about the sockets of a port, and whether this process still holds its ranges of ports."""
    found = [f"{row} of {_owners(row.inode) or 'no process'}" for row in _rows() if row.local_port == port]
    # The kernel lists no socket that is bound, and neither listens nor is connected.
    sockets = "; ".join(found) or "no socket that the kernel lists"
    return f"port {port} has {sockets}; our ranges are {'held' if is_guarded() else 'NOT held any more'}"


def said_of(descriptor: str) -> str:
    """More about a descriptor of this process, "7 -> socket:[4711]": its connection, and what uses it."""
    if (found := re.fullmatch(r"(\d+) -> socket:\[(\d+)\]", descriptor)) is None:
        return descriptor
    rows = [str(row) for row in _rows() if row.inode == found[2]]
    users = [f"{one!r} for {one.get_protocol()!r}" for one in _transports() if _number_of(one) == int(found[1])]
    return ", ".join((descriptor, *rows, *users))


def _transports() -> list[asyncio.Transport]:
    return [one for one in gc.get_objects() if isinstance(one, asyncio.Transport)]


def _number_of(transport: asyncio.Transport) -> int:
    # Of a TLS connection that was closed twice, CPython has forgotten all; its socket has a transport of its own.
    sock = getattr(transport, "_sock", None)
    return -1 if sock is None else int(sock.fileno())


def _rows() -> Iterator[Row]:
    for table in TABLES:
        with suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                local, remote = (int(end.rpartition(":")[2], 16) for end in fields[1:3])
                yield Row(table, STATES[int(fields[3], 16) - 1], local, remote, fields[9])


def _owners(inode: str) -> str:
    found = []
    for process in PROC.glob("[0-9]*"):
        with suppress(OSError):  # It has ended, or is another user's.
            if any(str(one.readlink()) == f"socket:[{inode}]" for one in (process / "fd").iterdir()):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(f"{process.name} ({line})")
    return ", ".join(found)
