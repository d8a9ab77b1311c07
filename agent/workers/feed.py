"""What the node and a worker say to each other beside connections: frames of one object each, over a socket pair.

The node sends what a worker has to know (`agent.workers.picture`), the worker what it has done
(`agent.workers.tally`). Both ends are this program, started by itself for this account, so frames are pickled. The one
rule: frames come in their order and whole, and the end of the pair is the end of the worker.
"""

import asyncio
import pickle
import socket
import struct
from typing import Any, Final

_LENGTH: Final = struct.Struct(">I")


class Feed:
    """One end of the pair. `send` never waits; what the other side does not read is held."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def __repr__(self) -> str:
        return f"<Feed unsent={self.unsent_bytes}>"

    @classmethod
    async def over(cls, end: socket.socket) -> "Feed":
        """The feed at this end."""
        return cls(*await asyncio.open_connection(sock=end))

    @property
    def unsent_bytes(self) -> int:
        """What the other side has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def send(self, frame: Any) -> None:
        """Send one object."""
        written = pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)
        self._writer.write(_LENGTH.pack(len(written)) + written)

    async def receive(self) -> Any:
        """The next object. Raises `EOFError` at the end."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - see the module
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise EOFError from exc

    def close(self) -> None:
        """End it."""
        self._writer.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
