"""A TCP proxy that holds the connections of a time for ever, as balancers do with what a dead worker has taken.

Stands between a node and a server, in the test's own loop. The one rule: a connection of the time while it held is
never served, also later, and is never ended by it, but for what it answers itself.
"""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from tests.chaos.fault_proxy import serving

PIECE_BYTES = 16_384
REFUSAL = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class HoldingProxy:
    """See the module. `held`: how many connections are never served. `refuses`: a method that it refuses itself."""

    target_port: int
    refuses: str = ""
    port: int = 0
    holds: bool = False
    held: int = 0
    _held_from_now: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<HoldingProxy {self.port} -> {self.target_port}{' holds' if self.holds else ''}>"

    def hold(self) -> None:
        """From now on nothing is passed on any more, on old connections and on new ones."""
        self.holds = True
        self._held_from_now.set()
        self._held_from_now = asyncio.Event()

    def go_on(self) -> None:
        """New connections are served again."""
        self.holds = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        self._writers.append(writer)
        with contextlib.suppress(OSError):
            if self.holds:
                await self._answered_by_itself(reader, writer)
                return
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers.append(server_writer)
            held = asyncio.ensure_future(self._held_from_now.wait())
            up = asyncio.ensure_future(_pumped(reader, server_writer))
            down = asyncio.ensure_future(_pumped(server_reader, writer))
            done, _ = await asyncio.wait([held, up, down], return_when=asyncio.FIRST_COMPLETED)
            for one in (held, up, down):
                one.cancel()
            await asyncio.wait([held, up, down])
            if held in done and not (up in done or down in done):
                await self._never(reader)
            server_writer.close()
        writer.close()

    async def _answered_by_itself(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = await reader.read(PIECE_BYTES)
        if self.refuses and begun.startswith(f"{self.refuses} ".encode()):
            writer.write(REFUSAL)
            writer.close()
        elif begun:
            await self._never(reader)

    async def _never(self, reader: asyncio.StreamReader) -> None:
        """Take what comes, say nothing."""
        self.held += 1
        while await reader.read(PIECE_BYTES):
            pass

    def end(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()


def holding_proxy(target_port: int, refuses: str = "") -> AbstractAsyncContextManager[HoldingProxy]:
    """Run one in front of a port of this machine."""
    return serving(HoldingProxy(target_port, refuses))
