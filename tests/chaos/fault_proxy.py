"""A TCP proxy that does to connections what networks do: delay, lose one direction, reset, stop reading, throttle.

Stands between two nodes of a chaos run, in the run's own loop. The one rule: it changes no byte; it delivers late, not
at all, or ends the connection.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from agent.client.http.dial import TCP_USER_TIMEOUT_MS
from tests.chaos.journal_server import RESET
from tests.waiting import accepted_are_served

PIECE_BYTES = 16_384


@dataclass(slots=True)
class Weather:
    """What happens to all connections now. `up`: towards the server; `down`: towards the client.

    `loses_up`, `loses_down`: what is sent in that direction never arrives, acknowledgements included. `reads`: whether
    the proxy reads at all; a side that does not is half open. `bytes_per_s` None: unlimited. `listens`: its port does;
    one that does not refuses connections, and those that were open are reset.
    """

    latency_s: float = 0.0
    loses_up: bool = False
    loses_down: bool = False
    reads: bool = True
    bytes_per_s: float | None = None
    listens: bool = True


@dataclass
class FaultProxy:
    """See the module. `weather` may be replaced at any moment."""

    target_port: int
    weather: Weather = field(default_factory=Weather)
    port: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _door: asyncio.Task[asyncio.Server] | None = None
    _kept: socket.socket | None = None  # The port, while it does not listen.

    def __repr__(self) -> str:
        return f"<FaultProxy {self.port} -> {self.target_port} {self.weather}>"

    def set(self, weather: Weather) -> None:
        """Let the weather change; what waited for another one looks again."""
        before, self.weather = self.weather, weather
        if before.listens and not weather.listens:
            self._shut()
        elif weather.listens and not before.listens:
            self.open()
        self._changed.set()
        self._changed = asyncio.Event()

    def open(self) -> None:
        """Listen, at the same port as before."""
        self._door = asyncio.get_running_loop().create_task(self._opened(), name="fault proxy")

    async def _opened(self) -> asyncio.Server:
        server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        if self._kept is not None:
            self._kept.close()
        return server

    async def opened(self) -> asyncio.Server:
        """What it listens with."""
        assert self._door is not None, "open() comes first"
        return await self._door

    def _shut(self) -> None:
        assert self._door is not None, "open() comes first"
        self._door.result().close()
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", self.port))
        self.reset()

    def reset(self) -> None:
        """Reset every connection that is open."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def end(self) -> None:
        """Let all connections come to their end."""
        self.set(Weather())
        self.reset()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        both = [writer]
        self._writers.append(writer)
        try:
            try:
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            except OSError:
                writer.transport.abort()
                return
            both.append(server_writer)
            self._writers.append(server_writer)
            if writer.is_closing():  # Reset meanwhile.
                return
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._pump(reader, writer, server_writer, up=True), name="up")
                down = group.create_task(self._pump(server_reader, server_writer, writer, up=False), name="down")
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
                up.cancel()
                down.cancel()
        finally:
            for one in both:
                self._writers.remove(one)
                one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, sender: asyncio.StreamWriter, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                while not self.weather.reads:
                    await self._changed.wait()
                piece = await reader.read(PIECE_BYTES)
                if not piece:
                    return
                weather = self.weather
                if weather.bytes_per_s is not None:
                    await asyncio.sleep(len(piece) / weather.bytes_per_s)
                if weather.latency_s:
                    await asyncio.sleep(weather.latency_s)
                weather = self.weather
                if up and (weather.loses_up or weather.loses_down):
                    # It or its acknowledgement is lost: the sender's kernel ends the connection, unheard by the other.
                    asyncio.get_running_loop().call_later(TCP_USER_TIMEOUT_MS / 1000, sender.transport.abort)
                if weather.loses_up if up else weather.loses_down:
                    continue
                writer.write(piece)
                await writer.drain()


class _Proxy(Protocol):
    port: int

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    def end(self) -> None: ...


_P = TypeVar("_P", bound=_Proxy)


@asynccontextmanager
async def fault_proxy(target_port: int) -> AsyncGenerator[FaultProxy, None]:
    """Run a proxy in front of a port of this machine."""
    proxy = FaultProxy(target_port)
    proxy.open()
    await proxy.opened()
    try:
        yield proxy
    finally:
        proxy.set(Weather())
        server = await proxy.opened()
        server.close()
        await accepted_are_served()
        proxy.end()
        await server.wait_closed()


@asynccontextmanager
async def serving(proxy: _P) -> AsyncGenerator[_P, None]:
    """Run any proxy at a port of its own, and end its connections."""
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await accepted_are_served()
        proxy.end()
        await server.wait_closed()
