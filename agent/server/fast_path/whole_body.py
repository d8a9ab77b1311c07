"""A request's body that is there, in the place of aiohttp's reader.

Made by `agent.server.fast_path.connection` for each request. The one rule: to its readers it
is a stream of aiohttp's whose bytes have all come.
"""

from collections.abc import AsyncIterator


class WholeBody:
    """A body that is there: as much of aiohttp's reader as handlers use."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def at_eof(self) -> bool:
        """False: as far as its readers know, nothing was read yet."""
        return False

    def is_eof(self) -> bool:
        """Whether nothing more will come."""
        return True

    def read_nowait(self) -> bytes:
        """All of it, once."""
        data, self._data = self._data, b""
        return data

    async def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def iter_any(self) -> AsyncIterator[bytes]:
        """All of it, in one part."""
        if data := self.read_nowait():
            yield data
