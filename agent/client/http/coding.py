"""Compressed bodies: the codings that can be undone here, and an unpacker whose output comes in bounded parts.

Used by `agent.client.http.pool`, which announces the codings, and by `agent.client.http.connection`. Brotli and zstd
are there where their libraries are, as aiohttp finds them. The one rule: no part is larger than `PART_BYTES_MAX`, so
that whatever counts the parts of an answer stops a bomb before it is in memory.
"""

from typing import Final, Protocol

from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD, BrotliDecompressor, ZLibDecompressor, ZSTDDecompressor

# As much as is unpacked before others get their turn: a fraction of a millisecond.
PART_BYTES_MAX: Final = 64 * 1024
# What is unpacked at once of a packed body, since the rest of it is copied with each part.
_SLICE_BYTES: Final = 16 * 1024
# The low four bits of a zlib stream's first byte (RFC 1950). Some servers send "deflate" without that head.
_ZLIB_METHOD: Final = 8

CODINGS: Final = ("gzip", "deflate", *(("br",) if HAS_BROTLI else ()), *(("zstd",) if HAS_ZSTD else ()))


class BadCoding(ValueError):
    """The bytes are not what their coding says. The text reads on after the server's name."""


class _Decompressor(Protocol):
    def decompress_sync(self, data: bytes, max_length: int = 0) -> bytes: ...

    @property
    def data_available(self) -> bool: ...


class Unpacker:
    """One body: give it what came with `feed`, take what it was with `part` until there is no more."""

    __slots__ = ("_coding", "_decompressor", "_packed", "_started")

    def __init__(self, coding: str) -> None:
        """`coding`: one of `CODINGS`."""
        self._coding = coding
        self._decompressor: _Decompressor | None = None
        self._packed = memoryview(b"")
        self._started = False

    def __repr__(self) -> str:
        """The coding, and how much waits to be unpacked."""
        return f"<Unpacker {self._coding} {len(self._packed)} bytes>"

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body, after `part` has given all of those before."""
        assert not self._packed, "fed before the last bytes were unpacked"
        self._packed = memoryview(data)

    def part(self) -> bytes:
        """The next part of what the body was; empty when more has to be fed. Raises `BadCoding`."""
        while True:
            if self._decompressor is None:
                if not self._packed:
                    return b""
                self._decompressor = _decompressor(self._coding, self._packed[0])
            more = self._started and self._decompressor.data_available
            if not more and not self._packed:
                return b""
            data = b""
            if not more:
                data, self._packed = bytes(self._packed[:_SLICE_BYTES]), self._packed[_SLICE_BYTES:]
            try:
                part = self._decompressor.decompress_sync(data, PART_BYTES_MAX)
            except Exception as exc:  # Each library has errors of its own.
                raise BadCoding(f"sent a body that is not {self._coding}, though it says so") from exc
            self._started = True
            if part:
                return part


def _decompressor(coding: str, first: int) -> _Decompressor:
    match coding:
        case "br":
            return BrotliDecompressor()
        case "zstd":
            return ZSTDDecompressor()
        case "deflate" if first & 0xF != _ZLIB_METHOD:
            return ZLibDecompressor(coding, suppress_deflate_header=True)
        case _:
            return ZLibDecompressor(coding)


def coding_of(content_encoding: str) -> str:
    """The coding that a `Content-Encoding` names, in its usual spelling; empty for none (RFC 9110, section 8.4)."""
    coding = content_encoding.strip().lower().removeprefix("x-")
    return "" if coding == "identity" else coding
