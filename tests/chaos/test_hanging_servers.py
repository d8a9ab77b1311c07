"""Servers that accept requests and never answer them are found soon after they go on: sooner where they are called.

A stopped process, whose kernel still accepts, and which goes on or is replaced, and a proxy that holds the requests of
before for ever; with servers of both eras and of the old HTTP+SSE transport behind one real node. The one rule: each
hangs for so long that a dial has asked all that it asks, and waits.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StreamableHttpTransport

from tests.chaos.holding_proxy import holding_proxy
from tests.chaos.test_returning_servers import CALLED, IDLE, all_are_found_again, calls_to, served
from tests.e2e.copied_nodes import MODULES, SERVER_MODULES
from tests.e2e.processes import NodeProcess, environment_of, spawn_copy
from tests.e2e.running import CLIENT_TIMEOUT_S, RunningNode
from tests.ports import free_port, free_ports
from tests.waiting import PATIENCE_S, all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.usefixtures("quick_servers")]

# A dial asks for the newer era for five seconds, then for a session.
WAITS_AFTER_S = 7.0
PATHS = {"modern": "/mcp", "session": "/mcp", "sse": "/sse"}
# Until then: 12 s to find it hung, a dial that may be given up after 10 s, 8 s to the next one, and that wait; the rest
# is the test machine's.
WAITS_WITHIN_S = 2 * PATIENCE_S
# What many a proxy answers itself. The stream of HTTP+SSE is a GET, which has to pass.
ANSWERED = {"modern": "GET", "session": "GET", "sse": "OPTIONS"}
# A process that is killed, and another one in its place.
REPLACED = "replaced"
# Servers that are well; were they fewer, the node would doubt itself.
WELL = 8


async def test_a_stopped_process_that_goes_on_is_found_in_two_seconds_while_it_is_called_and_in_ten_while_not(
    tmp_path: Path,
) -> None:
    names = [f"{kind}-{word}" for kind in (*PATHS, REPLACED) for word in (CALLED, IDLE)]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    async with AsyncExitStack() as stack:
        processes = {
            name: await stack.enter_async_context(server(tmp_path, kind_of(name), port)) for name, port in ports.items()
        }
        await all_of(has_listed(kind_of(name), port) for name, port in ports.items())
        urls = {name: f"http://127.0.0.1:{port}{PATHS[kind_of(name)]}" for name, port in ports.items()}
        urls |= await stack.enter_async_context(servers_that_are_well(tmp_path))
        node = await stack.enter_async_context(served(tmp_path, urls))
        for process in processes.values():
            process.send_signal(signal.SIGSTOP)
        await all_of(waits(node, name) for name in names)
        answered = await stack.enter_async_context(calls_to(node, names))
        for name, process in processes.items():
            if name.startswith(REPLACED):
                process.kill_and_reap()
                await stack.enter_async_context(server(tmp_path, kind_of(name), ports[name]))
            else:
                process.send_signal(signal.SIGCONT)
        await all_of(eventually(partial(listens, ports[name])) for name in names)
        await all_are_found_again(node, names, answered)


@pytest.mark.parametrize("answers_itself", [False, True], ids=["silent", "answers itself"])
async def test_a_server_behind_a_proxy_that_holds_what_came_before_is_found_as_soon(
    tmp_path: Path, *, answers_itself: bool
) -> None:
    names = [f"{kind}-{word}" for kind in PATHS for word in (CALLED, IDLE)]
    async with AsyncExitStack() as stack:
        proxies = {}
        for kind in PATHS:
            port = free_port()
            await stack.enter_async_context(server(tmp_path, kind, port))
            await has_listed(kind, port)
            refuses = ANSWERED[kind] if answers_itself else ""
            for word in (CALLED, IDLE):
                proxies[f"{kind}-{word}"] = await stack.enter_async_context(holding_proxy(port, refuses))
        urls = {name: f"http://127.0.0.1:{one.port}{PATHS[kind_of(name)]}" for name, one in proxies.items()}
        urls |= await stack.enter_async_context(servers_that_are_well(tmp_path))
        node = await stack.enter_async_context(served(tmp_path, urls))
        for proxy in proxies.values():
            proxy.hold()
        await all_of(waits(node, name) for name in names)
        answered = await stack.enter_async_context(calls_to(node, names))
        for proxy in proxies.values():
            proxy.go_on()
        await all_are_found_again(node, names, answered)


@asynccontextmanager
async def servers_that_are_well(folder: Path) -> AsyncIterator[dict[str, str]]:
    ports = free_ports(WELL)
    async with server(folder, "session", *ports):
        yield {f"well-{number}": f"http://127.0.0.1:{port}/mcp" for number, port in enumerate(ports)}


@asynccontextmanager
async def server(folder: Path, kind: str, *ports: int) -> AsyncIterator[NodeProcess]:
    """A server with one tool, `pid`, in a process of its own."""
    words, modules = ("tests.chaos.session_server", ",".join(map(str, ports))), MODULES
    if kind != "session":
        modules, transport = SERVER_MODULES, "sse" if kind == "sse" else "http"
        words = ("tests.chaos.old_transport_server", "127.0.0.1", str(ports[0]), transport)
    process = spawn_copy(words, folder / f"{kind}-{ports[0]}.log", environment_of({}), modules=modules)
    try:
        yield process
    finally:
        process.kill_and_reap()


def kind_of(name: str) -> str:
    kind = name.partition("-")[0]
    return "session" if kind == REPLACED else kind


async def has_listed(kind: str, port: int) -> None:
    """Return when the server has listed its tools to a client.

    FastMCP's imports more for its first list: where that takes long, a node gives it as long for each probe
    (`agent.links.probe`), and would not find it hung until its next one.
    """
    await eventually(partial(listens, port))
    url = f"http://127.0.0.1:{port}{PATHS[kind]}"
    transport = SSETransport(url) if kind == "sse" else StreamableHttpTransport(url)
    async with Client(transport, mode="legacy" if kind == "session" else "auto", timeout=CLIENT_TIMEOUT_S) as client:
        await client.list_tools()


async def listens(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return True


async def waits(node: RunningNode, name: str, seconds: float = WAITS_AFTER_S) -> None:
    """Return when one dial of it has waited for so long, by default that all has been asked."""
    since_s: float | None = None

    async def has_waited() -> bool:
        nonlocal since_s
        if (await node.servers())[name]["state"] != "dialing":
            since_s = None
        elif since_s is None:
            since_s = time.monotonic()
        return since_s is not None and time.monotonic() - since_s > seconds

    await eventually(has_waited, WAITS_WITHIN_S)
