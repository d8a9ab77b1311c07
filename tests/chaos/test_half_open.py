"""Connections whose other end is heard no more are ended within five seconds, and those of a lossy network live on.

The other end is a process in a network namespace (`tests/chaos/namespace.py`) that acknowledges and never answers. The
one rule: real sockets of the client that servers and peers are dialled with, and the kernel's own time.
"""

import asyncio
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.client.http.answer import ConnectionBroken
from agent.client.http.connection import Connection
from agent.client.http.dial import Dialler
from tests.chaos.lossy_cable import lossy_cable, why_no_cable
from tests.chaos.namespace import Machine, other_machine, why_not
from tests.e2e.processes import NodeProcess, environment_of, spawn_copy
from tests.measured import measured
from tests.waiting import all_of, eventually, running_time

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PORT = 8000
# docs/reliability.md: half-open connections; the rest is the test machine's.
NOTICED_WITHIN_S = 5.0
SLACK_S = 0.3
# They are cut at another moment after their last word each.
COUNT = 8
APART_S = 0.3
CONNECT_TIMEOUT_S = 5.0
LARGE_BYTES = 1 << 20
# docs/reliability.md: an idle connection is probed so seldom.
REST_S = 15.0
QUIET_S = 3.0
# linux/tcp.h: `tcpi_segs_out` and `tcpi_segs_in` of what TCP_INFO tells, since Linux 4.2.
TCP_INFO_BYTES, SEGMENTS_AT = 144, 136
# `tcpi_rto` there, in microseconds: when what is sent is first repeated, which is when the kernel's time begins.
REPEATED_AFTER_AT, REPEATED_AFTER_LEAST_S = 8, 0.2
# Longer than a small request would be waited for. Its kernel is asked whether it would read every twelve seconds, and
# has to leave two such questions unanswered.
BUSY_S = 10.0
BUSY_NOTICED_WITHIN_S = 24.0
# A bad way: a fifth of what is sent there and back is lost.
WAY_S, LOSS = 0.15, 0.105
MANY = 60
FOR_S = 20.0
# About seven do, for three probes in a row are lost of one in 150 each second; one of a hundred thousand runs has more
# than 20. A connection that two lost probes end is one of 34.
END_MAX = MANY // 3


class Pool:
    """Of one connection."""

    def take_back(self, connection: Connection) -> None:
        """It is never idle."""

    def forget(self, connection: Connection) -> None:
        """It is over."""


class Asked:
    """A request over a connection of its own, and when it ended."""

    def __init__(self, connection: Connection, group: asyncio.TaskGroup, clock: Callable[[], float]) -> None:
        self._connection, self._group, self._clock = connection, group, clock
        self.ended_s = 0.0
        self.failure: ConnectionBroken | None = None

    @classmethod
    async def dialled(
        cls, address: str, group: asyncio.TaskGroup, clock: Callable[[], float] = time.monotonic
    ) -> "Asked":
        dialler = Dialler(address, PORT, tls=False, timeout_s=CONNECT_TIMEOUT_S)
        return cls(await dialler.dial(lambda: Connection(Pool())), group, clock)

    def begin(self, body_bytes: int = 0) -> None:
        self._group.create_task(self._ask(body_bytes), name="request")

    async def _ask(self, body_bytes: int) -> None:
        try:
            await self._connection.exchange(b"POST / HTTP/1.1\r\n\r\n", bytes(body_bytes))
        except ConnectionBroken as exc:
            self.ended_s, self.failure = self._clock(), exc

    def segments(self) -> int:
        """How many it has sent and received so far."""
        return sum(struct.unpack_from("II", self._told_by_kernel(), SEGMENTS_AT))

    def repeats_late_s(self) -> float:
        """By how much later than usual it would repeat what it sends: its handshake took long, as on a busy machine."""
        (after_us,) = struct.unpack_from("I", self._told_by_kernel(), REPEATED_AFTER_AT)
        return max(0.0, after_us / 1e6 - REPEATED_AFTER_LEAST_S)

    def _told_by_kernel(self) -> bytes:
        assert self._connection.sock is not None
        return self._connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)

    def end(self) -> None:
        self._connection.abort(ConnectionBroken("the test is over"))

    async def is_over(self) -> bool:
        return self.failure is not None


@pytest.fixture
async def silent_server(tmp_path: Path) -> AsyncIterator[Machine]:
    """The other machine, with a server that takes what comes and says nothing."""
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: half-open connections were not tried; {reason}")
    with other_machine() as machine:
        async with silent_process(tmp_path, machine.far, machine.name):
            yield machine


@asynccontextmanager
async def silent_process(folder: Path, address: str, network: str) -> AsyncIterator[NodeProcess]:
    words = ("tests.chaos.silent_server", address, str(PORT))
    process = spawn_copy(words, folder / "silent.log", environment_of({}), network=network)
    try:

        async def listens() -> bool:
            _, writer = await asyncio.open_connection(address, PORT)
            writer.close()
            return True

        await eventually(listens)
        yield process
    finally:
        process.kill_and_reap()


async def has_lasted(since_s: float, seconds: float) -> bool:
    return time.monotonic() - since_s >= seconds


@pytest.mark.parametrize("body_bytes", [0, LARGE_BYTES], ids=["small", "large"])
async def test_a_request_whose_other_end_has_vanished_ends_within_five_seconds(
    silent_server: Machine, body_bytes: int
) -> None:
    async with running_time() as clock, asyncio.TaskGroup() as group:
        waiting = []
        for _ in range(COUNT):
            waiting.append(one := await Asked.dialled(silent_server.far, group, clock))
            one.begin(body_bytes)
            await eventually(partial(has_lasted, time.monotonic(), APART_S))
        speaking = [await Asked.dialled(silent_server.far, group, clock) for _ in range(COUNT)]
        try:
            silent_server.lose_all()
            cut_s, late_s = clock(), max(one.repeats_late_s() for one in (*waiting, *speaking))
            for one in speaking:
                one.begin(body_bytes)
            await all_of(eventually(one.is_over, 3 * NOTICED_WITHIN_S) for one in (*waiting, *speaking))
        finally:
            silent_server.heal()
            for one in (*waiting, *speaking):
                one.end()
    for kind, requests in (("waiting", waiting), ("going out", speaking)):
        took_s = [one.ended_s - cut_s for one in requests]
        measured(f"half open, {body_bytes} bytes, {kind}: ended after {min(took_s):.1f} to {max(took_s):.1f} s")
        measured(f"what it sends is repeated {late_s:.2f} s later than usual")
        assert max(took_s) < NOTICED_WITHIN_S + SLACK_S + late_s, (kind, late_s, took_s)
        assert all(one.failure is not None and one.failure.silent for one in requests), "the kernel's word"


async def test_nothing_is_sent_over_a_connection_that_nothing_is_waited_for_on(silent_server: Machine) -> None:
    async with asyncio.TaskGroup() as group:
        began_s = time.monotonic()
        idle = [await Asked.dialled(silent_server.far, group) for _ in range(COUNT)]
        quiet = await segments_of(idle, QUIET_S)
        # However long the machine stood still meanwhile.
        asked = int((time.monotonic() - began_s) / REST_S)
        for one in idle:
            one.begin()
        waiting = await segments_of(idle, QUIET_S)
        for one in idle:
            one.end()
    measured(f"segments in {QUIET_S:g} s: {quiet} of {COUNT} idle connections, {waiting} of as many that wait")
    assert quiet <= 2 * COUNT * asked
    assert waiting > COUNT * QUIET_S


async def segments_of(connections: list[Asked], seconds: float) -> int:
    """How many they send and receive in so many seconds; those of other connections do not count."""
    before = sum(one.segments() for one in connections)
    await eventually(partial(has_lasted, time.monotonic(), seconds))
    return sum(one.segments() for one in connections) - before


async def test_a_large_request_to_a_server_that_is_too_busy_to_read_lives_on_until_that_is_heard_no_more(
    tmp_path: Path,
) -> None:
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: a busy server was not tried; {reason}")
    with other_machine() as machine:
        async with (
            silent_process(tmp_path, machine.far, machine.name) as process,
            running_time() as clock,
            asyncio.TaskGroup() as group,
        ):
            requests = [await Asked.dialled(machine.far, group, clock) for _ in range(COUNT)]
            process.send_signal(signal.SIGSTOP)
            for one in requests:
                one.begin(LARGE_BYTES)
            try:
                await eventually(partial(has_lasted, time.monotonic(), BUSY_S))
                assert not any([await one.is_over() for one in requests])
                machine.lose_all()
                cut_s = clock()
                await all_of(eventually(one.is_over, 2 * BUSY_NOTICED_WITHIN_S) for one in requests)
            finally:
                machine.heal()
                process.send_signal(signal.SIGCONT)
                for one in requests:
                    one.end()
    took_s = [one.ended_s - cut_s for one in requests]
    measured(f"half open, large request that was not read: ended after {min(took_s):.1f} to {max(took_s):.1f} s")
    assert max(took_s) < BUSY_NOTICED_WITHIN_S + SLACK_S, took_s


async def test_connections_that_wait_for_an_answer_over_a_way_that_loses_a_fifth_of_all_round_trips_live_on(
    tmp_path: Path,
) -> None:
    if reason := why_no_cable():
        pytest.skip(f"NO NETWORK NAMESPACES: a lossy way was not tried; {reason}")
    ended = await ended_over_a_lossy_way(tmp_path)
    if ended > END_MAX:  # This process carries the packets: where it stood still for three seconds, all have ended.
        ended = await ended_over_a_lossy_way(tmp_path)
    assert ended <= END_MAX


async def ended_over_a_lossy_way(folder: Path) -> int:
    """How many of many connections that wait for an answer do not live on."""
    with lossy_cable(WAY_S) as cable:
        async with silent_process(folder, cable.far, cable.name), asyncio.TaskGroup() as group:
            requests = await all_of(Asked.dialled(cable.far, group) for _ in range(MANY))
            for one in requests:
                one.begin()
            cable.loss, began_s = LOSS, time.monotonic()
            await eventually(partial(has_lasted, began_s, FOR_S))
            ended = sum(one.failure is not None for one in requests)
            for one in requests:
                one.end()
    measured(f"a fifth of all round trips of {2 * WAY_S:g} s lost: {ended} of {MANY} ended in {FOR_S:g} s")
    return ended
