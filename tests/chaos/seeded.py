"""A chaos run: two replicas behind a front, steady calls, and faults that a seed draws, one after the other.

Each way between the front and a replica goes through a fault proxy, in both directions of dialling, and each replica's
server writes down what it executes. Used by a test for some seconds and by `python -m tests.chaos` for as long as
wanted. The one rule: one replica at a time has a fault, so the other one has to carry all calls that may be repeated.
"""

import asyncio
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.chaos.fault_proxy import FaultProxy, Weather, fault_proxy
from tests.chaos.journal_server import READ, JournalServer, journal_server
from tests.chaos.load import Books, steady_load
from tests.e2e.running import RunningNode, StartNode, running_nodes
from tests.ports import free_port
from tests.processor_time import Stopwatch
from tests.waiting import PATIENCE_S, all_of, eventually

CALL_TIMEOUT_S = 3.0
# docs/reliability.md, REACHED_EVERY_S: a node that can be reached again in one direction is dialled within 15 s.
HEALED_WITHIN_S = 15.0
NAMES = ("one", "two")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass
class Replica:
    """One replica. `to`: the proxy that the front dials it by; `back`: the one that it dials the front by."""

    node: RunningNode
    server: JournalServer
    to: FaultProxy
    back: FaultProxy

    @property
    def name(self) -> str:
        """What the front calls it."""
        return self.node.name


@dataclass(frozen=True)
class Struck:
    """One fault. `healed_s`: after its end, until the front was connected with both again, by a `Stopwatch`."""

    at_s: float
    fault: str
    replica: str
    lasted_s: float
    healed_s: float


@dataclass
class Chaos:
    """The mesh of one run, and what happened to it."""

    front: RunningNode
    replicas: list[Replica]
    start: StartNode
    rng: random.Random
    began_s: float = field(default_factory=time.monotonic)
    struck: list[Struck] = field(default_factory=list)

    def faults(self) -> dict[str, Callable[[Replica], Callable[[], None]]]:
        """Fault by name: begins it, and returns what ends it."""

        def weather(up: Weather, back: Weather, replica: Replica) -> Callable[[], None]:
            replica.to.set(up)
            replica.back.set(back)

            def fair() -> None:
                replica.to.set(Weather())
                replica.back.set(Weather())

            return fair

        def stopped(replica: Replica) -> Callable[[], None]:
            replica.node.process.send_signal(signal.SIGSTOP)
            return partial(replica.node.process.send_signal, signal.SIGCONT)

        def ended(act: Callable[[Replica], None], replica: Replica) -> Callable[[], None]:
            act(replica)
            return lambda: None  # Started again by `_strike`.

        def reset(replica: Replica) -> Callable[[], None]:
            replica.to.reset()
            replica.back.reset()
            return lambda: None

        return {
            "packets to it are lost": partial(weather, Weather(loses_up=True), Weather(loses_down=True)),
            "packets from it are lost": partial(weather, Weather(loses_down=True), Weather(loses_up=True)),
            "half open": partial(weather, Weather(reads=False), Weather(reads=False)),
            "connections refused": partial(weather, Weather(listens=False), Weather(listens=False)),
            "latency of 200 ms": partial(weather, Weather(latency_s=0.2), Weather(latency_s=0.2)),
            "10 kB/s": partial(weather, Weather(bytes_per_s=10_000), Weather(bytes_per_s=10_000)),
            "reset": reset,
            "SIGSTOP": stopped,
            "SIGKILL": partial(ended, lambda replica: replica.node.process.kill()),
            "SIGTERM": partial(ended, lambda replica: replica.node.process.terminate()),
        }

    async def strike(self, books: Books, fault: str, lasts_s: float) -> None:
        """Let one fault happen to a replica, end it, and wait until all is well again."""
        replica = self.rng.choice(self.replicas)
        at_s = time.monotonic() - self.began_s
        end = self.faults()[fault](replica)
        await asyncio.sleep(lasts_s)
        end()
        if fault in ("SIGKILL", "SIGTERM"):
            await replica.node.process.wait()
            replica.node = await self.start(replica.node)
        watch = Stopwatch(self.front.process.pid, replica.node.process.pid)
        healed_s = await watch.until(self.is_whole, HEALED_WITHIN_S if "lost" in fault else PATIENCE_S)
        later = await books.grows(20)
        assert not [call for call in later[-5:] if call.outcome != "ok"], f"{fault}: {later}"
        self.struck.append(Struck(at_s, fault, replica.name, lasts_s, healed_s))

    async def is_whole(self) -> bool:
        """Whether the front is linked with both replicas, whatever other peers it has."""
        peers = await self.front.peers()
        return all(peers[name]["connected"] for name in NAMES)

    async def is_quiet(self) -> bool:
        """Whether no server is busy any more."""
        return not any(ids for replica in self.replicas for ids in replica.server.inside.values())


@asynccontextmanager
async def proxied_mesh(
    folder: Path, rng: random.Random, *, front: Mapping[str, Any] = _NOTHING
) -> AsyncGenerator[Chaos, None]:
    """A front and two replicas, each way through a proxy; ready, and linked in both directions.

    `front`: what else the front starts with, as `start_node` takes it.
    """
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(running_nodes())
        front_port, settings = free_port(), {"MESH_DISCOVERY": "off", "MESH_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S)}
        # A node proves itself only under addresses that it knows for its own; those of the proxies it cannot know.
        settings["MESH_ALLOWED_HOSTS"] = "127.0.0.1"
        ways: list[tuple[str, int, JournalServer, FaultProxy, FaultProxy]] = []
        for name in NAMES:
            # By a generator of its own: how many calls there are must not decide which fault comes next.
            journal = journal_server(folder / f"{name}.journal", random.Random(rng.getrandbits(32)))
            server, port = await stack.enter_async_context(journal), free_port()
            to = await stack.enter_async_context(fault_proxy(port))
            ways.append((name, port, server, to, await stack.enter_async_context(fault_proxy(front_port))))
        peers = ",".join(f"{name}=http://127.0.0.1:{to.port}/mcp" for name, _, _, to, _ in ways)
        starts = [start("front", folder / "front", port=front_port, MESH_PEERS=peers, **settings, **front)]
        for name, port, server, _, back in ways:
            own = {"servers": {"journal": {"url": server.url}}, "MESH_PEERS": f"front=http://127.0.0.1:{back.port}/mcp"}
            starts.append(start(name, folder / name, port=port, **own, **settings))
        node, *nodes = await all_of(starts)
        chaos = Chaos(node, [Replica(one, *way[2:]) for one, way in zip(nodes, ways, strict=True)], start, rng)
        await eventually(chaos.is_whole)
        for one in chaos.replicas:
            await eventually(partial(one.node.sees, "front"))
        yield chaos


async def chaos_run(
    folder: Path, seed: int, *, for_s: float, lasts_s: tuple[float, float], only: str = ""
) -> tuple[Chaos, Books, list[str]]:
    """Faults for so many seconds, each lasting between two times; returns what happened, all calls, and what was a lie.

    `only`: a word that the names of the faults have.
    """
    rng = random.Random(seed)
    async with proxied_mesh(folder, rng) as chaos:
        async with steady_load(chaos.front) as books:
            await books.grows(50)
            names = [name for name in chaos.faults() if only in name]
            while time.monotonic() - chaos.began_s < for_s:
                await chaos.strike(books, rng.choice(names), rng.uniform(*lasts_s))
        await eventually(chaos.is_quiet)
        return chaos, books, books.compare(*(one.server for one in chaos.replicas))


def reads_failed(chaos: Chaos, books: Books) -> list[str]:
    """The reads that failed though another replica was well, other than by the node's time limit; and what was then.

    A link that is found dead in the call's last moment leaves no time for the other replica.
    """
    found = [call for call in books.failed(READ) if not call.timed_out and call.took_s < CALL_TIMEOUT_S]
    return [f"{call}\n{_what_was(chaos, call.began_s + call.took_s)}" for call in found]


def _what_was(chaos: Chaos, at_s: float) -> str:
    """The last fault that had begun by then, and what the front had written in the two seconds before."""
    since_s = at_s - chaos.began_s
    fault = next((one for one in reversed(chaos.struck) if one.at_s <= since_s), None)
    end_s = at_s + time.time() - time.monotonic()
    first, last = (f"{datetime.fromtimestamp(end_s - ago_s, UTC):%Y-%m-%dT%H:%M:%S.%f}" for ago_s in (2.0, 0.0))
    said = [one for one in chaos.front.events() if first <= one["time"] <= last and one["event"] != "MCP request"]
    return "\n".join([f"  at {since_s:.2f} s, in {fault}", *(f"  {one}" for one in said)])
