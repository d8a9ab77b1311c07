"""Connections given to a worker: their descriptors, over a socket pair. What has come of them lies in its journal.

One end is the node's (`agent.workers.crew`), the other one its worker's (`agent.workers.process`). A message is one
connection. The one rule: what is given is a descriptor more, so that nothing is lost with a message.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# The place of the connection, how often it came back from workers, how many bytes have come.
_MESSAGE: Final = struct.Struct(">IHI")
# So many are taken in one turn of the event loop, so that calls under way go on.
_AT_ONCE_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Given:
    """A connection on its way. `number`: its place (`agent.workers.journal`); `returns`: how often it came back.

    `descriptor`: the node's, which stays open until it has arrived, or the worker's own; None where it has no more.
    `size`: of what was read of it and belongs to no request that was begun.
    """

    descriptor: int | None
    number: int
    returns: int
    size: int


class Passage:
    """The node's end. Its one writer is the event loop."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._waiting: deque[Given] = deque()
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Passage waiting={len(self._waiting)}>"

    def give(self, one: Given) -> None:
        """Send it as soon as there is room."""
        self._waiting.append(one)
        if len(self._waiting) == 1:
            self._send()

    def close(self) -> None:
        """End it, with what was not sent."""
        self._loop.remove_writer(self._end)
        self._end.close()
        self._waiting.clear()

    def _send(self) -> None:
        while self._waiting:
            one = self._waiting[0]
            try:
                message, given = _MESSAGE.pack(one.number, one.returns, one.size), one.descriptor
                assert given is not None, "the node has it"
                socket.send_fds(self._end, [message], [given])
            except BlockingIOError:
                self._loop.add_writer(self._end, self._writable)
                return
            except OSError:  # The other end is gone, as its feed says.
                return
            self._waiting.popleft()

    def _writable(self) -> None:
        self._loop.remove_writer(self._end)
        self._send()


class Arrivals:
    """The worker's end, read until the node's is gone. `received` gets each, with a descriptor that is its to close."""

    def __init__(self, end: socket.socket, received: Callable[[Given], None]) -> None:
        end.setblocking(False)
        self._end = end
        self._received = received
        asyncio.get_running_loop().add_reader(end, self._readable)

    def __repr__(self) -> str:
        return "<Arrivals>"

    def _readable(self) -> None:
        for _ in range(_AT_ONCE_MAX):
            try:
                message, descriptors, _, _ = socket.recv_fds(self._end, _MESSAGE.size, 1)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if len(message) != _MESSAGE.size:
                asyncio.get_running_loop().remove_reader(self._end)
                return
            self._received(Given(descriptors[0] if descriptors else None, *_MESSAGE.unpack(message)))


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
