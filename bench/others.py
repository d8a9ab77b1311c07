"""A node beside other gateways, in front of one and the same server: rates, times, memory, requests, failed calls.

A node and FastMCP's proxy are always there; `bench.gateways` says how others join. All are alone on the first core when
they are called, in turns; wrk, the load and the server share the others. The one rule: a gateway that refuses calls has
no figure, and says so.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from bench import backend, steady, wrk
from bench.figures import Figure, ratio
from bench.gateways import ERAS, Gateway, Others, Running, call, headers_of, running
from bench.pinned import keep_to_other_cores
from bench.processes import PEER_TOKEN
from bench.raw_client import ENVELOPE
from tests.ports import free_port

ROUNDS: Final = 5
CALLERS: Final = 32
STEADY_SECONDS: Final = 5
# wrk gets more time where a call takes so long.
SLOW_S: Final = 0.01
SLOW_SECONDS: Final = 10
COUNTED_CALLS: Final = 20
# The servers behind a pair: one of them is dead for so long, after so long, in a load of so many calls a second.
PAIR_RATE: Final = 200.0
PAIR_SECONDS: Final = 14.0
DEAD_AFTER_S: Final = 4.0
DEAD_FOR_S: Final = 6.0
PAIR_ROUNDS: Final = 5
# What a node is to reach over a gateway whose name begins so: calls a second, and p50 at one caller.
GOALS: Final = {"agentgateway": (1.6, 1.0)}
NODE: Final = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json"}


@dataclass(slots=True)
class Samples:
    """Of one gateway in one era, in the order of rounds."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_alone_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    at_half: list[steady.Told] = field(default_factory=list)
    requests: float = 0.0


async def measure() -> list[Figure]:
    """Measure all of them in turns, then the pairs, each alone."""
    keep_to_other_cores()
    others = Others.named()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_server(others.server_port))
            figures.append(await backend.alone(f"http://127.0.0.1:{others.server_port}/mcp"))
            ours = (_node(others.server_port, Path(folder)), *_proxies(others.server_port))
            gateways = [await stack.enter_async_context(running(it)) for it in (*ours, *others.gateways)]
            await asyncio.sleep(2)  # What a start leaves to be done is done.
            for one in gateways:
                figures += _at_rest(one)
            figures += await _in_turns(gateways, others.server_port)
        figures += await _pairs(others, Path(folder))
    return figures


def _at_rest(one: Running) -> list[Figure]:
    start = [] if one.start_s is None else [Figure(f"{one.gateway.name}: start, to the first answer", one.start_s, "s")]
    return [*start, Figure(f"{one.gateway.name}: memory at rest", one.resident_mb(), "MB")]


async def _in_turns(gateways: Sequence[Running], port: int) -> list[Figure]:
    taken: dict[tuple[str, str], Samples] = {}
    for number in range(ROUNDS + 1):  # The first round warms up, and counts.
        for one in gateways:
            for era in one.gateway.eras:
                samples = taken.setdefault((one.gateway.name, era), Samples())
                try:
                    if number == 0:
                        samples.requests = await _requests(one.gateway, era, port)
                    await _sample(one, era, samples, keeps=number > 0)
                except (AssertionError, aiohttp.ClientError) as fault:
                    print(f"{one.gateway.name}, {era}: no figure: {str(fault)[:300]}", file=sys.stderr)
    figures = [figure for (name, era), samples in taken.items() for figure in _figures(f"{name}, {era}", samples)]
    ours = gateways[0].gateway.name
    for (name, era), samples in taken.items():
        if name != ours and len(samples.rates) == len(taken[ours, era].rates):
            figures += ratios(name, era, taken[ours, era], samples)
    return figures


def ratios(name: str, era: str, ours: Samples, theirs: Samples) -> list[Figure]:
    """Of a node over a gateway in one era, with the goals that its name says."""
    rate, p50 = next((goals for known, goals in GOALS.items() if name.startswith(known)), (None, None))
    of = f"node over {name}, {era}"
    return [
        ratio(f"{of}: calls/s at {CALLERS} callers", ours.rates, theirs.rates, rate, more_is_better=True),
        ratio(f"{of}: processor time of a call", ours.cpu_us, theirs.cpu_us),
        ratio(f"{of}: p50 at 1 caller", ours.p50_alone_ms, theirs.p50_alone_ms, p50),
    ]


async def _sample(one: Running, era: str, samples: Samples, *, keeps: bool) -> None:
    gateway = one.gateway
    parts = urlsplit(gateway.url)
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path
    async with aiohttp.ClientSession() as http:
        headers = await headers_of(gateway, era, http)
        await call(gateway, era, headers, http)
        started_s = time.perf_counter()
        await call(gateway, era, headers, http)
        call_s = time.perf_counter() - started_s
    envelope = None if era == "sessions" else ENVELOPE
    script = wrk.script(gateway.tool, headers, envelope)
    seconds = SLOW_SECONDS if call_s > SLOW_S else wrk.SECONDS
    before_s = one.cpu_s()
    crowd = await wrk.run(base, script, CALLERS, seconds, path)
    assert crowd.rate > 0, "no call was answered"
    cpu_us = (one.cpu_s() - before_s) / (crowd.rate * seconds) * 1e6
    alone = await wrk.run(base, script, 1, path=path)
    sent = steady.request(gateway.url, gateway.tool, headers, envelope)
    rate = crowd.rate / 2
    told = await steady.run(gateway.url, sent, rate=rate, seconds=STEADY_SECONDS, connections=CALLERS)
    if keeps:
        samples.rates.append(crowd.rate)
        samples.cpu_us.append(cpu_us)
        samples.p99_ms.append(crowd.p99_ms)
        samples.p50_alone_ms.append(alone.p50_ms)
        samples.at_half.append(told)


async def _requests(gateway: Gateway, era: str, port: int) -> float:
    """How many requests the server gets for one call; what it gets in as much time without calls is left out."""
    async with aiohttp.ClientSession() as http:
        headers = await headers_of(gateway, era, http)
        await call(gateway, era, headers, http)
        await asyncio.sleep(0.5)
        before, started_s = await _count(gateway, port, http), time.perf_counter()
        for _ in range(COUNTED_CALLS):
            await call(gateway, era, headers, http)
        await asyncio.sleep(0.5)
        called, took_s = await _count(gateway, port, http), time.perf_counter() - started_s
        await asyncio.sleep(took_s)
        idle = await _count(gateway, port, http) - called
    return (called - before - idle) / COUNTED_CALLS


async def _count(gateway: Gateway, port: int, http: aiohttp.ClientSession) -> int:
    if gateway.counted:
        return Path(gateway.counted).stat().st_size
    async with http.get(f"http://127.0.0.1:{port}/count") as response:
        return int(await response.read())


def _figures(name: str, samples: Samples) -> list[Figure]:
    if not samples.rates:
        return []
    ratios = [told.p99_ms / told.p50_ms for told in samples.at_half if told.p50_ms]
    failed = sum(told.failed for told in samples.at_half)
    return [
        Figure(f"{name}: calls/s at {CALLERS} callers, median", statistics.median(samples.rates), "/s"),
        Figure(f"{name}: the same, worst round", min(samples.rates), "/s"),
        Figure(f"{name}: processor time of a call, median", statistics.median(samples.cpu_us), "us"),
        Figure(f"{name}: the same, worst round", max(samples.cpu_us), "us"),
        Figure(f"{name}: p50 at 1 caller, median", statistics.median(samples.p50_alone_ms), "ms"),
        Figure(f"{name}: the same, worst round", max(samples.p50_alone_ms), "ms"),
        Figure(f"{name}: p99 at {CALLERS} callers, median", statistics.median(samples.p99_ms), "ms"),
        Figure(f"{name}: the same, worst round", max(samples.p99_ms), "ms"),
        Figure(
            f"{name}: p50 at half of that rate, median", statistics.median(it.p50_ms for it in samples.at_half), "ms"
        ),
        Figure(f"{name}: p99 there, median", statistics.median(it.p99_ms for it in samples.at_half), "ms"),
        Figure(f"{name}: p99 over p50 there, median", statistics.median(ratios or [0.0]), "x"),
        Figure(f"{name}: failed calls there", failed, ""),
        Figure(f"{name}: requests that the server gets for a call", samples.requests, ""),
    ]


async def _pairs(others: Others, folder: Path) -> list[Figure]:
    """The failed calls of each pair while one of its two servers is dead."""
    figures: list[Figure] = []
    for number in range(-1, len(others.pairs)):
        failed: list[int] = []
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_server(others.second_port))
            async with _server(others.first_port):  # Gone before the load begins, and there again.
                if number < 0:
                    front, other = _two_nodes(others, folder)
                    await stack.enter_async_context(running(other))
                    pair = await stack.enter_async_context(running(front))
                    await _until_linked(front)
                else:
                    pair = await stack.enter_async_context(running(others.pairs[number]))
            for _ in range(PAIR_ROUNDS):
                told = await _while_one_is_dead(pair.gateway, others.first_port)
                failed.append(told.failed)
        what = f"{pair.gateway.name}: failed of {told.calls} calls while one of two servers is dead"
        figures += [
            Figure(f"{what}, median", statistics.median(failed), ""),
            Figure("the same, worst", max(failed), ""),
        ]
    return figures


async def _while_one_is_dead(gateway: Gateway, port: int) -> steady.Told:
    async with _server(port):
        async with aiohttp.ClientSession() as http:
            headers = await headers_of(gateway, gateway.eras[0], http)
        await asyncio.sleep(2)
        envelope = None if gateway.eras[0] == "sessions" else ENVELOPE
        sent = steady.request(gateway.url, gateway.tool, headers, envelope)
        load = asyncio.get_running_loop().create_task(
            steady.run(gateway.url, sent, rate=PAIR_RATE, seconds=PAIR_SECONDS, connections=CALLERS), name="load"
        )
        await asyncio.sleep(DEAD_AFTER_S)
    await asyncio.sleep(DEAD_FOR_S)
    async with _server(port):
        return await load


def _node(port: int, folder: Path) -> Gateway:
    servers = {"bare": {"url": f"http://127.0.0.1:{port}/mcp"}}
    return _of_node(f"node {version('mcp-mesh-agent')}", "beside-others", servers, folder)


def _two_nodes(others: Others, folder: Path) -> tuple[Gateway, Gateway]:
    """Two nodes with a server each; what is called is the first one, whose own server dies."""
    second = _of_node("another node", "second", {"bare": {"url": f"http://127.0.0.1:{others.second_port}/mcp"}}, folder)
    servers = {"bare": {"url": f"http://127.0.0.1:{others.first_port}/mcp"}}
    return _of_node("two nodes", "first", servers, folder, MESH_PEERS=f"second={second.url}"), second


def _of_node(shown: str, name: str, servers: dict[str, object], folder: Path, **more: str) -> Gateway:
    port, own = free_port(), folder / name
    own.mkdir()
    (own / "servers.json").write_bytes(orjson.dumps({"mcpServers": servers}))
    environment = {
        **NODE,
        **more,
        "PORT": str(port),
        "MESH_NODE_NAME": name,
        "MESH_STATE_DIR": str(own),
        "MESH_SERVERS_FILE": str(own / "servers.json"),
        "MESH_PEER_TOKEN": PEER_TOKEN,
    }
    command = (sys.executable, "-m", "agent", "run")
    return Gateway(shown, f"http://127.0.0.1:{port}/mcp", "bare__echo", ERAS, command, environment=environment)


async def _until_linked(front: Gateway) -> None:
    """Until the first node has a link to its server and one to the other node."""
    parts = urlsplit(front.url)
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{parts.scheme}://{parts.netloc}/metrics") as response:
                if 'mesh_links{state="ready"} 2.0' in await response.text():
                    return
            await asyncio.sleep(0.05)


def _proxies(target_port: int) -> list[Gateway]:
    """FastMCP's, as its documentation shows it, and with one client that all share."""
    proxies = []
    for name, *mode in (("FastMCP's proxy",), ("FastMCP's proxy over one client", "one")):
        port, target = free_port(), f"http://127.0.0.1:{target_port}/mcp"
        command = (sys.executable, "-m", "bench.proxy_server", str(port), target, *mode)
        proxies.append(Gateway(f"{name} {version('fastmcp')}", f"http://127.0.0.1:{port}/mcp", "echo", ERAS, command))
    return proxies


@asynccontextmanager
async def _server(port: int) -> AsyncGenerator[None, None]:
    """The server of `bench.bare_server` at that port; at the end it is killed, as a server that dies is."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.bare_server", str(port), "16")
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(10):
            while True:
                try:
                    async with http.get(f"http://127.0.0.1:{port}/count"):
                        break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)
        yield
    finally:
        process.kill()
        await process.wait()
