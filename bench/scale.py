"""What the number of peers costs one node: idle links, dead peers, deaths, a change of one link, of all, of a catalog.

The peers are `bench.stub_nodes`, hundreds in a process, listed by a file; their own cost is theirs. Made for
docs/scale.md, which says what follows for a mesh of thousands. The one rule: processor time is read from the kernel,
for a machine that has other work to do makes every clock lie.
"""

import asyncio
import gc
import itertools
import os
import signal
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson

from agent.control.selector import Selector
from agent.links.actions import reconcile
from agent.model import LinkState, NodeIdentity, ServerScope
from bench.catalog_change import Cost, costs_of_changes
from bench.crowd_change import costs_of_crowds
from bench.figures import Figure, percentile
from bench.link_change import cost_ms
from bench.long_catalog import row
from bench.processes import cpu_s, node_process, resident_bytes, stub_node_process
from bench.raw_client import RawClient
from discovery.consul.blocking_query import weigh
from discovery.consul.rows import RowReader
from discovery.model import Catalog
from tests.ports import free_ports

PEERS = (10, 100, 300, 1_000)
INSTANCES = (10, 100, 1_000, 5_000)
LINKED = (100, 1_000, 4_000)
REAL_NODES = 20
ASKING = 40
STUBS_IN_PROCESS = 100
CHANGES, LONGEST_PIECE_GOAL_MS = 7, 20.0
IDLE_S = 20.0
SETTLE_S = 15.0
# Back-off has come to its longest by then, and dials of all links together to five a second.
DEAD, DEAD_SETTLE_S, DEAD_S = 1_000, 600.0, 60.0
CROWD, VICTIMS = 600, 300
BEFORE_S, DURING_S = 10.0, 15.0
TOOL = "echo__echo"


async def measure() -> list[Figure]:
    """Everything; `SCALE=idle,real,asked,dead,deaths,change,crowd,catalog` chooses."""
    parts: dict[str, Callable[[], Any]] = {
        "idle": _idle,
        "real": _real,
        "asked": _asked,
        "dead": _dead,
        "deaths": _deaths,
        "change": _change,
        "crowd": _crowd,
        "catalog": _catalog,
    }
    chosen = [name for name in os.environ.get("SCALE", "").split(",") if name] or list(parts)
    return [figure for name in chosen for figure in await parts[name]()]


async def _idle() -> list[Figure]:
    figures = []
    for count in PEERS:
        async with _front_of(count) as (base, process_id, _):
            await asyncio.sleep(SETTLE_S)
            share = await _share(process_id, IDLE_S)
            lag_s, _ = await metric(base, "mesh_event_loop_lag_seconds")
            figures += [
                Figure(f"{count} idle peers: share of a core", share, "%"),
                Figure(f"{count} idle peers: memory of the node", resident_bytes(process_id) / 2**20, "MB"),
                Figure(f"{count} idle peers: longest delay of the event loop in 30 s", 1000 * lag_s, "ms"),
            ]
    return figures


async def _real() -> list[Figure]:
    """Twenty whole nodes, each linked with all others, on this one machine."""
    ports = free_ports(REAL_NODES)
    async with AsyncExitStack() as stack:
        listed = stack.enter_context(_listing([f"http://127.0.0.1:{port}/mcp" for port in ports]))
        ids = []
        for number, port in enumerate(ports):
            settings = {
                "MESH_DISCOVERY": "off",
                "MESH_PEER_FILES": listed,
                "MESH_LOG_LEVEL": "error",
                "PORT": str(port),
            }
            _, process_id = await stack.enter_async_context(node_process(f"r{number}", **settings))
            ids.append(process_id)
        await asyncio.sleep(SETTLE_S + 10.0)
        before = [cpu_s(one) for one in ids]
        began_s = time.monotonic()
        await asyncio.sleep(IDLE_S)
        took_s = time.monotonic() - began_s
        shares = [100 * (cpu_s(one) - used) / took_s for one, used in zip(ids, before, strict=True)]
        memory = [resident_bytes(one) / 2**20 for one in ids]
    return [
        Figure(f"{REAL_NODES} real nodes, idle: share of a core of each, median", statistics.median(shares), "%"),
        Figure(f"{REAL_NODES} real nodes, idle: share of a core of all", sum(shares), "%"),
        Figure(f"{REAL_NODES} real nodes: memory of each, median", statistics.median(memory), "MB"),
    ]


async def _asked() -> list[Figure]:
    """The other half of a link: a node that dials no other one, and whole nodes that each have a link to it."""
    async with AsyncExitStack() as stack:
        base, process_id = await stack.enter_async_context(node_process("asked", MESH_DISCOVERY="off"))
        await asyncio.sleep(SETTLE_S)
        alone, alone_bytes = await _share(process_id, IDLE_S), resident_bytes(process_id)
        settings = {"MESH_DISCOVERY": "off", "MESH_PEERS": f"asked={base}/mcp", "MESH_LOG_LEVEL": "error"}
        for number in range(ASKING):
            await stack.enter_async_context(node_process(f"a{number}", **settings))
        await asyncio.sleep(SETTLE_S)
        share, held_bytes = await _share(process_id, 2 * IDLE_S), resident_bytes(process_id)
    return [
        Figure("a node without a link: share of a core", alone, "%"),
        Figure(f"the same, asked by {ASKING} nodes: share of a core", share, "%"),
        Figure(f"memory for each of {ASKING} nodes that ask", (held_bytes - alone_bytes) / 2**10 / ASKING, "KB"),
    ]


async def _dead() -> list[Figure]:
    # A port of this machine's own address may be taken by another program before ten minutes are over.
    with _listing([f"http://127.77.{number // 250}.{number % 250 + 1}:9/mcp" for number in range(DEAD)]) as listed:
        async with node_process("front", MESH_DISCOVERY="off", MESH_PEER_FILES=listed, MESH_LOG_LEVEL="error") as (
            _,
            process_id,
        ):
            await asyncio.sleep(DEAD_SETTLE_S)
            share = await _share(process_id, DEAD_S)
    async with node_process("front", MESH_DISCOVERY="off") as (_, process_id):
        await asyncio.sleep(SETTLE_S)
        alone = await _share(process_id, IDLE_S)
    return [
        Figure("a node alone: share of a core", alone, "%"),
        Figure(f"{DEAD:,} listed peers that stay dead: share of a core", share, "%", 2.0),
    ]


async def _deaths() -> list[Figure]:
    async with _front_of(CROWD) as (base, _, stubs), RawClient(f"{base}/mcp") as client:
        while await _nodes(client) < CROWD:
            await asyncio.sleep(0.5)
        await asyncio.sleep(SETTLE_S)
        # The first of the list stay: their processes are the last to go.
        living = [f"n{number}" for number in range(STUBS_IN_PROCESS)]
        before = await _called(client, living, BEFORE_S)
        for process_id in stubs[len(stubs) - VICTIMS // STUBS_IN_PROCESS :]:
            os.kill(process_id, signal.SIGKILL)
        during = await _called(client, living, DURING_S)
    p50, p99 = (percentile(during, share) / percentile(before, share) for share in (0.5, 0.99))
    return [
        Figure("calls before the deaths, p50", percentile(before, 0.5), "ms"),
        Figure("calls before the deaths, p99", percentile(before, 0.99), "ms"),
        Figure(f"calls to the living while {VICTIMS} of {CROWD} peers die, p50 over before", p50, "x", 1.5),
        Figure(f"calls to the living while {VICTIMS} of {CROWD} peers die, p99 over before", p99, "x", 2.0),
    ]


async def _change() -> list[Figure]:
    """Of a peer with tools of its own, and of one replica of a service or node of a fleet that all peers are."""
    scopes = {
        ServerScope.NODE: "tools of its own",
        ServerScope.SERVICE: "a service of all",
        ServerScope.FLEET: "a fleet",
    }
    return [
        Figure(f"a link's change among {peers:,} peers, {what}: processor time", await cost_ms(peers, scope), "ms")
        for scope, what in scopes.items()
        for peers in LINKED
    ]


async def _crowd() -> list[Figure]:
    """All links of a node go down at once, come up at once, and are looked at every half minute."""
    figures = []
    for count in INSTANCES[-2:]:
        for name, costs in (await costs_of_crowds(count, CHANGES)).items():
            figures += _of_loop(f"{count:,} links, {name}", costs)
    return figures


def _of_loop(what: str, costs: Sequence[Cost]) -> list[Figure]:
    longest, whole = (1000 * statistics.median(part) for part in zip(*map(astuple, costs), strict=True))
    return [
        Figure(f"{what}: the event loop's longest piece of work", longest, "ms", LONGEST_PIECE_GOAL_MS),
        Figure(f"{what}: the event loop's work in all", whole, "ms"),
    ]


async def _catalog() -> list[Figure]:
    figures = []
    for count in INSTANCES:
        rows, reader, selector, shown = await _selected(count)
        actual = {spec.key: spec for spec in selector.selection.peers}
        samples = []
        for epoch in range(2, 12):
            rows[epoch % count] = row(epoch % count, epoch)
            began_s = time.process_time()
            answer, _ = reader.read(rows)
            verdict = weigh(shown, answer, canary=None, settling=False, suspects=frozenset(), confirming=False)
            assert verdict.catalog is not None
            shown = verdict.catalog
            await selector.select(shown, (), ())
            desired = {spec.key: spec for spec in selector.selection.peers}
            reconcile(desired, actual)
            actual = desired
            samples.append(1000 * (time.process_time() - began_s))
        name = f"a change of a catalog of {count:,} instances: processor time"
        figures.append(Figure(name, statistics.median(samples), "ms"))
        figures.append(Figure(f"what is held of {count:,} instances", await _held_bytes(count) / 1e6, "MB"))
    for count, state in itertools.product(INSTANCES, (LinkState.BACKOFF, LinkState.READY)):
        costs = await costs_of_changes(count, CHANGES, state)
        figures += _of_loop(f"the same of {count:,}, all links {state.value}", costs)
    return figures


async def _selected(count: int) -> tuple[list[bytes], RowReader, Selector, Catalog]:
    """So many rows, what has read them and what has selected of them, and the catalog that they are."""
    rows = [row(number, 1) for number in range(count)]
    reader, selector = RowReader(), Selector(NodeIdentity("id-own", "own"), cast("Any", _NoWords()))
    shown, _ = reader.read(rows)
    await selector.select(shown, (), ())
    return rows, reader, selector, shown


async def _held_bytes(count: int) -> int:
    """The Python objects of so many instances: rows as they came, what was read of them, and what was selected."""
    tracemalloc.start()
    try:
        _held = (await _selected(count))[1:]  # But for the rows, which an answer of Consul's is.
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


class _NoWords:
    overrides = suppressions = ()


@asynccontextmanager
async def _front_of(count: int) -> AsyncGenerator[tuple[str, int, list[int]], None]:
    """A node with so many stub peers, all linked: its URL and process, and the processes of the stubs."""
    async with AsyncExitStack() as stack:
        urls: list[str] = []
        stubs: list[int] = []
        while len(urls) < count:
            part = min(STUBS_IN_PROCESS, count - len(urls))
            more, process_id = await stack.enter_async_context(stub_node_process(part, 0, first=len(urls)))
            urls += more
            stubs.append(process_id)
        listed = stack.enter_context(_listing(urls))
        settings = {"MESH_DISCOVERY": "off", "MESH_PEER_FILES": listed, "MESH_LOG_LEVEL": "error"}
        base, process_id = await stack.enter_async_context(node_process("front", **settings))
        while (await metric(base, "mesh_links", within=('"ready"',)))[0] < count:
            await asyncio.sleep(0.5)
        yield base, process_id, stubs


class _listing:  # noqa: N801 - read as the verb that it is: `with _listing(urls) as path`
    """A file of peers, for the time of the block."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mesh-bench-")
        targets = [url.removeprefix("http://").removesuffix("/mcp") for url in urls]
        self._path = Path(self._folder.name, "peers.json")
        self._path.write_bytes(orjson.dumps([{"targets": targets, "labels": {}}]))

    def __enter__(self) -> str:
        return str(self._path)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


async def _share(process_id: int, seconds: float) -> float:
    """The share of a core that a process uses, in percent."""
    used_s, began_s = cpu_s(process_id), time.monotonic()
    await asyncio.sleep(seconds)
    return 100 * (cpu_s(process_id) - used_s) / (time.monotonic() - began_s)


async def metric(base: str, name: str, within: Collection[str] | None = None) -> tuple[float, int]:
    """The sum of a metric's series that have one of these words in their labels (None: of all), and their number."""
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics") as response:
        lines = (await response.text()).splitlines()
    found = [
        line
        for line in lines
        if line.partition("{")[0].partition(" ")[0] == name and (within is None or any(word in line for word in within))
    ]
    return sum(float(line.rpartition(" ")[2]) for line in found), len(found)


async def _nodes(client: RawClient) -> int:
    tools = (await client.request("tools/list"))["tools"]
    return max((tool.get("_meta", {}).get("mesh-agent/origin", {}).get("nodes", 0) for tool in tools), default=0)


async def _called(client: RawClient, nodes: Sequence[str], seconds: float) -> list[float]:
    """Milliseconds of calls to these nodes in turn, one after the other."""
    until_s, samples, number = time.monotonic() + seconds, [], 0
    while time.monotonic() < until_s:
        call = partial(client.call, TOOL, {"node": nodes[number % len(nodes)], "text": "sixteen bytes ok"})
        began_s = time.perf_counter()
        await call()
        samples.append(1000 * (time.perf_counter() - began_s))
        number += 1
    return samples
