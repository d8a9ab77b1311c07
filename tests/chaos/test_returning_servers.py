"""Servers that were away are found soon after their return: sooner where they are called.

Two servers for each way of being away (`tests/chaos/absences.py`, and packets that are lost), over HTTP behind one real
node; all go and return together, and one of each two is called all along. The one rule: no catalog says when they are
back.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.chaos.absences import Absence, served_ports
from tests.chaos.namespace import Machine, other_machine, why_not
from tests.e2e.by_hand import modern_answer
from tests.e2e.processes import environment_of, spawn_copy
from tests.e2e.running import RunningNode, running_nodes
from tests.integration.servers.certificates import Authority
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result
from tests.measured import measured
from tests.ports import free_ports
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

# docs/reliability.md; the rest is for twenty servers that return at once and answer from this one process. A pause that
# grew would be ten.
FOUND_CALLED_S = 2.0
FOUND_S = 10.0
SLACK_S = 3.0
# Between a caller's calls. They fail at once, and without a pause the callers would take the machine for themselves.
PAUSE_S = 0.05
# The silent ones are fewer than half, or the node would doubt itself.
ABSENCES = (
    Absence.REFUSES,
    Absence.FULL,
    Absence.SILENT,
    Absence.PAGE_404,
    Absence.PAGE_502,
    Absence.JSON_503,
    Absence.PAGE_200,
    Absence.PAUSE_503,
    Absence.ERROR_502,
    Absence.ERROR_200,
)
# So many dials in vain, and the pauses are as long as they ever get. What is no MCP has the longest ones at once, and
# what hangs takes five seconds each time.
# The page that asks for a pause puts off the next dial for minutes, and is knocked at.
ATTEMPTS = {Absence.REFUSES: 6, Absence.PAGE_502: 6, Absence.JSON_503: 6, Absence.PAUSE_503: 1}
ATTEMPTS_MIN = 2
CALLED, IDLE = "called", "idle"


async def test_a_server_that_returns_is_found_in_two_seconds_while_it_is_called_and_in_ten_while_not(
    tmp_path: Path,
) -> None:
    absences = {name_of(absence.name, word): absence for absence in ABSENCES for word in (CALLED, IDLE)}
    ports = dict(zip(absences, free_ports(len(absences)), strict=True))
    authority = Authority(tmp_path / "authority")
    issued, context = authority.issue("127.0.0.1"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    # A handshake that hangs is TLS's.
    contexts = {name: context for name, absence in absences.items() if absence is Absence.SILENT}
    urls = {name: f"http{'s' * (name in contexts)}://127.0.0.1:{port}/mcp" for name, port in ports.items()}
    async with (
        served_ports(answer, ports, contexts) as found,
        served(tmp_path, urls, MESH_TLS_CA=str(authority.ca)) as node,
        calls_to(node, absences) as answered,
    ):
        for port in found.values():
            port.leave(Absence.REFUSES)
        await all_of(call(node, name) for name in absences if name.endswith(IDLE))  # Else a probe would see it.
        await all_of(eventually(partial(is_away, node, name, 1)) for name in absences)
        for name, absence in absences.items():
            found[name].leave(absence)
        await all_of(
            eventually(partial(is_away, node, name, ATTEMPTS.get(absence, ATTEMPTS_MIN)))
            for name, absence in absences.items()
            if name.endswith(IDLE)
        )
        for port in found.values():
            port.open()
        await all_are_found_again(node, absences, answered)


async def test_a_server_whose_packets_were_lost_is_found_as_soon(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: lost packets were not tried; {reason}")
    names = [name_of("lost", word) for word in (CALLED, IDLE)]
    ports = dict(zip(names, (8001, 8002), strict=True))
    with other_machine() as machine:
        urls = {name: f"http://{machine.far}:{port}/mcp" for name, port in ports.items()}
        # As many that are well here, or the node would doubt itself.
        well = {f"well-{number}": port for number, port in enumerate(free_ports(len(names)))}
        urls |= {name: f"http://127.0.0.1:{port}/mcp" for name, port in well.items()}
        async with (
            session_servers(tmp_path, list(well.values())),
            session_servers(tmp_path, list(ports.values()), machine),
            served(tmp_path, urls) as node,
            calls_to(node, names) as answered,
        ):
            machine.lose_what_is_sent_there()
            try:
                await eventually(partial(is_away, node, names[1], ATTEMPTS_MIN))
            finally:
                machine.heal()
            await all_are_found_again(node, names, answered)


@asynccontextmanager
async def served(folder: Path, urls: dict[str, str], **settings: str) -> AsyncIterator[RunningNode]:
    """A node with a server at each of these URLs, all of them up."""
    servers = {name: {"url": url, "mesh": {"scope": "service"}} for name, url in urls.items()}
    async with running_nodes() as start:
        node = await start("node", folder / "node", servers=servers, MESH_DISCOVERY="off", **settings)
        await eventually(partial(node.offers, *(f"{name}__pid" for name in urls)))
        yield node


@asynccontextmanager
async def session_servers(folder: Path, ports: list[int], machine: Machine | None = None) -> AsyncIterator[None]:
    """Servers on these ports, on that machine or on this one."""
    host, network = ("127.0.0.1", "") if machine is None else (machine.far, machine.name)
    words = ("tests.chaos.session_server", ",".join(map(str, ports)), host)
    process = spawn_copy(words, folder / f"servers-{ports[0]}.log", environment_of({}), network=network)
    try:
        async with aiohttp.ClientSession() as http:

            async def serves() -> bool:
                async with http.get(f"http://{host}:{ports[-1]}/mcp") as response:
                    return response.status == 405

            await eventually(serves)
        yield
    finally:
        process.kill_and_reap()


@asynccontextmanager
async def calls_to(
    node: RunningNode, names: dict[str, Absence] | list[str], tool: str = "pid"
) -> AsyncIterator[dict[str, float]]:
    """Call those that are to be called, over and over; when each answered last."""
    answered: dict[str, float] = {}
    pause = asyncio.Event()

    async def keep_calling(name: str) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # As good as an error.
                if "result" in await call(node, name, tool):
                    answered[name] = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S):
                    await pause.wait()

    async with asyncio.TaskGroup() as group:
        called = [name for name in names if name.endswith(CALLED)]
        callers = [group.create_task(keep_calling(name), name=f"calls {name}") for name in called]
        try:
            yield answered
        finally:
            for caller in callers:
                caller.cancel()


async def all_are_found_again(
    node: RunningNode, names: dict[str, Absence] | list[str], answered: dict[str, float]
) -> None:
    back_s, watch = time.monotonic(), Stopwatch(node.process.pid)

    async def seconds_until_found(name: str) -> float:
        async def is_found() -> bool:
            if name.endswith(CALLED):
                return answered.get(name, 0.0) > back_s
            return bool((await node.servers())[name]["state"] == "ready")

        await eventually(is_found)
        return watch()

    took_s = dict(zip(names, await all_of(map(seconds_until_found, names)), strict=True))
    measured(", ".join(f"{name}: {seconds:.1f} s" for name, seconds in took_s.items()))
    for name, seconds in took_s.items():
        assert seconds < (FOUND_CALLED_S if name.endswith(CALLED) else FOUND_S) + SLACK_S, (name, took_s)


def name_of(way: str, word: str) -> str:
    return f"{way.lower().replace('_', '-')}-{word}"


async def answer(request: Seen) -> tuple[bytes, bool]:
    match request.body.get("method"):
        case "server/discover":
            return discovered(request), True
        case "tools/list":
            return rpc_result(request, {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}), True
        case "tools/call":
            return rpc_result(request, {"content": []}), True
        case _:
            return rpc_error(request, 404, -32601, "Method not found"), True


async def call(node: RunningNode, name: str, tool: str = "pid") -> dict[str, object]:
    return await modern_answer(node.url, "tools/call", {"name": f"{name}__{tool}", "arguments": {}})


async def is_away(node: RunningNode, name: str, attempts: int) -> bool:
    return bool((await node.servers())[name]["attempts"] >= attempts)
