"""Connections given to a worker: each arrives once, in its order, or not at all when there is no worker any more."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.workers.passage import Arrivals, Given, Passage, pair
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


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def has(found: list[Given], count: int) -> bool:
    return len(found) == count


async def test_connection_arrives_with_its_place_and_what_had_come(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    found: list[Given] = []
    passage, _arrivals = Passage(ends[0]), Arrivals(ends[1], found.append)
    passage.give(Given(client[1].fileno(), 7, 3, 400_000))
    await eventually(lambda: has(found, 1))
    (given,) = found
    assert given.descriptor is not None
    assert (given.number, given.returns, given.size) == (7, 3, 400_000)
    with socket.socket(fileno=given.descriptor) as arrived:
        client[0].send(b"more")
        assert arrived.recv(10) == b"more"
    passage.close()


async def test_what_the_worker_has_no_room_for_is_sent_later_in_its_order(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    found: list[Given] = []
    passage, many = Passage(ends[0]), 2_000
    for number in range(many):
        passage.give(Given(client[1].fileno(), number, 0, 1))
    assert repr(passage) != "<Passage waiting=0>"
    _arrivals = Arrivals(ends[1], found.append)
    await eventually(lambda: has(found, many))
    assert [given.number for given in found] == list(range(many))
    assert repr(passage) == "<Passage waiting=0>"
    for given in found:
        assert given.descriptor is not None
        os.close(given.descriptor)
    passage.close()


async def test_connection_that_a_worker_has_no_descriptor_for_is_heard_of_and_the_next_one_arrives(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    found: list[Given] = []
    passage, _arrivals = Passage(ends[0]), Arrivals(ends[1], found.append)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        passage.give(Given(client[1].fileno(), 7, 3, 40))
        await eventually(lambda: has(found, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == [Given(None, 7, 3, 40)]
    passage.give(Given(client[1].fileno(), 8, 3, 40))
    await eventually(lambda: has(found, 2))
    assert found[1].descriptor is not None
    os.close(found[1].descriptor)
    passage.close()


async def test_nothing_stays_open_of_what_was_given_to_a_worker_that_has_gone(
    ends: tuple[socket.socket, socket.socket], client: tuple[socket.socket, socket.socket]
) -> None:
    passage, before = Passage(ends[0]), descriptors()
    ends[1].close()
    passage.give(Given(client[1].fileno(), 1, 0, 1))
    passage.close()
    assert descriptors() == before - 2  # The two ends.
    client[0].send(b"more")
    assert client[1].recv(10) == b"more"
