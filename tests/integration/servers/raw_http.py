"""A TCP server that does what a test wants, and a pool that leads to it: what tests of the HTTP pool share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agent.client.http.open_pool import open_pool
from agent.client.http.pool import HttpPool, RequestBody
from agent.model import HttpTarget
from tests.integration.servers.hosting import Seen, http
from tests.waiting import accepted_are_served

PATIENCE_S = 10.0
OK = http(200, b'{"ok":true}')
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def ok(_: Seen) -> tuple[bytes | None, bool]:
    return OK, True


@asynccontextmanager
async def raw_server(handle: Handle, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A TCP server that does what a test wants; gives its URL."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handle(reader, writer)

    server = await asyncio.start_server(serve, host, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}/mcp"
    finally:
        server.close()
        await accepted_are_served()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def pool_of(url: str, connect_timeout_s: float = 5.0, token: str | None = None) -> AsyncIterator[HttpPool]:
    target = HttpTarget(url, token=token)
    with open_pool(target, connect_timeout_s=connect_timeout_s) as pool:
        async with asyncio.timeout(PATIENCE_S):
            yield pool


async def ask(pool: HttpPool, body: bytes = b"{}") -> bytes:
    response = await pool.post(RequestBody(body), {})
    try:
        return await response.read()
    finally:
        response.release()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds; the pool's own time-out bounds it."""
    loop = asyncio.get_running_loop()
    while not condition():
        passed = loop.create_future()
        loop.call_later(0.001, passed.set_result, None)
        await passed
