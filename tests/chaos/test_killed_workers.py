"""Processes of a node of several that are killed again and again, under calls of kept connections of both eras.

The one rule: what was executed is compared with the answers of each client.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.journal_server import READ, WRITE, JournalServer, journal_server
from tests.chaos.soak import children, zombies
from tests.e2e.raw_line import Line, line_to
from tests.e2e.running import RunningNode, running_nodes
from tests.measured import measured
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(240)

WORKERS = 2
CALLERS_EACH = 4  # Of each tool and era.
# Of those sixteen connections one worker alone takes eight.
SERVED_MIN = 10
# Of each worker's deaths, the next start waits twice as long.
DEATHS = 6
CALLS_BETWEEN = 100
# Calls are under way all the time and still leave the processor to the workers that start.
SLOWER_BY = 8.0
OK, UNKNOWN = "ok", "unknown"


class Ledger:
    """What became of each call, by its ID."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.is_over = False

    async def keep_calling(self, line: Line, tool: str, name: str) -> None:
        """Call over and over on this one connection. Raises `ConnectionError` when it breaks."""
        number = 0
        while not self.is_over:
            number += 1
            call_id = f"{name}-{number}"
            answer = await line.call_refused(f"journal__{tool}", {"id": call_id})
            if "result" in answer:
                assert answer["result"]["content"][0]["text"] == call_id, answer  # Its own, and no other's.
                self.told[call_id] = OK
            else:
                self.told[call_id] = UNKNOWN
                assert tool == WRITE, answer
                assert (answer["error"]["code"], answer["error"]["data"]["outcome"]) == (-32001, UNKNOWN), answer
                assert "the process of this node that had sent it ended" in answer["error"]["message"], answer

    async def grows(self, more: int) -> None:
        """Wait for so many more calls."""
        aim = len(self.told) + more

        async def reached() -> bool:
            return len(self.told) >= aim

        await eventually(reached)

    def compare(self, executed: Counter[str]) -> None:
        """Hold the answers against what was executed."""
        for call_id, told in self.told.items():
            times = executed[call_id]
            if WRITE in call_id:
                assert times == 1 or (times == 0 and told == UNKNOWN), f"{call_id} ended {told}, executed {times} times"
            else:
                assert 1 <= times <= 2, f"{call_id} executed {times} times"
        assert executed.keys() <= self.told.keys()


@asynccontextmanager
async def node_before_a_journal(
    folder: Path, rng: random.Random, workers: int
) -> AsyncIterator[tuple[JournalServer, RunningNode]]:
    """A server that writes down what it executes, behind a node with so many workers."""
    async with journal_server(folder / "journal", rng) as server, running_nodes() as start:
        server.slower_by, servers = SLOWER_BY, {"journal": {"url": server.url}}
        more = {"MESH_DISCOVERY": "off", "MESH_WORKERS": f"{workers + 1}"}
        node = await start("kept", folder / "kept", servers=servers, **more)
        await eventually(lambda: node.offers(f"journal__{WRITE}"))
        yield server, node


def alive(node: RunningNode) -> list[int]:
    """The workers of a node that have not ended."""
    started = {event["pid"] for event in node.events("a worker was started")}
    return sorted(started & (children(node.process.pid) - zombies(node.process.pid)))


async def all_serve(node: RunningNode, connections: int, workers: int = WORKERS, deaths: int = 0) -> bool:
    """Whether each has connections. What metrics say of before a death is over when another worker was started."""
    assert len(node.events("a worker was started")) == workers + deaths
    assert await node.metric("mesh_workers") == workers
    return (await node.metric("mesh_worker_connections") or 0) >= connections


async def _signal_when_busy(server: JournalServer, send: Callable[[], None]) -> None:
    """Send it while calls of both tools are under way."""
    sent = asyncio.Event()

    def act() -> None:
        send()
        sent.set()

    server.when_busy(act)
    async with asyncio.timeout(30):
        await sent.wait()


async def test_workers_that_are_killed_under_load_break_no_connection_and_lose_no_answer(tmp_path: Path) -> None:
    rng, ledger = random.Random(14), Ledger()
    async with (
        node_before_a_journal(tmp_path, rng, WORKERS) as (server, node),
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as group,
    ):
        for tool in (READ, WRITE):
            for number in range(2 * CALLERS_EACH):
                line = await stack.enter_async_context(line_to(node.port))
                if number < CALLERS_EACH:
                    await line.open_session()
                name = f"{tool}-{number}"
                group.create_task(ledger.keep_calling(line, tool, name), name=name)
        for death in range(DEATHS):
            await eventually(partial(all_serve, node, SERVED_MIN, deaths=death))
            await ledger.grows(CALLS_BETWEEN)
            await _signal_when_busy(server, lambda: os.kill(rng.choice(alive(node)), signal.SIGKILL))

            async def has_lost(deaths: int = death + 1) -> bool:
                return await node.metric("mesh_lost_workers_total") == deaths

            await eventually(has_lost)
        await ledger.grows(CALLS_BETWEEN)
        ledger.is_over = True
    ledger.compare(server.executed())
    unknown = sum(told == UNKNOWN for told in ledger.told.values())
    again = len(node.events("MCP call is sent again"))
    measured(f"{DEATHS} killed workers: of {len(ledger.told)} calls {again} made again, {unknown} of unknown outcome")
    assert again
    assert unknown


async def test_worker_that_hangs_is_ended_and_its_connections_go_on(tmp_path: Path) -> None:
    rng, ledger = random.Random(15), Ledger()
    async with (
        node_before_a_journal(tmp_path, rng, 1) as (server, node),
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as group,
    ):
        names = [f"{tool}-{number}" for tool in (READ, WRITE) for number in range(2)]
        for name in names:
            line = await stack.enter_async_context(line_to(node.port))
            group.create_task(ledger.keep_calling(line, name.partition("-")[0], name), name=name)
        await eventually(lambda: all_serve(node, len(names) // 2, workers=1))
        (pid,) = alive(node)
        await _signal_when_busy(server, lambda: os.kill(pid, signal.SIGSTOP))
        before = Counter(call_id.rpartition("-")[0] for call_id in ledger.told)

        async def all_go_on() -> bool:
            now = Counter(call_id.rpartition("-")[0] for call_id in ledger.told)
            return all(now[name] > before[name] + 1 for name in names)

        await eventually(all_go_on)
        ledger.is_over = True
    ledger.compare(server.executed())
    assert [event["pid"] for event in node.events("a worker hangs, and is ended")] == [pid]
