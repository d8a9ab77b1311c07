"""SIGTERM at any moment of a start leaves nothing registered: real nodes, and a real Consul.

The moments are each request that a start makes of Consul's agent, before and after the agent has it and while it takes
its time, and some that a seed draws from the time until a node is listed. The one rule: afterwards neither agent nor
catalog knows the node, and the exit code is that of an end in order, or of one before there was anything to end.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.consul_process import RunningConsul
from tests.e2e.processes import NodeProcess, environment_of, spawn, spawn_node
from tests.e2e.running import ONE_MESH, START_TIMEOUT_S
from tests.measured import measured
from tests.ports import free_port
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(240)]

# `SEED=7 pytest tests/chaos/test_ended_starts.py` draws other moments.
SEED = int(os.environ.get("SEED", "12"))
DRAWN = 10
AT_ONCE = 3
# A start makes fewer requests than that before it is listed.
REQUESTS_MAX = 40
# The request reaches the agent as the signal reaches the node, a moment later, or has been answered before it.
WAYS = ("asked", "held", "answered")
HELD_S = 0.3
# docs/reliability.md: what a node does to leave takes 2 s, and half a second for peers to learn of it.
GONE_WITHIN_S = 10.0


@dataclass
class Gate:
    """Stands before Consul's agent for one node, and ends that at one of its requests; `way`: see `WAYS`."""

    consul: RunningConsul
    number: int
    way: str
    process: NodeProcess | None = None
    requests: int = 0
    port: int = field(default_factory=free_port)
    _under_way: set[asyncio.Task[web.Response]] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        """Hand a request on, whatever becomes of its sender: an agent that has it does it."""
        self.requests += 1
        is_it, body = self.requests == self.number, await request.read()
        if is_it and self.way != "answered":
            self._end()
        task = asyncio.ensure_future(self._handed_on(request.method, request.path_qs, body, held=is_it))
        self._under_way.add(task)
        answer = await asyncio.shield(task)
        if is_it and self.way == "answered":
            asyncio.get_running_loop().call_soon(self._end)
        return answer

    async def _handed_on(self, method: str, path: str, body: bytes, *, held: bool) -> web.Response:
        if held and self.way == "held":
            await eventually(partial(has_lasted, time.monotonic(), HELD_S))
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.consul.url}{path}", data=body) as answer,
        ):
            index = answer.headers.get("X-Consul-Index")
            headers = {} if index is None else {"X-Consul-Index": index}
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)

    def _end(self) -> None:
        assert self.process is not None
        self.process.terminate()

    async def settled(self) -> None:
        """Return when the agent has done what it was given; what still waits for news is no matter."""
        if not self._under_way:
            return
        await asyncio.wait(self._under_way, timeout=2 * HELD_S)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


@asynccontextmanager
async def gate(consul: RunningConsul, number: int, way: str) -> AsyncIterator[Gate]:
    app, made = web.Application(), Gate(consul, number, way)
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    try:
        yield made
    finally:
        await made.settled()
        await runner.cleanup()


async def test_a_start_that_is_ended_at_any_of_its_requests_to_consul_leaves_nothing_registered(
    consul: RunningConsul, tmp_path: Path
) -> None:
    async with gate(consul, 0, "") as at:
        # What its end asks for does not count: a start that goes on would come to so many much later.
        counts = list[int]()
        where = tmp_path / "whole.log", f"http://127.0.0.1:{at.port}"
        await seconds_until_listed(consul, *where, lambda: counts.append(at.requests))
        (count,) = counts
    assert 3 <= count <= REQUESTS_MAX
    places = asyncio.Semaphore(AT_ONCE)
    codes = await all_of(
        ended_at_request(consul, tmp_path, number, way, places) for number in range(1, count + 1) for way in WAYS
    )
    assert set(codes) <= {0, -signal.SIGTERM}
    await nothing_is_registered(consul)
    measured(f"{len(codes)} starts ended at one of {count} requests to Consul's agent, nothing stays registered")


async def ended_at_request(
    consul: RunningConsul, folder: Path, number: int, way: str, places: asyncio.Semaphore
) -> int:
    """The exit code of a node that was ended at that request."""
    async with places, gate(consul, number, way) as at:
        name = f"{way}-{number}"
        log, settings = folder / f"{name}.log", settings_of(name, folder, f"http://127.0.0.1:{at.port}")
        # All of its requests come after its imports, so it may be copied; what ends while it imports is below.
        at.process = process = spawn_node(log, settings)
        try:
            async with asyncio.timeout(60):
                return await process.wait()
        finally:
            process.kill_and_reap()


async def test_a_start_that_is_ended_at_moments_that_a_seed_draws_leaves_nothing_registered(
    consul: RunningConsul, tmp_path: Path
) -> None:
    # As many side by side as below, which all cost each other time.
    logs = [tmp_path / f"whole-{number}.log" for number in range(AT_ONCE)]
    whole_s = max(await all_of(seconds_until_listed(consul, log, consul.url) for log in logs))
    rng, places = random.Random(SEED), asyncio.Semaphore(AT_ONCE)
    moments = [rng.uniform(0.0, 1.3 * whole_s) for _ in range(DRAWN)]

    async def ended_after(number: int, seconds: float) -> int:
        async with places:
            process = begun(f"drawn-{number}", tmp_path / f"drawn-{number}.log", consul.url)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await process.wait()
                process.terminate()
                async with asyncio.timeout(60):
                    return await process.wait()
            finally:
                process.kill_and_reap()

    codes = await all_of(ended_after(number, seconds) for number, seconds in enumerate(moments))
    assert set(codes) <= {0, -signal.SIGTERM}, f"SEED={SEED}"
    await nothing_is_registered(consul)
    in_order = codes.count(0)
    measured(
        f"{DRAWN} starts were ended within {max(moments):.1f} s, listed after {whole_s:.1f} s; {in_order} of them had"
        " something to end; nothing stays registered"
    )


async def seconds_until_listed(
    consul: RunningConsul, log: Path, address: str, then: Callable[[], None] = lambda: None
) -> float:
    """From the start of a node to its place in the catalog; it is ended then, once `then` was called."""

    async def is_listed() -> bool:
        rows = await consul.call("GET", "/v1/health/service/mcp-node?passing")
        return any(row["Service"]["Meta"]["name"] == log.stem for row in rows)

    began_s = time.monotonic()
    process = begun(log.stem, log, address)
    try:
        await eventually(is_listed, START_TIMEOUT_S)
        took_s = time.monotonic() - began_s
        then()
        process.terminate()
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        process.kill_and_reap()
    return took_s


def begun(name: str, log: Path, address: str) -> NodeProcess:
    """A node's process, as from a shell."""
    return spawn(("agent", "run"), log, settings_of(name, log.parent, address))


def settings_of(name: str, folder: Path, address: str) -> dict[str, str]:
    """The environment of a node of this name."""
    settings = {
        "PORT": str(free_port()),
        "MESH_NODE_NAME": name,
        "MESH_STATE_DIR": str(folder / f"{name}.state"),
        "MESH_PEER_TOKEN": ONE_MESH,
        "CONSUL_HTTP_ADDR": address,
    }
    return environment_of(settings)


async def has_lasted(since_s: float, seconds: float) -> bool:
    return time.monotonic() - since_s >= seconds


async def nothing_is_registered(consul: RunningConsul) -> None:
    async def is_empty() -> bool:
        listed = [row["ServiceID"] for row in await consul.call("GET", "/v1/catalog/service/mcp-node")]
        held = [one for one in await consul.call("GET", "/v1/agent/services") if one != "consul"]
        assert (listed, held) == ([], [])
        return True

    await Stopwatch().until(is_empty, GONE_WITHIN_S)
