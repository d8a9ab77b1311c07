"""The connections of a worker: what they note in its journal, as long as their places there are theirs."""

import asyncio
import gc
import mmap
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import pytest
from aiohttp import web

from agent.server.fast_path.connection import Connection
from agent.server.fast_path.heads import Beginning
from agent.server.fast_path.serving import Direct, FastServer
from agent.workers.gate import PATH
from agent.workers.journal import Journal, Left
from agent.workers.serving import JournaledConnection
from tests.waiting import eventually

REQUEST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}" % PATH.encode()
ANSWER = b"HTTP/1.1 200 OK"


class _Answers:
    """Answers at once, or begins an answer and ends when it may, whatever becomes of its client.

    So does what tells a server first that its caller has gone.
    """

    def __init__(self) -> None:
        self.is_slow, self.may_end = True, asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not self.is_slow:
            return web.json_response({})
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"the beginning of an answer")
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await self.may_end.wait()
            raise
        return response


@dataclass
class _Taken:
    """A connection whose first request is served. `kept`: the node's end."""

    client: socket.socket
    kept: socket.socket
    number: int
    connection: JournaledConnection


Take = Callable[[], Awaitable[_Taken]]


@pytest.fixture
async def answers() -> _Answers:
    return _Answers()


@pytest.fixture
async def journal() -> AsyncGenerator[Journal, None]:
    with closing(Journal()) as made:
        yield made


@pytest.fixture
async def take(answers: _Answers, journal: Journal) -> AsyncGenerator[Take, None]:
    app = web.Application()
    app.router.add_post(PATH, answers.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    server = FastServer(app, runner.server, PATH, lambda _request: "", Direct())
    server.elsewhere = _begun
    ends = list[socket.socket]()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def taken() -> _Taken:
            client = socket.create_connection(listening.getsockname())
            sock, _ = listening.accept()
            sock.sendall(ANSWER)  # Nothing is given to a worker before something was answered.
            assert client.recv(len(ANSWER), socket.MSG_WAITALL) == ANSWER
            client.sendall(REQUEST)
            assert sock.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
            place = journal.take(sock.fileno(), REQUEST)
            assert place is not None
            number, kept = place
            ends.extend((client, kept))
            connection = JournaledConnection(server, mmap.mmap(journal.fd, 0), number)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
            connection.buffer_updated(len(REQUEST))
            return _Taken(client, kept, number, connection)

        yield taken
        answers.may_end.set()
        for end in ends:
            end.close()
        await server.shutdown(1.0)
        await runner.cleanup()
        gc.collect()  # They hold the memory of the journal, and their requests hold them.


def _begun(connection: Connection, beginning: Beginning | None, _data: bytes) -> bool:
    assert isinstance(connection, JournaledConnection)
    return beginning is None or not connection.place.begin()


async def test_a_request_whose_client_has_gone_notes_nothing_in_a_place_that_another_connection_has_by_then(
    answers: _Answers, journal: Journal, take: Take
) -> None:
    gone = await take()
    await eventually(partial(_is_answered, gone))
    gone.client.close()
    await eventually(partial(_is_lost, gone))
    gone.kept.close()
    journal.give_back(gone.number)
    answers.is_slow = False
    other = await take()
    assert other.number == gone.number
    await eventually(partial(_is_answered, other))
    answers.may_end.set()

    async def has_ended() -> bool:
        return gone.connection.in_task is None

    await eventually(has_ended)
    assert journal.left(other.number, other.kept) == Left(b"", False)


async def _is_answered(one: _Taken) -> bool:
    one.client.setblocking(False)
    return bool(one.client.recv(1 << 10))


async def _is_lost(one: _Taken) -> bool:
    return one.connection.transport is None
