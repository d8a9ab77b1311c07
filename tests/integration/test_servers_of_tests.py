"""The servers of tests themselves (tests/integration/servers, tests/chaos): no connection outlives its server.

A node dials whenever it likes, also while its server ends, and the test would be blamed for what is left open then. The
one rule: whenever a connection comes, its other end hears that it is over.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.chaos.fault_proxy import fault_proxy
from tests.chaos.holding_proxy import holding_proxy
from tests.integration.servers.forward_proxy import forward_proxy
from tests.integration.servers.hosting import Seen, scripted, serving
from tests.integration.servers.raw_http import raw_server
from tests.waiting import one_pass, promised_within

# From before the connection is accepted to after a proxy has connected itself.
PASSES_MAX = 12
# Uvicorn waits for 0.1 s.
ENDED_WITHIN_S = 5.0

Serving = Callable[[], AbstractAsyncContextManager[int]]


async def application(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError("nothing is asked")


async def script(_request: Seen) -> tuple[bytes | None, bool]:
    raise AssertionError("nothing is asked")


async def reads(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def port_of(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


@asynccontextmanager
async def under_uvicorn() -> AsyncIterator[int]:
    async with serving(application) as base:
        yield port_of(base)


@asynccontextmanager
async def by_script() -> AsyncIterator[int]:
    async with scripted(script) as server:
        yield port_of(server.url)


@asynccontextmanager
async def by_hand() -> AsyncIterator[int]:
    async with raw_server(reads) as url:
        yield port_of(url)


@asynccontextmanager
async def behind_a_forward_proxy() -> AsyncIterator[int]:
    async with forward_proxy({}) as proxy:
        yield port_of(proxy.url)


@asynccontextmanager
async def behind_a_fault_proxy() -> AsyncIterator[int]:
    async with raw_server(reads) as url, fault_proxy(port_of(url)) as proxy:
        yield proxy.port


@asynccontextmanager
async def behind_a_holding_proxy() -> AsyncIterator[int]:
    async with raw_server(reads) as url, holding_proxy(port_of(url)) as proxy:
        yield proxy.port


@pytest.mark.parametrize(
    "server",
    [under_uvicorn, by_script, by_hand, behind_a_forward_proxy, behind_a_fault_proxy, behind_a_holding_proxy],
)
async def test_a_connection_that_comes_as_a_server_of_a_test_ends_is_ended_with_it(server: Serving) -> None:
    for passes in range(PASSES_MAX + 1):
        with socket.socket() as client:
            async with server() as port:
                client.connect(("127.0.0.1", port))
                for _ in range(passes):
                    await one_pass()
            client.setblocking(False)
            async with promised_within(ENDED_WITHIN_S):
                assert await is_ended(client), passes


async def is_ended(client: socket.socket) -> bool:
    """Whether the other end closes it; waits for that."""
    try:
        return await asyncio.get_running_loop().sock_recv(client, 1) == b""
    except ConnectionResetError:
        return True
