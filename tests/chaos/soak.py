"""The soak: what two hours do to a mesh in a quarter of an hour, and whether its front node holds on to any of it.

Faults and calls are those of `tests.chaos.seeded`, the faults shorter; beside them peers join and leave, and a stdio
server of the front is killed. Run by `python -m tests.chaos --soak` (`make soak`). Memory is judged by its slope over
all samples after a warm-up. The one rule: hours are counted by what has happened (`PLAIN_HOUR`) and not by the clock,
so a slow machine soaks for longer, never for less.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression, median

from bench.processes import resident_bytes
from tests.chaos.load import Books, steady_load
from tests.chaos.seeded import NAMES, Chaos, proxied_mesh
from tests.chaos.stub_peers import TOOL, listed, stub_peers
from tests.e2e.by_hand import modern_request
from tests.e2e.running import RunningNode
from tests.e2e.servers_files import example
from tests.e2e.test_servers import child_of
from tests.ports import free_ports
from tests.waiting import eventually

# A quarter of an hour is two hours of the plain pace.
SPEED = 8.0
# Half of them are peers at a time.
STUBS = 40
SWAP_EVERY_S = 9.0
# A child that dies sooner after it was started is in a crash loop, and is parked.
DEATH_EVERY_S = 65.0
SAMPLE_EVERY_S = 2.0
FAULTS_LAST_S = 0.3, 5.0
CALLERS_EACH = 12
# Each peer has been there by then, and all caches of a node have something in them.
SWAPS_BEFORE = 4
# Of all that happens; what comes then is judged. What a node holds has stopped growing after a tenth; the interpreter's
# arenas, which a burst of joins leaves half empty, have become as many as they will be by now.
WARM_UP_SHARE = 0.5
SLOPE_MB_PER_H_MAX = 1.0
# A shorter soak is in the middle of all that, and may grow by so much as a whole.
SHORT_H, SHORT_MB = 0.9, 2.0
DESCRIPTORS_MORE_MAX = TASKS_MORE_MAX = 20
# A machine on which all takes longer than so many times as long is too slow to tell anything.
LONGER_MAX = 3.0


@dataclass(frozen=True)
class Happened:
    """How often what has happened. `deaths`: of the stdio server."""

    calls: int
    joins: int
    leaves: int
    faults: int
    deaths: int

    @property
    def hours(self) -> float:
        """Of the plain pace, by what has happened least often."""
        return min(done / plain for done, plain in zip(astuple(self), astuple(PLAIN_HOUR), strict=True))

    def __str__(self) -> str:
        return (
            f"{self.calls:,} calls, {self.joins:,} joins, {self.leaves:,} leaves, {self.faults} faults,"
            f" {self.deaths} deaths of a child"
        )


# A bad hour of a mesh that is used much: ten calls a second, a peer that comes and one that goes every four seconds, a
# fault every 36 s.
PLAIN_HOUR = Happened(calls=36_000, joins=1_000, leaves=1_000, faults=100, deaths=6)


@dataclass(frozen=True)
class Sample:
    """What the front held when so many hours had happened. `zombies`: children that it has not waited for."""

    at_h: float
    memory_bytes: int
    descriptors: int
    tasks: int
    zombies: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """What samples say: of the slope, and of the medians of the first and last third after the warm-up.

    `hours`: of the plain pace that it is taken over.
    """

    hours: float
    slope_mb_per_h: float
    slope_max: float
    descriptors: tuple[float, float]
    tasks: tuple[float, float]
    zombies: frozenset[int]

    def __str__(self) -> str:
        return (
            f"memory {self.slope_mb_per_h:+.2f} MB an hour over {self.hours:.2f} hours after the warm-up (at most"
            f" {self.slope_max:.2f}); descriptors {self.descriptors[0]:g} and {self.descriptors[1]:g}, tasks"
            f" {self.tasks[0]:g} and {self.tasks[1]:g} in its first and last third; {len(self.zombies)} zombies"
        )

    def complaints(self) -> list[str]:
        """What a node must not do."""
        found = []
        if self.slope_mb_per_h > self.slope_max:
            found.append(f"memory grew by {self.slope_mb_per_h:.2f} MB an hour")
        for name, (before, after), more in (
            ("descriptors", self.descriptors, DESCRIPTORS_MORE_MAX),
            ("tasks", self.tasks, TASKS_MORE_MAX),
        ):
            if after - before > more:
                found.append(f"{after - before:g} more {name}")
        if self.zombies:
            found.append(f"children that were not waited for: {sorted(self.zombies)}")
        return found


def judged(samples: Sequence[Sample]) -> Verdict:
    """The slope of memory by linear regression, and how much more of the rest there is."""
    ends_h = samples[-1].at_h
    warm = [one for one in samples if one.at_h >= WARM_UP_SHARE * ends_h]
    span_h = ends_h - warm[0].at_h
    slope = linear_regression([one.at_h for one in warm], [one.memory_bytes / 2**20 for one in warm]).slope
    third = max(1, len(warm) // 3)

    def medians(of: Callable[[Sample], int]) -> tuple[float, float]:
        return median(map(of, warm[:third])), median(map(of, warm[-third:]))

    # One that has only just ended will be waited for: the next sample tells.
    stayed = (one.zombies & other.zombies for one, other in pairwise(samples))
    return Verdict(
        span_h,
        slope,
        SLOPE_MB_PER_H_MAX if span_h >= SHORT_H else SHORT_MB / span_h,
        medians(lambda one: one.descriptors),
        medians(lambda one: one.tasks),
        frozenset().union(*stayed),
    )


@dataclass
class Soak:
    """What goes on beside the faults and calls of `chaos`, and the samples that are taken of its front.

    `ports`: of the stub peers.
    """

    chaos: Chaos
    books: Books
    ports: list[int]
    peers: Path
    samples: list[Sample] = field(default_factory=list)
    joins: int = 0
    leaves: int = 0
    deaths: int = 0
    calls_before: int = 0

    @property
    def happened(self) -> Happened:
        """Since `begin`."""
        calls = len(self.books.ended) - self.calls_before
        return Happened(calls, self.joins, self.leaves, len(self.chaos.struck), self.deaths)

    def begin(self) -> None:
        """Count from now on."""
        self.chaos.began_s, self.calls_before = time.monotonic(), len(self.books.ended)
        self.joins = self.leaves = 0

    async def swap(self) -> None:
        """One half of the stub peers leaves, the other one joins, and each of it is called."""
        half = STUBS // 2
        numbers = range(half) if self.joins // half % 2 else range(half, STUBS)
        listed(self.peers, [self.ports[number] for number in numbers])
        front = self.chaos.front
        await eventually(
            partial(has_peers, front, {f"http://127.0.0.1:{self.ports[number]}/mcp" for number in numbers})
        )
        for number in numbers:
            call = {"name": TOOL, "arguments": {"node": f"n{number}", "text": "x"}}
            await eventually(partial(modern_request, front.url, "tools/call", call))
        self.joins, self.leaves = self.joins + half, self.leaves + half

    async def swap_on(self) -> None:
        """Swap at a steady pace, until cancelled."""
        await at_pace(SWAP_EVERY_S, self.swap)

    async def kill_on(self) -> None:
        """Kill the front's child at a steady pace, where it runs, until cancelled."""

        async def kill() -> None:
            with suppress(AssertionError, OSError):
                os.kill(child_of(self.chaos.front, "agent.examples.clock"), signal.SIGKILL)
                self.deaths += 1

        await at_pace(DEATH_EVERY_S, kill)

    async def watch_on(self) -> None:
        """Take samples, until cancelled."""
        await at_pace(SAMPLE_EVERY_S, self.watch)

    async def watch(self) -> None:
        """Take one sample."""
        front = self.chaos.front
        code, told = await front.request("GET", "/api/v1/mcp/debug")
        assert code == 200, told
        process_id = front.process.pid
        self.samples.append(
            Sample(
                self.happened.hours,
                resident_bytes(process_id),
                descriptors(process_id),
                told["data"]["task_count"],
                frozenset(zombies(process_id)),
            )
        )


async def at_pace(every_s: float, act: Callable[[], Awaitable[object]]) -> None:
    """Do it again and again, so often at most."""
    while True:
        began_s = time.monotonic()
        await act()
        await asyncio.sleep(max(0.0, every_s - (time.monotonic() - began_s)))


async def soak_run(folder: Path, seed: int, for_s: float) -> tuple[Soak, list[str]]:
    """Soak for so many seconds, and for as many hours as they are worth; returns all of it, and what was wrong."""
    rng, ports = random.Random(seed), free_ports(STUBS)
    goal_h = for_s * SPEED / 3600
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stub_peers(folder, ports))
        peers = listed(folder / "peers.json", ports[: STUBS // 2])
        # An interpreter of its own: a copied one shares most of the memory that it begins with.
        own = {"MESH_PEER_FILES": str(peers), "PYTHONHASHSEED": "0", "servers": {"clock": example("clock")}}
        chaos = await stack.enter_async_context(proxied_mesh(folder, rng, front=own))
        async with steady_load(chaos.front, callers_each=CALLERS_EACH) as books:
            soak = Soak(chaos, books, ports, peers)
            for _ in range(SWAPS_BEFORE):
                await soak.swap()
            soak.begin()
            async with asyncio.TaskGroup() as group:
                work = (soak.swap_on(), soak.kill_on(), soak.watch_on())
                tasks = [group.create_task(one, name=f"soak {number}") for number, one in enumerate(work)]
                await faults(soak, for_s, goal_h)
                for task in tasks:
                    task.cancel()
            await soak.watch()
        await eventually(chaos.is_quiet)
        slow = [f"too slow a machine: {soak.happened.hours:.2f} hours of {goal_h:.2f}"]
        lies = books.compare(*(one.server for one in chaos.replicas))
        return soak, lies if soak.happened.hours >= goal_h else [*slow, *lies]


async def faults(soak: Soak, for_s: float, goal_h: float) -> None:
    """Strike until the time is over and as much has happened as it is worth."""
    chaos = soak.chaos
    names = list(chaos.faults())
    while (lasted_s := time.monotonic() - chaos.began_s) < for_s or soak.happened.hours < goal_h:
        if lasted_s > LONGER_MAX * for_s:
            return  # What did not happen, the report says.
        await chaos.strike(soak.books, chaos.rng.choice(names), chaos.rng.uniform(*FAULTS_LAST_S))


async def has_peers(node: RunningNode, urls: set[str]) -> bool:
    """Whether the stub peers at these URLs are linked, and no other one beside the replicas is known."""
    found = {peer["url"]: peer["connected"] for name, peer in (await node.peers()).items() if name not in NAMES}
    assert found == dict.fromkeys(urls, True), found
    return True


def descriptors(process_id: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{process_id}/fd").iterdir()))


def zombies(process_id: int) -> set[int]:
    """The children of a process that have ended, and that it has not waited for."""
    found = set()
    for child in children(process_id):
        with suppress(OSError):
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            found |= {child} if state == "Z" else set()
    return found


def children(process_id: int) -> set[int]:
    """The processes that a process has started and not waited for."""
    found = set()
    for path in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):  # A thread that has ended.
            found |= set(map(int, path.read_text().split()))
    return found
