"""One connection, fed with bytes cut in every way: the answers it gives, and that whatever comes ends it with a reason.

The transport is one in memory, so that a test decides which bytes come in one piece.
"""

import asyncio
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client.http.answer import ConnectionBroken, NotHttp
from agent.client.http.connection import Connection
from agent.client.http.received import Response
from tests.waiting import PATIENCE_S

REQUEST = b"POST / HTTP/1.1\r\n\r\n"


class MemoryTransport(asyncio.Transport):
    """Tells what was written, and whether it was asked to stop; its other side is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.reading = True
        self.protocol: asyncio.BaseProtocol | None = None

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    def get_extra_info(self, _: str, default: object = None) -> object:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class ReplyChannel:
    """A connection, what it told its pool, and the other side."""

    def __init__(self) -> None:
        self.finished = 0
        self.lost = 0
        self.transport = MemoryTransport()
        self.connection = self.transport.protocol = Connection(self)
        self.connection.connection_made(self.transport)

    def take_back(self, _: Connection) -> None:
        self.finished += 1

    def forget(self, _: Connection) -> None:
        self.lost += 1

    async def ask(self, *pieces: bytes, end: bool = False, reset: bool = False) -> "Outcome":
        """Send a request, feed its answer, perhaps end the connection, and read what there is to read."""
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            asked = group.create_task(self._outcome(), name="ask")
            await turn()
            for piece in pieces:
                self.connection.data_received(piece)
                await turn()
            if end or reset:
                self.connection.connection_lost(
                    ConnectionResetError(104, "Connection reset by peer") if reset else None
                )
        return asked.result()

    async def _outcome(self) -> "Outcome":
        try:
            response = await self.connection.exchange(REQUEST, b"")
            return Outcome(response.status, await response.read(), response=response)
        except ConnectionBroken as exc:
            return Outcome(failure=exc)


@dataclass
class Outcome:
    status: int = 0
    body: bytes = b""
    failure: ConnectionBroken | None = None
    response: Response | None = None


async def turn() -> None:
    """Let everything that is ready run once."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_soon(passed.set_result, None)
    await passed


HEAD = b"HTTP/1.1 200 OK\r\n"
FRAMED = {
    "length": HEAD + b"Content-Length: 5\r\n\r\nhello",
    "lower case": HEAD + b"content-length:5\r\n\r\nhello",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "chunk extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
    "trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    "after interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    + HEAD
    + b"Content-Length: 5\r\n\r\nhello",
}
EMPTY = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "length zero": HEAD + b"Content-Length: 0\r\n\r\n",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
}
ENDING = {
    "no length": HEAD + b"\r\nhello",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "a coding that is not chunked": HEAD + b"Transfer-Encoding: x\r\n\r\nhello",
}
# Each says in two ways where it ends, or in none, or not in HTTP.
BROKEN = {
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "lengths in one field": HEAD + b"Content-Length: 5, 5\r\n\r\nhello",
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "a length with a sign": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "a length beyond 64 bits": HEAD + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "a chunk without a size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk of a negative size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk longer than its size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a field without a name": HEAD + b": x\r\n\r\n",
    "a field without a colon": HEAD + b"nonsense\r\n\r\n",
    "a NUL in a field": HEAD + b"X: a\x00b\r\n\r\n",
    "too many fields": HEAD + b"X: 1\r\n" * 200 + b"\r\n",
    "a field too long": HEAD + b"X: " + b"a" * 10_000 + b"\r\n\r\n",
    "a reason too long": b"HTTP/1.1 200 " + b"a" * 10_000 + b"\r\n\r\n",
    "a change of protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "an answer and more": HEAD + b"Content-Length: 5\r\n\r\nhelloGARBAGE",
    "two answers": (HEAD + b"Content-Length: 5\r\n\r\nhello") * 2,
}


@pytest.mark.parametrize("pieces", [1, 3])
async def test_an_answer_that_came_faster_than_it_was_read_leaves_the_connection_reading(pieces: int) -> None:
    there = ReplyChannel()
    body = b"x" * 900_000
    head = HEAD + b"Content-Length: 900000\r\n\r\n"
    size = len(body) // pieces
    asked = asyncio.create_task(there.connection.exchange(REQUEST, b""))
    await turn()
    for number in range(pieces):
        part = body[number * size : (number + 1) * size]
        there.connection.data_received(head + part if number == 0 else part)
    response = await asked
    assert (await response.read(), there.finished) == (body, 1)
    assert there.transport.reading, "the next answer would never be read"
    again = await there.ask(FRAMED["length"])
    assert again.body == b"hello"


@pytest.mark.parametrize("answer", FRAMED.values(), ids=FRAMED)
async def test_an_answer_that_says_its_end_leaves_the_connection_for_the_next(answer: bytes) -> None:
    line = ReplyChannel()
    for number in range(3):
        outcome = await line.ask(answer)
        assert (outcome.status, outcome.body, outcome.failure) == (200, b"hello", None)
        assert outcome.response is not None
        assert outcome.response.closed
        assert line.finished == number + 1
    assert repr(line.connection) == "<Connection idle>"
    assert line.transport.written == REQUEST * 3


@pytest.mark.parametrize("answer", EMPTY.values(), ids=EMPTY)
async def test_an_answer_without_a_body_leaves_the_connection_for_the_next(answer: bytes) -> None:
    line = ReplyChannel()
    for number in range(2):
        outcome = await line.ask(answer)
        assert (outcome.body, outcome.failure) == (b"", None)
        assert line.finished == number + 1


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
async def test_an_answer_may_end_with_its_connection_which_is_not_used_again(answer: bytes) -> None:
    line = ReplyChannel()
    outcome = await line.ask(answer, end=True)
    assert (outcome.status, outcome.body, outcome.failure) == (200, b"hello", None)
    assert (line.finished, line.lost) == (0, 1)


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
async def test_a_reset_is_no_end_of_an_answer(answer: bytes) -> None:
    outcome = await ReplyChannel().ask(answer, reset=True)
    assert str(outcome.failure) == "broke off in the middle of its answer"


@pytest.mark.parametrize("how", [b"Connection: close", b"Connection: Close, X"])
async def test_a_connection_that_the_server_wants_closed_is_closed_after_its_answer(how: bytes) -> None:
    line = ReplyChannel()
    outcome = await line.ask(HEAD + how + b"\r\nContent-Length: 5\r\n\r\nhello")
    assert outcome.body == b"hello"
    assert line.transport.aborted
    assert (line.finished, line.lost) == (0, 1)


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_breaks_the_rules_ends_the_connection_and_says_so(answer: bytes) -> None:
    for pieces in ([answer], [answer[at : at + 1] for at in range(len(answer))]):
        line = ReplyChannel()
        outcome = await line.ask(*pieces)
        # Its last bytes may come when the answer was whole already; then only the connection is spoilt.
        assert isinstance(line.connection.failure, NotHttp)
        assert outcome.failure is line.connection.failure or outcome.body == b"hello"
        assert line.transport.aborted
        assert line.lost == 1


@pytest.mark.parametrize("cut", range(1, len(FRAMED["chunked"])))
@pytest.mark.parametrize("reset", [False, True])
async def test_an_answer_that_is_cut_off_is_never_taken_for_a_whole_one(cut: int, reset: bool) -> None:
    outcome = await ReplyChannel().ask(FRAMED["chunked"][:cut], end=not reset, reset=reset)
    assert outcome.failure is not None
    assert not isinstance(outcome.failure, NotHttp)


async def test_a_connection_that_ends_before_an_answer_says_how() -> None:
    assert str((await ReplyChannel().ask(end=True)).failure) == "closed the connection without an answer"
    assert str((await ReplyChannel().ask(reset=True)).failure) == "cannot be reached: Connection reset by peer"


async def test_unexpected_bytes_end_an_idle_connection() -> None:
    line = ReplyChannel()
    await line.ask(FRAMED["length"])
    line.connection.data_received(b"HTTP/1.1 200 OK\r\n")
    assert line.transport.aborted
    assert line.lost == 1
    assert "without being asked" in repr(line.connection)


async def test_a_cancelled_exchange_ends_its_connection() -> None:
    line = ReplyChannel()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(line.connection.exchange(REQUEST, b""), name="ask")
        await turn()
        asked.cancel()
    assert line.transport.aborted
    assert (line.finished, line.lost) == (0, 1)


async def test_a_response_that_is_closed_early_ends_its_connection_and_wakes_its_reader() -> None:
    line = ReplyChannel()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        asked = group.create_task(line.connection.exchange(REQUEST, b""), name="ask")
        await turn()
        line.connection.data_received(HEAD + b"Content-Length: 5\r\n\r\nhe")
        response = await asked
        reader = group.create_task(_failure_of(response), name="read")
        await turn()
        response.close()
        response.close()
    assert "when this node gave up its answer" in reader.result()
    assert line.transport.aborted
    assert line.lost == 1


async def _failure_of(response: Response) -> str:
    try:
        return (await response.read()).decode()
    except ConnectionBroken as exc:
        return str(exc)


async def test_a_slow_reader_stops_the_socket_and_loses_nothing() -> None:
    line = ReplyChannel()
    piece = b"x" * 65_536
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        asked = group.create_task(line.connection.exchange(REQUEST, b""), name="ask")
        await turn()
        line.connection.data_received(HEAD + b"Content-Length: 655360\r\n\r\n")
        response = await asked
        fed = 0
        while line.transport.reading:
            line.connection.data_received(piece)
            fed += 1
        assert fed < 10
        got = await response.more()
        assert line.transport.reading
        for _ in range(10 - fed):
            line.connection.data_received(piece)
        got += await response.read()
    assert len(got) == 655_360
    assert line.finished == 1


@given(
    name=st.sampled_from([*FRAMED, *EMPTY, *ENDING]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
def test_an_answer_is_the_same_however_it_is_cut(name: str, cuts: list[int]) -> None:
    answer = {**EMPTY, **FRAMED, **ENDING}[name]
    points = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[start:end] for start, end in itertools.pairwise(points)]

    async def compare() -> None:
        whole = await ReplyChannel().ask(answer, end=True)
        cut = await ReplyChannel().ask(*pieces, end=True)
        assert (cut.status, cut.body, cut.failure) == (whole.status, whole.body, whole.failure)
        assert whole.failure is None

    asyncio.run(compare())


def _damage(answer: bytes, at: int, what: bytes, length: int) -> bytes:
    at %= len(answer)
    return answer[:at] + what + answer[at + length :]


GARBAGE = st.one_of(
    st.binary(max_size=400),
    st.builds(
        _damage,
        st.sampled_from([*FRAMED.values(), *ENDING.values(), *BROKEN.values()]),
        st.integers(0, 10_000),
        st.binary(max_size=20),
        st.integers(0, 20),
    ),
)


@given(pieces=st.lists(GARBAGE, max_size=4), reset=st.booleans())
def test_whatever_comes_ends_in_an_answer_or_a_reason_without_a_wait(pieces: list[bytes], reset: bool) -> None:
    async def feed() -> None:
        line = ReplyChannel()
        outcome = await line.ask(*pieces, end=not reset, reset=reset)
        assert outcome.failure is not None or 200 <= outcome.status <= 999
        assert line.lost == 1
        assert line.connection.failure is not None

    asyncio.run(feed())


@given(garbage=GARBAGE.filter(bool))
def test_no_byte_of_one_answer_is_taken_for_the_next(garbage: bytes) -> None:
    async def ask_twice() -> None:
        line = ReplyChannel()
        first = await line.ask(FRAMED["length"])
        assert first.body == b"hello"
        line.connection.data_received(garbage)
        assert line.transport.aborted
        assert line.lost == 1

    asyncio.run(ask_twice())


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"


@pytest.mark.parametrize(
    "lines", [b"", b"Connection: close\r\n", b"Set-Cookie: a=b\r\n", b"Content-Encoding: gzip\r\n", b"X: y\r\n"]
)
async def test_an_answer_whose_head_came_before_is_read_as_the_first_one(lines: bytes) -> None:
    answer = JSON_HEAD % (2, lines) + b"{}"
    first, second = [await ReplyChannel().ask(answer) for _ in range(2)]
    assert (
        (first.status, first.body, first.failure) == (second.status, second.body, second.failure) == (200, b"{}", None)
    )
    is_usual = lines in (b"", b"X: y\r\n")
    assert second.response is not None
    assert (second.response.whole is not None) == is_usual


@pytest.mark.parametrize("cut", range(1, len(JSON_HEAD % (2, b"")) + 2))
async def test_a_known_head_that_comes_in_parts_is_read_all_the_same(cut: int) -> None:
    answer = JSON_HEAD % (2, b"") + b"{}"
    await ReplyChannel().ask(answer)
    there = ReplyChannel()
    outcome = await there.ask(answer[:cut], answer[cut:])
    assert (outcome.status, outcome.body, there.finished, there.lost) == (200, b"{}", 1, 0)


async def test_bytes_behind_an_answer_with_a_known_head_end_the_connection() -> None:
    answer = JSON_HEAD % (2, b"") + b"{}"
    await ReplyChannel().ask(answer)
    there = ReplyChannel()
    await there.ask(answer + b"HTTP/1.1 200 OK\r\n")
    assert (there.lost, there.transport.aborted) == (1, True)
    other = ReplyChannel()
    asked = asyncio.create_task(other.connection.exchange(REQUEST, b""))
    await turn()
    other.connection.data_received(answer)
    other.connection.data_received(answer)  # Before its reader has had its turn.
    assert (other.lost, other.transport.aborted) == (1, True)
    assert await (await asked).read() == b"{}"
