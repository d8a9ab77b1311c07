"""A TCP proxy that does to connections what networks do: delay, lose one direction, reset, stop reading, throttle.

Stands between two nodes of a chaos run, in the run's own loop. The one rule: it changes no byte; it delivers late, not
at all, or ends the connection.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from agent.client.http.dial import TCP_USER_TIMEOUT_MS
from tests.chaos.journal_server import RESET

PIECE_BYTES = 16_384


@dataclass(slots=True)
class Weather:
    """What happens to all connections now. `up`: towards the server; `down`: towards the client.

    `loses_up`, `loses_down`: what is sent in that direction never arrives, acknowledgements included. `reads`: whether
    the proxy reads at all; a side that does not is half open. `bytes_per_s` None: unlimited. `accepts`: whether new
    connections are served.
    """

    latency_s: float = 0.0
    loses_up: bool = False
    loses_down: bool = False
    reads: bool = True
    bytes_per_s: float | None = None
    accepts: bool = True


@dataclass
class FaultProxy:
    """See the module. `weather` may be replaced at any moment."""

    target_port: int
    weather: Weather = field(default_factory=Weather)
    port: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __repr__(self) -> str:
        return f"<FaultProxy {self.port} -> {self.target_port} {self.weather}>"

    def set(self, weather: Weather) -> None:
        """Let the weather change; what waited for another one looks again."""
        self.weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

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
        if not self.weather.accepts:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        both = [writer, server_writer]
        self._writers += both
        try:
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


def fault_proxy(target_port: int) -> AbstractAsyncContextManager[FaultProxy]:
    """Run a proxy in front of a port of this machine."""
    return serving(FaultProxy(target_port))


@asynccontextmanager
async def serving(proxy: _P) -> AsyncGenerator[_P, None]:
    """Run any proxy at a port of its own, and end its connections."""
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.end()
        await server.wait_closed()
