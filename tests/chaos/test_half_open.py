"""Connections whose other end is heard no more are ended within five seconds, and those of a lossy network live on.

The other end is a process in a network namespace (`tests/chaos/namespace.py`) that acknowledges and never answers. The
one rule: real sockets of the client that servers and peers are dialled with, and the kernel's own time.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.client.http.dial import Dialler
from tests.chaos.lossy_cable import lossy_cable, why_no_cable
from tests.chaos.namespace import Machine, other_machine, why_not
from tests.e2e.processes import environment_of, spawn
from tests.measured import measured
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PORT = 8000
# docs/reliability.md: half-open connections; the rest is the test machine's.
NOTICED_WITHIN_S = 5.0
SLACK_S = 0.3
# They are cut at another moment after their last word each.
COUNT = 8
APART_S = 0.3
CONNECT_TIMEOUT_S = 5.0
# A bad way: a fifth of what is sent there and back is lost.
WAY_S, LOSS = 0.15, 0.105
MANY = 60
FOR_S = 20.0
# About four do: three probes in a row are lost of one in a hundred each second.
END_MAX = MANY // 4


class Line(asyncio.Protocol):
    """One connection, and when it ended."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.ended_s: float | None = None
        self.failure: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_s, self.failure = time.monotonic(), exc

    def say(self) -> None:
        assert self.transport is not None
        self.transport.write(b"x")

    async def is_over(self) -> bool:
        return self.ended_s is not None


@pytest.fixture
async def silent_server(tmp_path: Path) -> AsyncIterator[Machine]:
    """The other machine, with a server that takes what comes and says nothing."""
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: half-open connections were not tried; {reason}")
    with other_machine() as machine:
        async with silent_process(tmp_path, machine.far, machine.command()):
            yield machine


@asynccontextmanager
async def silent_process(folder: Path, address: str, through: list[str]) -> AsyncIterator[None]:
    words = ("tests.chaos.silent_server", address, str(PORT))
    process = spawn(words, folder / "silent.log", environment_of({}), through=through)
    try:

        async def listens() -> bool:
            _, writer = await asyncio.open_connection(address, PORT)
            writer.close()
            return True

        await eventually(listens)
        yield
    finally:
        process.kill_and_reap()


async def dialled(address: str) -> Line:
    line = await Dialler(address, PORT, tls=False, timeout_s=CONNECT_TIMEOUT_S).dial(Line)
    line.say()
    return line


async def has_lasted(since_s: float, seconds: float) -> bool:
    return time.monotonic() - since_s >= seconds


async def apart(machine: Machine) -> list[Line]:
    """Connections whose last words lie so far apart."""
    lines = []
    for _ in range(COUNT):
        lines.append(await dialled(machine.far))
        await eventually(partial(has_lasted, time.monotonic(), APART_S))
    return lines


async def test_a_connection_that_waits_for_an_answer_or_is_in_the_middle_of_a_request_ends_within_five_seconds(
    silent_server: Machine,
) -> None:
    waiting, speaking = await apart(silent_server), await apart(silent_server)
    try:
        silent_server.lose_all()
        cut_s = time.monotonic()
        for line in speaking:
            line.say()
        await all_of(eventually(line.is_over, 3 * NOTICED_WITHIN_S) for line in (*waiting, *speaking))
    finally:
        silent_server.heal()
    for kind, lines in (("waiting", waiting), ("in the middle of a request", speaking)):
        took_s = [line.ended_s - cut_s for line in lines if line.ended_s is not None]
        measured(f"half open, {kind}: ended after {min(took_s):.1f} to {max(took_s):.1f} s")
        assert max(took_s) < NOTICED_WITHIN_S + SLACK_S, (kind, took_s)
        assert all(isinstance(line.failure, OSError) for line in lines), "the kernel's word"


async def test_connections_that_wait_for_an_answer_over_a_way_that_loses_a_fifth_of_all_round_trips_live_on(
    tmp_path: Path,
) -> None:
    if reason := why_no_cable():
        pytest.skip(f"NO NETWORK NAMESPACES: a lossy way was not tried; {reason}")
    with lossy_cable(WAY_S) as cable:
        async with silent_process(tmp_path, cable.far, cable.command()):
            lines = await all_of(dialled(cable.far) for _ in range(MANY))
            cable.loss, began_s = LOSS, time.monotonic()
            await eventually(partial(has_lasted, began_s, FOR_S))
            ended = sum(line.ended_s is not None for line in lines)
            measured(f"a fifth of all round trips of {2 * WAY_S:g} s lost: {ended} of {MANY} ended in {FOR_S:g} s")
            for line in lines:
                assert line.transport is not None
                line.transport.abort()
    assert ended <= END_MAX
