"""Connections given from one end to the other: each arrives once, with its bytes, or is still here after a failure."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from agent.workers.passage import INLINE_BYTES_MAX, Given, Passage, pair
from tests.waiting import eventually


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    both = pair()
    yield both
    for end in both:
        end.close()


@pytest.fixture
def client() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as a client and a server have it."""
    both = socket.socketpair()
    yield both
    for end in both:
        end.close()


def nothing() -> None:
    """For an end whose loss is of no interest."""


def into(found: list[Given]) -> Callable[[Given], None]:
    return found.append


async def has(found: list[Given], count: int) -> bool:
    return len(found) == count


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 400_000])
async def test_connection_arrives_with_every_byte_that_had_come(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket], size: int
) -> None:
    found: list[Given] = []
    sender, receiver = Passage(ends[0], into([]), nothing), Passage(ends[1], into(found), nothing)
    data = os.urandom(size)
    sender.give(Given(os.dup(client[1].fileno()), 7, 3, data))
    async with asyncio.timeout(10):
        await eventually(lambda: has(found, 1))
    (given,) = found
    assert (given.number, given.returns, given.data) == (7, 3, data)
    with socket.socket(fileno=given.descriptor) as arrived:
        client[0].send(b"more")
        assert arrived.recv(10) == b"more"
    for one in (sender, receiver):
        assert one.close() == []


async def test_what_the_other_end_has_no_room_for_is_sent_later_in_its_order(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    found: list[Given] = []
    sender = Passage(ends[0], into([]), nothing)
    many = 200
    for number in range(many):
        sender.give(Given(os.dup(client[1].fileno()), number, 0, b"x" * 1_000))
    assert sender.is_sending
    receiver = Passage(ends[1], into(found), nothing)
    await eventually(lambda: has(found, many))
    assert [given.number for given in found] == list(range(many))
    assert not sender.is_sending
    for given in found:
        os.close(given.descriptor)
    for one in (sender, receiver):
        one.close()


async def test_end_that_is_lost_gives_back_what_was_not_sent(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    lost = asyncio.Event()
    sender = Passage(ends[0], into([]), lost.set)
    ends[1].close()
    sender.give(Given(os.dup(client[1].fileno()), 1, 0, b"held"))
    async with asyncio.timeout(10):
        await lost.wait()
    (unsent,) = sender.close()
    assert unsent.data == b"held"
    os.close(unsent.descriptor)


async def test_end_takes_what_has_come_before_it_closes(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    found: list[Given] = []
    sender, receiver = Passage(ends[0], into([]), nothing), Passage(ends[1], into(found), nothing)
    sender.give(Given(os.dup(client[1].fileno()), 1, 0, b""))
    sender.close()
    receiver.close()
    (given,) = found
    os.close(given.descriptor)
