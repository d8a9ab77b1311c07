"""Requests that go out without a task: whose answer is taken, whose is waited for, and which are tried at all."""

import asyncio

import orjson
import pytest

from agent.client.http.answer import parsed_head
from agent.client.http.connection import ConnectionBroken
from agent.client.http.open_pool import open_pool
from agent.client.http.received import Response
from agent.client.http.request import RequestBody
from agent.client.http.started import Habit, StartedExchange
from agent.client.outbound import DIRECT
from agent.errors import CallOutcomeUnknown
from agent.identity.association import Association, Proven
from agent.model import HttpTarget, Json
from tests.unit.client.http.test_connection import ReplyChannel
from tests.waiting import one_pass

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


class Taking:
    """Takes a result, unless it `refuses`; `waits` counts how often it had to wait."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.results: list[Json] = []
        self.given_back: list[int] = []
        self.waits = 0
        self.channel: ReplyChannel | None = None

    def take(self, result: Json) -> bool:
        self.results.append(result)
        assert self.channel is not None
        self.given_back.append(self.channel.finished)
        return not self.refuses

    def wait(self) -> None:
        self.waits += 1


def answer(body: bytes, *lines: str) -> bytes:
    more = "".join(f"{line}\r\n" for line in lines).encode()
    parsed_head(HEAD % 1 + b"Mesh-Proof: 00\r\n" * bool(lines) + b"\r\n")  # Such a head has come before.
    return HEAD % len(body) + more + b"\r\n" + body


def message(request_id: object = 7, **more: object) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id} | (more or {"result": {"content": []}}))


def association(key: bytes = KEY) -> Association:
    return Association("them", Proven("them", member=True), KEY, key)


class Out:
    """A request that has gone out over a connection in memory."""

    def __init__(self, *, refuses: bool = False, between_nodes: bool = False, waits: bool = False) -> None:
        """`waits`: for the end of the turn of the event loop, as where more is due in it."""
        if waits:
            asyncio.get_running_loop().call_soon(int)
        self.channel, self.taker, self.habit = ReplyChannel(), Taking(refuses=refuses), Habit()
        self.taker.channel = self.channel
        self.started = StartedExchange(7, b"{}", self.taker, self.habit)
        self.started.goes_out(self.channel.connection, association() if between_nodes else None, b"POST / HTTP/1.1\r\n")

    def comes(self, data: bytes) -> None:
        self.channel.connection.data_received(data)

    async def waited_for(self) -> Response:
        body = self.started.body()
        assert body.sent
        assert body.begun is not None
        return await body.begun()


async def test_a_usual_answer_is_taken_and_its_connection_is_idle_before_that() -> None:
    out = Out()
    assert out.channel.transport.written == b"POST / HTTP/1.1\r\n\r\n{}"
    out.comes(answer(message()))
    assert (out.taker.results, out.taker.waits, out.channel.finished) == ([{"content": []}], 0, 1)
    assert out.taker.given_back == [1]


async def test_what_comes_before_the_request_has_gone_out_is_no_answer_to_it() -> None:
    out = Out(waits=True)
    assert out.channel.transport.written == b""
    out.comes(answer(message()))
    assert (out.taker.results, out.taker.waits) == ([], 1)
    with pytest.raises(ConnectionBroken, match="spoke without being asked"):
        await out.waited_for()


@pytest.mark.parametrize(
    "body",
    [
        message(8),
        message("7"),
        message(7, error={"code": 1, "message": "no"}),
        message(7, result=[]),
        b"[" + message() + b"]",
        message()[:-1],
        b"",
        b"null",
    ],
)
async def test_an_answer_that_is_no_result_of_this_request_is_waited_for_and_there_already(body: bytes) -> None:
    out = Out()
    out.comes(answer(body))
    assert (out.taker.results, out.taker.waits) == ([], 1)
    response = await out.waited_for()
    assert (response.status, response.whole) == (200, body)
    assert out.channel.finished == 1


async def test_a_result_that_is_refused_is_waited_for_and_there_already() -> None:
    out = Out(refuses=True)
    out.comes(answer(message()))
    assert out.taker.waits == 1
    assert (await out.waited_for()).whole == message()


async def test_a_request_that_is_left_gets_its_answer_in_whatever_pieces_it_comes() -> None:
    out = Out()
    whole = answer(message())
    out.comes(whole[:30])
    if out.taker.waits == 0:
        out.started.wait()
    out.comes(whole[30:])
    assert (out.taker.results, out.taker.waits) == ([], 1)
    response = await out.waited_for()
    assert await response.read() == message()
    assert out.channel.finished == 1


@pytest.mark.parametrize("how", ["end", "abort", "no HTTP"])
async def test_a_connection_that_ends_has_it_waited_for_once_with_the_reason(how: str) -> None:
    out = Out()
    match how:
        case "end":
            out.channel.connection.connection_lost(None)
        case "abort":
            out.channel.connection.abort(ConnectionBroken("had its connection closed"))
            out.channel.connection.connection_lost(None)
        case _:
            out.comes(b"hello")
    assert out.taker.waits == 1
    with pytest.raises(ConnectionBroken, match="closed" if how != "no HTTP" else "does not speak HTTP"):
        await out.waited_for()
    assert (out.channel.finished, out.channel.lost) == (0, 1)


async def test_one_that_is_cut_off_has_gone_out_and_counts_as_such() -> None:
    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer(b"{}"))
        await reader.readuntil(b"{}")
        writer.close()

    async with await asyncio.start_server(answers_once, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        with open_pool(HttpTarget(url), connect_timeout_s=5.0, outbound=DIRECT) as pool:
            (await pool.post(RequestBody(b"{}"), {})).release()
            started = StartedExchange(7, b"{}", Taking(), Habit())
            assert pool.start(started, {})
            started.wait()
            with pytest.raises(CallOutcomeUnknown) as failed:
                await pool.post(started.body(), {})
    assert not failed.value.nothing_sent


async def test_a_second_answer_ends_the_connection_and_is_no_ones() -> None:
    out = Out()
    out.comes(answer(message()))
    out.comes(answer(message()))
    assert len(out.taker.results) == 1
    assert out.channel.lost == 1


async def test_two_answers_in_one_piece_end_the_connection_after_the_first() -> None:
    out = Out()
    out.comes(answer(message()) + answer(message(8)))
    assert (out.taker.results, out.taker.waits) == ([], 1)
    assert await (await out.waited_for()).read() == message()
    assert (out.channel.finished, out.channel.lost) == (0, 1)


async def test_between_nodes_only_the_proof_of_this_very_request_counts() -> None:
    out = Out(between_nodes=True)
    assert b"Mesh-Proof: them.1." in out.channel.transport.written
    out.comes(answer(message(), f"Mesh-Proof: {association().answer_proof(1)}"))
    assert len(out.taker.results) == 1


@pytest.mark.parametrize(
    "proof", [association().answer_proof(2), association(OTHER_KEY).answer_proof(1), "unknown", "00", None]
)
async def test_between_nodes_any_other_proof_and_none_are_no_answer(proof: str | None) -> None:
    out = Out(between_nodes=True)
    out.comes(answer(message()) if proof is None else answer(message(), f"Mesh-Proof: {proof}"))
    assert (out.taker.results, out.taker.waits) == ([], 1)
    with pytest.raises(ConnectionBroken, match="without proving"):
        await out.waited_for()


async def test_a_request_that_is_waited_for_and_cancelled_closes_its_connection() -> None:
    out = Out()
    out.started.wait()
    waiting = asyncio.ensure_future(out.waited_for())
    await one_pass()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert out.channel.transport.aborted
    assert out.channel.lost == 1


def test_a_server_that_answers_otherwise_is_tried_now_and_then_and_always_once_it_was_worth_it() -> None:
    habit = Habit()
    for _ in range(8):
        assert habit.is_worth_trying()
        habit.misses += 1
    assert sum(habit.is_worth_trying() for _ in range(640)) == 10
    habit.misses = 0
    assert all(habit.is_worth_trying() for _ in range(100))


def test_a_miss_now_and_then_changes_nothing() -> None:
    habit = Habit()
    for _ in range(100):
        for _ in range(7):
            habit.misses += 1
        habit.misses = 0
        assert habit.is_worth_trying()
