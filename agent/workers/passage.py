"""Connections given from one process to another: their descriptors and the bytes that have come, over a socket pair.

One end is the node's (`agent.workers.crew`), the other one its worker's (`agent.workers.process`). A message is one
connection; what is too long for a message lies in a file without a name, whose descriptor comes along. The one rule: a
connection that was given is kept here until the other side has it, so none is lost between the two.
"""

import asyncio
import os
import socket
import struct
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

# The number of the connection, how often it came back from workers, the bytes that have come.
_HEAD: Final = struct.Struct(">QHI")
# Less than what a socket pair holds of one message on any Linux.
INLINE_BYTES_MAX: Final = 32 << 10
_DESCRIPTORS_MAX: Final = 2
# So many are taken in one turn of the event loop, so that calls under way go on.
_AT_ONCE_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Given:
    """A connection on its way. `number`: its name between the processes; `returns`: how often it came back."""

    descriptor: int
    number: int
    returns: int
    data: bytes


class Passage:
    """One end. `received` gets each connection with a descriptor that is its to close; `lost`: the other end is gone.

    Its one writer is the event loop. After `lost`, `close` returns what was not sent.
    """

    def __init__(self, end: socket.socket, received: Callable[[Given], None], lost: Callable[[], None]) -> None:
        end.setblocking(False)
        self._end = end
        self._received = received
        self._lost = lost
        self._waiting: deque[Given] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._readable)

    def __repr__(self) -> str:
        return f"<Passage waiting={len(self._waiting)}>"

    @property
    def is_sending(self) -> bool:
        """Whether some are not sent yet."""
        return bool(self._waiting)

    def give(self, one: Given) -> None:
        """Send it as soon as there is room; its descriptor is this end's to close from now on."""
        self._waiting.append(one)
        if len(self._waiting) == 1:
            self._send()

    def close(self) -> list[Given]:
        """Take what has come, end it, and return what was not sent: its descriptors are the caller's again."""
        if self._end.fileno() >= 0:
            with suppress(OSError):
                while (one := _receive_one(self._end)) is not None:
                    self._received(one)
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._end.close()
        unsent = list(self._waiting)
        self._waiting.clear()
        return unsent

    def _send(self) -> None:
        while self._waiting:
            try:
                _send_one(self._end, self._waiting[0])
            except BlockingIOError:
                self._loop.add_writer(self._end, self._writable)
                return
            except OSError:
                self._lost()
                return
            os.close(self._waiting.popleft().descriptor)

    def _writable(self) -> None:
        self._loop.remove_writer(self._end)
        self._send()

    def _readable(self) -> None:
        for _ in range(_AT_ONCE_MAX):
            try:
                one = _receive_one(self._end)
            except BlockingIOError:
                return
            except OSError:
                one = None
            if one is None:
                self._loop.remove_reader(self._end)
                self._lost()
                return
            self._received(one)
            if self._end.fileno() < 0:  # Closed by what was received.
                return


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _send_one(end: socket.socket, one: Given) -> None:
    head, data, descriptors = _HEAD.pack(one.number, one.returns, len(one.data)), one.data, [one.descriptor]
    if len(data) <= INLINE_BYTES_MAX:
        socket.send_fds(end, [head, data], descriptors)
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        socket.send_fds(end, [head], [*descriptors, file.fileno()])


def _receive_one(end: socket.socket) -> Given | None:
    """The next one; None at the end. Raises `BlockingIOError`."""
    message, descriptors, _, _ = socket.recv_fds(end, _HEAD.size + INLINE_BYTES_MAX, _DESCRIPTORS_MAX)
    if len(message) < _HEAD.size or not descriptors:
        for descriptor in descriptors:
            os.close(descriptor)
        if message:
            raise OSError("a message without a connection")
        return None
    number, returns, length = _HEAD.unpack_from(message)
    data = message[_HEAD.size :]
    for file in descriptors[1:]:
        with suppress(OSError):
            data = os.pread(file, length, 0)
        os.close(file)
    return Given(descriptors[0], number, returns, data)
