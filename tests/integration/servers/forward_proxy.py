"""A forward proxy as firewalls put before the world: it knows names that no resolver does, and may want a password.

Used by the tests of proxies. Whole URLs for http, CONNECT for the rest (RFC 9110, sections 7.4 and 9.3.6). The one
rule: it leads where its own table says, so that what gets there has come through it.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.waiting import accepted_are_served


@dataclass
class ForwardProxy:
    """`places`: from host and port as they are asked for to a port of this machine. `asked`: the first lines."""

    places: Mapping[str, int]
    user: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    refused: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False when the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        self.asked.append(first)
        method, where, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        expected = "Basic " + base64.b64encode(self.user.encode()).decode()
        if self.user and headers.get("proxy-authorization") != expected:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return True
        parts = urlsplit(where if "://" in where else f"//{where}")
        port = self.places.get(parts.netloc)
        if port is None:
            writer.write(b"HTTP/1.1 502 No Such Host\r\nContent-Length: 0\r\n\r\n")
            return True
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(to_server)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            kept = [line for line in lines if line and not line.lower().startswith("proxy-")]
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            to_server.write(
                "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode("latin-1")
            )
            to_server.write(body)
        async with asyncio.TaskGroup() as group:
            if method == "CONNECT":
                group.create_task(_pump(reader, to_server), name="to the server")
            group.create_task(_pump(from_server, writer), name="from the server")
        return False


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    writer.close()


@asynccontextmanager
async def forward_proxy(places: Mapping[str, int], user: str = "") -> AsyncIterator[ForwardProxy]:
    """Run it; `user` is `name:password`."""
    proxy = ForwardProxy(places, user)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://{f'{user}@' if user else ''}127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await accepted_are_served()
        for writer in proxy.writers:
            writer.transport.abort()
        await server.wait_closed()
