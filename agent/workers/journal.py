"""What a worker has taken from its connections, in memory that it shares with its node, so that nothing ends with it.

Made by the node for each worker (`agent.workers.crew`), which keeps a descriptor of every connection that it gave away.
The worker receives requests right into its journal, and notes where each begins before it serves it, and how long its
answer is before it writes it. The kernel counts what was read from a connection and written to it by any process,
and still has these counts when the worker is dead. The one rule: whatever instruction a worker is killed at, what it
left is known exactly, or said to be unknown.
"""

import asyncio
import fcntl
import mmap
import os
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from agent.server.fast_path.connection import HELD_BYTES_MAX

# A worker with so many connections gets no more; memory is taken as it is used, 8 KiB for one with small requests.
PLACES: Final = 4096
# A request lies in one half while what follows it comes into the other. Held here is less than comes into a half.
_NOTES_BYTES: Final = 128
_HALF_BYTES: Final = HELD_BYTES_MAX + mmap.PAGESIZE
_PLACE_BYTES: Final = 2 * _HALF_BYTES
ROOM_BYTES: Final = _HALF_BYTES - _NOTES_BYTES
# The state of the connection, the bytes that its other side has acknowledged, those received (linux/tcp.h, Linux 4.1).
_INFO: Final = struct.Struct("=B119xQQ")
_TCP_INFO: Final = 11
_ESTABLISHED: Final = 1
_COUNTED_AGAIN_MAX: Final = 100


class Counts(NamedTuple):
    """Bytes since a connection began: read from it, and written to it."""

    read: int
    written: int


def counts_of(sock: socket.socket) -> Counts | None:
    """Those of now; None where its other side has begun to end it, or the kernel does not tell."""
    try:
        for _ in range(_COUNTED_AGAIN_MAX):
            info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size)
            unread, unsent = _count(sock, termios.FIONREAD), _count(sock, termios.TIOCOUTQ)
            state, acknowledged, received = _INFO.unpack(info)
            if state != _ESTABLISHED or not received:
                return None
            if info[-16:] == sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size)[-16:]:
                return Counts(received - unread, acknowledged + unsent)
    except (OSError, struct.error):
        pass
    return None


def _count(sock: socket.socket, what: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), what, bytes(4)))[0])


class Note(NamedTuple):
    """The request that a worker began last, by the counts of its connection.

    It was read from `start` on, in `length` bytes. `rest`: the half that what follows it comes into. It was written
    `before` bytes, and as far as `goal` when its answer is out; 0 as long as that is unknown.
    """

    start: int
    length: int
    rest: int
    before: int
    goal: int


_NOTE: Final = struct.Struct("=5Q")
# The first word of a place says which of its two notes counts.
_NOTE_WORDS: Final = 5
_GOAL_WORD: Final = 4
_WORD_BYTES: Final = 8


class Left(NamedTuple):
    """What a connection had come to: the bytes that are to be served; whether their first request may be executed."""

    data: bytes
    may_be_executed: bool


def judged(note: Note, counts: Counts) -> tuple[int, bool] | None:
    """How many bytes follow the noted request, and whether it is answered; None where that is unknown."""
    more = counts.read - note.start - note.length
    if not 0 <= more <= ROOM_BYTES:
        return None
    if note.goal and counts.written == note.goal:
        return more, True
    return (more, False) if note.length and counts.written == note.before else None


class Journal:
    """The node's side. Its one writer, of places that no worker has, is the event loop."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self.fd: Final = os.memfd_create("journal", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, PLACES * _PLACE_BYTES)
            self._memory = mmap.mmap(self.fd, 0)
        except OSError:
            os.close(self.fd)
            raise
        self._free: list[int] = []
        self._used = 0

    def __repr__(self) -> str:
        return f"<Journal {self._used - len(self._free)} places>"

    @property
    def has_room(self) -> bool:
        """Whether there is another place."""
        return bool(self._free) or self._used < PLACES

    def take(self, descriptor: int, data: bytes) -> tuple[int, socket.socket] | None:
        """Take a place for a connection that was read up to the end of `data`, and has nothing left to write.

        Returns it with a descriptor more, so that no end of the worker closes the connection. None where there is none,
        and where the kernel does not count: nothing would be known of the connection afterwards.
        """
        try:
            sock = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            return None
        if (counts := counts_of(sock)) is None:
            sock.close()
            return None
        if self._free:
            number = self._free.pop()
        else:
            number, self._used = self._used, self._used + 1
        memory, first, at = self._memory, number * _PLACE_BYTES, _part(number, 0)
        memory[at : at + len(data)] = data
        start, written = counts.read - len(data), counts.written
        _NOTE.pack_into(memory, first + _WORD_BYTES, start, 0, 0, written, written)
        memory[first] = 0
        return number, sock

    def left(self, number: int, sock: socket.socket) -> Left | None:
        """What the connection of this place, which nothing reads and writes any more, has come to; None: unknown."""
        counts, note = counts_of(sock), _note(self._memory, number)
        if counts is None or (found := judged(note, counts)) is None:
            return None
        more, is_answered = found
        data = self._read(number, note.rest, more)
        return Left(data, False) if is_answered else Left(self._read(number, 1 - note.rest, note.length) + data, True)

    def give_back(self, number: int) -> None:
        """Free a place, and its memory."""
        with suppress(OSError):  # Where the system cannot free a part, it is used again as it is.
            self._memory.madvise(mmap.MADV_REMOVE, number * _PLACE_BYTES, _PLACE_BYTES)
        self._free.append(number)

    def close(self) -> None:
        """Free all of it."""
        self._memory.close()
        os.close(self.fd)

    def _read(self, number: int, half: int, length: int) -> bytes:
        at = _part(number, half)
        return self._memory[at : at + length]


class Place:
    """The worker's side, of one connection. Its one writer is the event loop of the worker.

    `room`: where the next bytes come, after the first `filled`, which no request was begun with; `end`: of the request
    that was begun last; `goal`: as in its note.
    """

    __slots__ = (
        "_first",
        "_half",
        "_memory",
        "_parts",
        "_put",
        "_which",
        "_words",
        "before",
        "end",
        "filled",
        "goal",
        "room",
    )

    def __init__(self, memory: mmap.mmap, number: int, put: Callable[[asyncio.WriteTransport, bytes], None]) -> None:
        """`put`: how answers are written."""
        view, note = memoryview(memory), _note(memory, number)
        self._memory, self._put = memory, put
        self._first = first = number * _PLACE_BYTES
        self._words = view[first : first + _NOTES_BYTES].cast("Q")
        self._parts = [view[at : at + ROOM_BYTES] for at in (_part(number, 0), _part(number, 1))]
        self._which, self._half = memory[first], note.rest
        self.room, self.filled = self._parts[note.rest], 0
        self.end, self.before, self.goal = note.start + note.length, note.before, note.goal

    def __repr__(self) -> str:
        return f"<Place {self.filled} bytes>"

    def begin(self) -> bool:
        """Note that all that has come is one request, which is served from now on; False: it must not be."""
        if not self.goal:
            return False
        half, self.before, size = self._half, self.goal, self.filled
        self._which = which = 1 - self._which
        at = self._first + _WORD_BYTES * (1 + which * _NOTE_WORDS)
        _NOTE.pack_into(self._memory, at, self.end, size, 1 - half, self.goal, 0)
        self._memory[self._first] = which
        self.end, self.goal, self.filled = self.end + size, 0, 0
        self._half, self.room = 1 - half, self._parts[1 - half]
        return True

    def write(self, transport: asyncio.WriteTransport, whole: bytes) -> None:
        """Write the answer to the request that was begun last."""
        self.goal = self._words[1 + self._which * _NOTE_WORDS + _GOAL_WORD] = self.before + len(whole)
        self._put(transport, whole)

    def wrote(self, size: int) -> None:
        """Note that the answer to that request, which was written otherwise, has ended and has so many bytes."""
        self.goal = self._words[1 + self._which * _NOTE_WORDS + _GOAL_WORD] = self.before + size


def _note(memory: mmap.mmap, number: int) -> Note:
    first = number * _PLACE_BYTES
    return Note._make(_NOTE.unpack_from(memory, first + _WORD_BYTES * (1 + memory[first] * _NOTE_WORDS)))


def _part(number: int, half: int) -> int:
    return number * _PLACE_BYTES + half * _HALF_BYTES + _NOTES_BYTES
