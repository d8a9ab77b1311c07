"""What a worker leaves of a connection, at whatever instruction it is killed: known exactly, or said to be unknown."""

import mmap
import os
import random
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from agent.workers.journal import ROOM_BYTES, Counts, Journal, Left, Note, Place, judged

REQUEST, NEXT, ANSWER = b"POST /mcp and so on", b"POST /mcp again", b"HTTP/1.1 200 OK"


class _Connection:
    """One between a client and a worker, as the worker has it, and its node."""

    def __init__(self, journal: Journal, client: socket.socket, sock: socket.socket, given: bytes = b"") -> None:
        self.client, self.sock = client, sock
        # Nothing is given to a worker before it was read, and answered.
        client.sendall(b"first" + given)
        self._read(len(given) + 5)
        self.answer(b"answer")
        taken = journal.take(sock.fileno(), given)
        assert taken is not None
        self.number, self.kept = taken
        self.journal = journal
        self.place = Place(mmap.mmap(journal.fd, 0), self.number, self._put)
        self.place.filled = len(given)
        self.unwritten = b""

    def _read(self, size: int) -> None:
        while size:
            size -= len(self.sock.recv(size))

    def _put(self, _transport: object, whole: bytes) -> None:
        self.sock.sendall(whole[: len(whole) - len(self.unwritten)])

    def left(self) -> Left | None:
        return self.journal.left(self.number, self.kept)

    def receive(self, data: bytes) -> None:
        self.client.sendall(data)
        aim = self.place.filled + len(data)
        while self.place.filled < aim:
            self.place.filled += self.sock.recv_into(self.place.room[self.place.filled :], aim - self.place.filled)

    def write(self, whole: bytes) -> None:
        self.place.write(None, whole)  # type: ignore[arg-type]  # `put` does not look at it

    def answer(self, whole: bytes) -> None:
        """Not by the place."""
        self.sock.sendall(whole)
        assert self.client.recv(len(whole), socket.MSG_WAITALL) == whole

    def close(self) -> None:
        for sock in (self.client, self.sock, self.kept):
            sock.close()
        del self.place  # It refers to this, and holds the memory.


@pytest.fixture
def journal() -> Iterator[Journal]:
    with closing(Journal()) as made:
        yield made


@pytest.fixture
def connect(journal: Journal) -> Iterator[Callable[..., _Connection]]:
    made: list[_Connection] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def connect(given: bytes = b"") -> _Connection:
            client = socket.create_connection(listening.getsockname())
            sock, _ = listening.accept()
            for one in (client, sock):
                one.settimeout(20)
            made.append(_Connection(journal, client, sock, given))
            return made[-1]

        yield connect
        while made:
            made.pop().close()


Connect = Callable[..., _Connection]


@pytest.mark.parametrize("given", [b"", REQUEST])
def test_what_was_given_and_not_begun_is_left(connect: Connect, given: bytes) -> None:
    one = connect(given)
    assert one.left() == Left(given, False)
    one.receive(NEXT)
    assert one.left() == Left(given + NEXT, False)


def test_request_that_was_begun_may_be_executed_until_it_is_answered(connect: Connect) -> None:
    one = connect(REQUEST)
    for _ in range(3):
        assert one.place.begin()
        assert one.left() == Left(REQUEST, True)
        one.receive(NEXT)
        assert one.left() == Left(REQUEST + NEXT, True)
        one.write(ANSWER)
        assert one.left() == Left(NEXT, False)
        assert one.place.begin()
        assert one.left() == Left(NEXT, True)
        one.write(ANSWER * 100)
        assert one.left() == Left(b"", False)
        one.receive(REQUEST)


def test_bytes_that_were_not_read_stay_with_the_kernel(connect: Connect) -> None:
    one = connect()
    one.client.sendall(REQUEST)
    assert one.left() == Left(b"", False)
    assert one.kept.recv(100) == REQUEST


def test_answer_that_was_written_in_part_is_unknown(connect: Connect) -> None:
    one = connect(REQUEST)
    one.place.begin()
    one.unwritten = ANSWER
    one.write(ANSWER)
    assert one.left() == Left(REQUEST, True)  # Nothing of it has gone out.
    one.sock.sendall(ANSWER[:-1])
    assert one.left() is None
    one.sock.sendall(ANSWER[-1:])
    assert one.left() == Left(b"", False)


def test_answer_that_was_written_otherwise_is_unknown_until_its_end_is_noted(connect: Connect) -> None:
    one = connect(REQUEST)
    one.place.begin()
    one.answer(ANSWER)
    assert one.left() is None
    assert not one.place.begin()
    one.place.wrote(len(ANSWER))
    assert one.left() == Left(b"", False)
    one.receive(NEXT)
    assert one.place.begin()
    assert one.left() == Left(NEXT, True)


def test_connection_that_its_client_ends_is_not_gone_on_with(connect: Connect) -> None:
    one = connect(REQUEST)
    one.client.shutdown(socket.SHUT_WR)
    assert one.sock.recv(1) == b""
    assert one.left() is None


def test_place_is_used_again_with_nothing_of_before(connect: Connect, journal: Journal) -> None:
    one = connect(REQUEST)
    one.place.begin()
    journal.give_back(one.number)
    other = connect()
    assert other.number == one.number
    assert other.left() == Left(b"", False)
    assert REQUEST not in os.pread(journal.fd, 1 << 20, 0)


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        (Counts(99, 50), Note(100, 0, 0, 50, 50)),  # More was begun than was read.
        (Counts(101 + ROOM_BYTES, 50), Note(100, 0, 0, 50, 50)),  # More was read than there is room for.
        (Counts(100, 51), Note(100, 0, 0, 50, 50)),  # Something was written that no note is of.
        (Counts(100, 49), Note(90, 10, 0, 50, 60)),  # The answer before has not gone out.
        (Counts(100, 70), Note(90, 10, 0, 50, 60)),
    ],
)
def test_what_does_not_fit_is_unknown(counts: Counts, note: Note) -> None:
    assert judged(note, counts) is None


def test_connection_that_the_system_does_not_count_for_is_not_taken(
    connect: Connect, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, places = connect(REQUEST), repr(journal)
    monkeypatch.setattr("agent.workers.journal._ESTABLISHED", -1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert journal.take(one.sock.fileno(), b"") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert repr(journal) == places
    assert one.left() is None


def test_connection_for_which_there_is_no_descriptor_more_is_not_taken(connect: Connect, journal: Journal) -> None:
    one, places = connect(REQUEST), repr(journal)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert journal.take(one.sock.fileno(), b"") is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert repr(journal) == places


def test_journal_for_which_the_system_has_no_room_leaves_no_descriptor_open() -> None:
    before, limits = _open_descriptors(), resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20), limits[1]))
    try:
        with pytest.raises(OSError, match="Cannot allocate memory"):
            Journal()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert _open_descriptors() == before


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_whatever_instruction_a_worker_is_killed_at_its_state_is_known(connect: Connect) -> None:
    one = connect(REQUEST)
    unanswered, known = Left(REQUEST, True), Left(b"", False)
    seen = _at_each_instruction(one.place.begin, one.left)
    assert set(seen) == {Left(REQUEST, False), unanswered}
    assert seen == sorted(seen, key=lambda left: left is not None and left.may_be_executed)
    seen = _at_each_instruction(lambda: one.write(ANSWER), one.left)
    assert set(seen) == {unanswered, known}
    assert seen == sorted(seen, key=lambda left: left == known)


def test_any_order_of_what_may_happen_is_known(connect: Connect) -> None:
    rng = random.Random(20)
    one, given, begun = connect(), b"", b""
    for _ in range(2_000):
        step = rng.choice(("receive", "begin", "write"))
        if step == "receive" and len(given) < 1_000:
            given += (data := rng.randbytes(rng.randint(1, 400)))
            one.receive(data)
        elif step == "begin" and given and not begun:
            assert one.place.begin()
            given, begun = b"", given
        elif step == "write" and begun:
            whole, begun = rng.randbytes(rng.randint(1, 3_000)), b""
            one.write(whole)
            assert one.client.recv(len(whole), socket.MSG_WAITALL) == whole
        assert one.left() == Left(begun + given, bool(begun))


def _at_each_instruction(act: Callable[[], object], look: Callable[[], Left | None]) -> list[Left | None]:
    """What is seen between all instructions of the interpreter in the functions of `agent.workers.journal`."""
    seen: list[Left | None] = []

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_globals["__name__"] != "agent.workers.journal":
            return trace if event == "call" else None
        frame.f_trace_opcodes = True
        if event == "opcode":
            sys.settrace(None)
            seen.append(look())
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return [*seen, look()]
