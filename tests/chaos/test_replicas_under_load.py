"""Two replicas behind a third node, under steady load: one is killed, hung, stopped or slowed while calls are in it.

The servers behind the replicas write down what they execute; what clients got is compared with that. Times are judged
by those of the same run before the fault, since test machines are noisy.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from tests.chaos.journal_server import CALL_S, READ, WRITE, JournalServer, journal_server
from tests.chaos.load import Books, Ended, percentile, spread, steady_load
from tests.e2e.running import MANAGEMENT_TOOLS, STOP_TIMEOUT_S, RunningNode, StartNode, running_nodes
from tests.measured import least, measured
from tests.ports import free_port
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BOTH = (READ, WRITE)
# Calls to a hung replica end within the test; those to any other have the time that a busy machine takes.
SHORT_CALL_TIMEOUT_S, CALL_TIMEOUT_S = 3.0, 25.0
# docs/reliability.md: a hung peer is down in under 12 s; the rest is the test machine's.
HUNG_SEEN_WITHIN_S = 16.0
# A node that was away is dialled again after a back-off of 30 s at most; the rest is the test machine's.
BACK_WITHIN_S = 45.0
# By the pace of that moment, for a busy machine makes the other one slow as well.
SLOWER_BY = 40.0
# Of 100 calls, and how soon so few go to the slow one. Once it is spared, so few that one call in a hundred, the 99th
# percentile, is none of its own.
SLOW_SHARE_MAX, SPARED_WITHIN_S = 5, 10.0
SPARED_SHARE_MAX = 0.01
# What a failover adds to a call.
FAILOVER_S = 0.05
SPARED_CALLS = 400


@dataclass
class Field:
    """The front that is called, and the replica that gets the fault, with its server; `other` is the one that stays."""

    front: RunningNode
    victim: RunningNode
    hit: JournalServer
    other: JournalServer
    rng: random.Random
    start: StartNode
    at_the_fault: dict[str, frozenset[str]]
    stays: RunningNode
    fault_at_s: float = 0.0
    watch: Stopwatch | None = None

    def act_when_busy(self, act: Callable[[], None]) -> None:
        """Do it while calls of both tools are inside the victim's server; notes which."""

        def note_and_act() -> None:
            act()
            self.at_the_fault.update({tool: frozenset(ids) for tool, ids in self.hit.inside.items()})
            self.fault_at_s = time.monotonic()
            self.watch = Stopwatch(self.front.process.pid, self.stays.process.pid)

        self.hit.when_busy(note_and_act)

    async def fault_has_struck(self) -> bool:
        return bool(self.at_the_fault)

    async def fault_is_over(self) -> bool:
        """Whether none of the calls that it struck is inside any more."""
        return not any(ids & self.hit.inside[tool] for tool, ids in self.at_the_fault.items())

    def no_core_s(self) -> float:
        """For how long what answers had no core since the fault."""
        assert self.watch is not None
        return max(0.0, time.monotonic() - self.fault_at_s - self.watch())

    async def is_quiet(self) -> bool:
        return not any(ids for server in (self.hit, self.other) for ids in server.inside.values())


@pytest.fixture
async def field(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Field, None]:
    """The mesh, ready and under no load yet, found by a catalog or, with the parameter `static`, by settings.

    With `short` calls end sooner. CHAOS_SEED repeats a run's choices.
    """
    static, short = (getattr(request, "param", "") == word for word in ("static", "short"))
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    rng = random.Random(seed)
    async with (
        journal_server(tmp_path / "one.journal", rng) as one,
        journal_server(tmp_path / "two.journal", rng) as two,
        running_nodes() as start,
    ):
        ports = {name: free_port() for name in ("one", "two")}
        settings = {
            "MESH_DISCOVERY": "off" if static else "embedded",
            "MESH_EMBEDDED_PORT": str(free_port()),
            "MESH_CALL_TIMEOUT_S": str(SHORT_CALL_TIMEOUT_S if short else CALL_TIMEOUT_S),
            "MESH_LOG_FORMAT": "json",
        }
        named = {"MESH_PEERS": ",".join(f"{name}=http://127.0.0.1:{port}/mcp" for name, port in ports.items())}
        # First the one that gets no fault: it serves the catalog.
        front = await start("front", tmp_path / "front", **settings, **(named if static else {}))
        nodes = await all_of(
            start(name, tmp_path / name, port=ports[name], servers={"journal": {"url": server.url}}, **settings)
            for name, server in (("one", one), ("two", two))
        )
        await eventually(partial(front.sees, "one", "two"))
        for name in ("one", "two"):
            await eventually(partial(offers_both_tools, front, name))
        index = rng.randrange(2)
        yield Field(front, nodes[index], (one, two)[index], (two, one)[index], rng, start, {}, nodes[1 - index])


@asynccontextmanager
async def load_on(field: Field) -> AsyncGenerator[Books, None]:
    """Load from start to end; afterwards, in the quiet, all answers are compared with the journals."""
    async with steady_load(field.front) as books:
        await books.grows(field.rng.randrange(100, 200))
        assert field.hit.executed()
        assert field.other.executed()
        yield books
    await eventually(field.is_quiet)
    lies = books.compare(field.hit, field.other)
    assert not lies, told(field, books, lies)


def is_hit(field: Field, call: Ended, tool: str) -> bool:
    """Whether this call was in the victim when the fault struck."""
    return call.call_id in field.at_the_fault[tool]


async def have_ended(books: Books, ids: frozenset[str]) -> bool:
    return ids <= ids_of(books.ended)


def ids_of(calls: list[Ended]) -> set[str]:
    return {call.call_id for call in calls}


def meanwhile(field: Field, books: Books, for_s: float) -> float:
    """How long calls took that were under way then, and not in the victim: half of them no longer than this.

    Where a disk or a core stands still, all of them do; where the failover takes long, they do not.
    """
    others = (call for call in books.ended if call.call_id not in frozenset().union(*field.at_the_fault.values()))
    since_s, until_s = field.fault_at_s, field.fault_at_s + for_s
    took_s = [call.took_s for call in others if call.began_s < until_s and call.began_s + call.took_s > since_s]
    return median(took_s) if took_s else 0.0


def told(field: Field, books: Books, what: object) -> str:
    """The message of a failure."""
    return f"{what}\nin flight at the fault: {field.at_the_fault}\n{books.figures(field.fault_at_s)}"


def summary(field: Field, books: Books) -> str:
    """How calls went."""
    failed = [f"{len(books.failed(tool))} of {sum(call.tool == tool for call in books.ended)} {tool}s" for tool in BOTH]
    return f"failed {' and '.join(failed)}; {books.figures(field.fault_at_s)}"


async def offers_both_tools(front: RunningNode, peer: str) -> bool:
    return bool((await front.peers())[peer]["function_count"] == len(MANAGEMENT_TOOLS) + 2)


async def is_connected(front: RunningNode, peer: str) -> bool:
    return bool((await front.peers()).get(peer, {}).get("connected"))


async def is_dropped(front: RunningNode, peer: str) -> bool:
    return not await is_connected(front, peer)


async def test_killed_replica_fails_no_harmless_call_and_no_other_is_sent_twice(field: Field) -> None:
    async with load_on(field) as books:
        field.act_when_busy(field.victim.kill)
        await eventually(field.fault_has_struck)
        await eventually(partial(have_ended, books, field.at_the_fault[READ]))
        no_core_s = field.no_core_s()
        await eventually(partial(is_dropped, field.front, field.victim.name))
        seen_s = time.monotonic() - field.fault_at_s
        later = await books.grows(100)
        assert not [call for call in later if call.outcome != "ok"], told(field, books, books.failed())
    measured(f"killed: seen after {seen_s:.1f} s; {summary(field, books)}")
    assert not books.failed(READ), told(field, books, books.failed(READ))
    # From the blow on: what was in the killed one began anew at the other.
    failover_s = [call.began_s + call.took_s - field.fault_at_s for call in books.ended if is_hit(field, call, READ)]
    usual_s = max(percentile(books.ended, 0.99, before_s=field.fault_at_s), meanwhile(field, books, max(failover_s)))
    measured(f"reads that were in it were answered {1000 * median(failover_s):.0f} ms after the blow")
    assert median(failover_s) < FAILOVER_S + 2 * usual_s + no_core_s, told(field, books, failover_s)
    failed = {call.call_id: call.outcome for call in books.failed(WRITE)}
    in_flight = dict.fromkeys(field.at_the_fault[WRITE], "unknown")
    assert failed.items() >= in_flight.items(), told(field, books, failed)


@pytest.mark.parametrize("field", ["short"], indirect=True)
async def test_hung_replica_costs_only_the_calls_that_are_in_it_and_comes_back(field: Field) -> None:
    async with load_on(field) as books:
        field.act_when_busy(partial(field.victim.process.send_signal, signal.SIGSTOP))
        await eventually(field.fault_has_struck)
        watch = Stopwatch(field.front.process.pid)
        seen_s = await watch.until(partial(is_dropped, field.front, field.victim.name), HUNG_SEEN_WITHIN_S)
        later = await books.grows(100)
        assert not [call for call in later if call.outcome != "ok"], told(field, books, books.failed())
        field.victim.process.send_signal(signal.SIGCONT)
        watch = Stopwatch(field.front.process.pid, field.victim.process.pid)
        await watch.until(partial(is_connected, field.front, field.victim.name), BACK_WITHIN_S)
        later = await books.grows(100)
        assert not [call for call in later if call.outcome != "ok"], told(field, books, books.failed())
    failed = {call.call_id: call.outcome for call in books.failed(WRITE)}
    in_flight = dict.fromkeys(field.at_the_fault[WRITE], "unknown")
    assert failed.items() >= in_flight.items(), told(field, books, failed)
    measured(f"hung: dropped after {seen_s:.1f} s; {summary(field, books)}")
    # It is left alone long before it is dropped.
    assert len(books.failed()) < len(books.ended) / 4, told(field, books, books.failed())


async def test_answers_that_break_off_in_the_middle_fail_no_read_and_no_write_is_sent_twice(field: Field) -> None:
    def break_off() -> None:
        field.hit.breaks_off = True

    async with load_on(field) as books:
        field.act_when_busy(break_off)
        await eventually(field.fault_has_struck)
        await eventually(field.fault_is_over)
        field.hit.breaks_off = False
        await books.grows(100)
    measured(f"{field.hit.broken_off} answers reset in the middle: {summary(field, books)}")
    assert not books.failed(READ), told(field, books, books.failed(READ))
    failed = {call.call_id: call.outcome for call in books.failed(WRITE)}
    in_flight = dict.fromkeys(field.at_the_fault[WRITE], "unknown")
    assert failed.items() >= in_flight.items(), told(field, books, failed)
    assert set(failed.values()) == {"unknown"}
    executed = field.hit.executed()
    assert all(executed[call_id] == 1 for call_id in failed), told(field, books, failed)


@pytest.mark.parametrize("field", ["catalog", "static"], indirect=True)
async def test_restarted_replica_fails_no_call_at_all(field: Field) -> None:
    async with load_on(field) as books:
        field.act_when_busy(field.victim.process.terminate)
        await eventually(field.fault_has_struck)
        await eventually(partial(is_dropped, field.front, field.victim.name))
        async with asyncio.timeout(STOP_TIMEOUT_S):
            assert await field.victim.process.wait() == 0
        await books.grows(100)
        before = field.hit.executed()
        await field.start(field.victim)
        await eventually(partial(is_connected, field.front, field.victim.name), BACK_WITHIN_S)

        async def works_again() -> bool:
            return bool(field.hit.executed() - before)

        # Nothing was held against it: a goodbye is no failure.
        await eventually(works_again)
    measured(f"restarted: {summary(field, books)}")
    assert not books.failed(), told(field, books, books.failed())


async def test_slowed_replica_gets_few_calls_and_fails_none(field: Field) -> None:
    pace = 1.0

    def slow_down() -> None:
        nonlocal pace
        pace = max(1.0, percentile(books.ended, 0.5) / CALL_S)
        field.hit.slower_by = SLOWER_BY * pace

    shares: list[int] = []
    async with load_on(field) as books:
        field.act_when_busy(slow_down)
        await eventually(field.fault_has_struck)

        async def is_spared() -> bool:
            latest = ids_of([call for call in books.ended if call.began_s > field.fault_at_s][-100:])
            assert len(latest) == 100
            shares.append(len(latest & field.hit.executed().keys()))
            return shares[-1] < SLOW_SHARE_MAX

        await eventually(is_spared, SPARED_WITHIN_S * pace)
        spared_s = time.monotonic() - field.fault_at_s
        measured(
            f"slowed {field.hit.slower_by:.0f} times: {shares[-1]}% of the calls go there after {spared_s:.1f} s; "
            f"before, calls took: {spread(books.ended, before_s=field.fault_at_s)}"
        )

        async def share_there() -> float:
            later = await books.grows(SPARED_CALLS)
            there = ids_of(later) & field.hit.executed().keys()
            measured(f"then {len(there)} of {len(later)} go there; they take: {spread(later)}")
            return len(there) / len(later)

        # Again where the other one had no time either, and was as slow for a moment.
        share = await least(share_there, SPARED_SHARE_MAX)
    assert not books.failed(), told(field, books, books.failed())
    assert share <= SPARED_SHARE_MAX, told(field, books, share)
