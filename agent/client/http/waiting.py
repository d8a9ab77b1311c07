"""Which connections wait for an answer: the kernel asks soon whether their other end is still there, and of no others.

Kept by `agent.client.http.connection`, one for each event loop. A probe each second to all connections is two packets a
second for each of them, idle or not. The one rule: nothing is done for a request that is answered between two looks, as
nearly all are.
"""

import asyncio
import socket
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from agent.client.http.dial import keep_alive

# A connection that waits ends within 5 s all the same: its time is counted from the last word of the other side.
LOOK_EVERY_S: Final = 1.0

_OF_LOOPS: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, "Waiting"]()


def shared_waiting() -> "Waiting":
    """That of the running event loop."""
    loop = asyncio.get_running_loop()
    return _OF_LOOPS.get(loop) or _OF_LOOPS.setdefault(loop, Waiting())


class MayWait(Protocol):
    """A connection. `is_asked`: whether the kernel asks soon."""

    is_asked: bool

    @property
    def waits(self) -> bool:
        """Whether the other side owes an answer."""
        ...

    @property
    def sock(self) -> socket.socket | None:
        """None where it is over."""
        ...


class Waiting:
    """See the module. Sole writer: the event loop."""

    __slots__ = ("_connections", "_timer")

    def __init__(self) -> None:
        self._connections: set[MayWait] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Waiting {len(self._connections)} connections>"

    def add(self, connection: MayWait) -> None:
        """Look at it from now on."""
        self._connections.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def discard(self, connection: MayWait) -> None:
        """It is over."""
        self._connections.discard(connection)

    def _look(self) -> None:
        for connection in self._connections:
            waits = connection.waits
            if waits is not connection.is_asked and (sock := connection.sock) is not None:
                connection.is_asked = waits
                keep_alive(sock, waits=waits)
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look) if self._connections else None
