"""Compresses the answers of an ASGI application in any coding that can be undone here, flushed part by part.

Used by the tests of compressed answers. Starlette's own middleware leaves event streams alone, which proxies do not.
"""

import zlib
from collections.abc import MutableMapping
from typing import Any

from agent.client.http.coding import CODINGS
from tests.integration.servers.hosting import Asgi


class Packer:
    """One body in one coding; `raw-deflate` is the deflate without a head that some servers send."""

    def __init__(self, coding: str) -> None:
        self.name = coding.removeprefix("raw-")
        self._coding = coding
        match coding:
            case "gzip" | "x-gzip":
                self._packer: Any = zlib.compressobj(wbits=31)
            case "deflate":
                self._packer = zlib.compressobj()
            case "raw-deflate":
                self._packer = zlib.compressobj(wbits=-15)
            case "br":
                import brotli  # noqa: PLC0415 - only where it is

                self._packer = brotli.Compressor()
            case "zstd":
                from backports import zstd  # noqa: PLC0415 - only where it is

                self._packer = zstd.ZstdCompressor()

    def pack(self, data: bytes) -> bytes:
        """Pack a part so that the other side can unpack all of it at once."""
        match self._coding:
            case "br":
                return bytes(self._packer.process(data) + self._packer.flush())
            case "zstd":
                return bytes(self._packer.compress(data, self._packer.FLUSH_BLOCK))
        return bytes(self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH))

    def end(self) -> bytes:
        return bytes(self._packer.finish() if self._coding == "br" else self._packer.flush())


# Every coding that is announced, and two spellings of servers.
PACKED = (*CODINGS, "x-gzip", "raw-deflate")


def packing(app: Asgi, coding: str) -> Asgi:
    """The application, with every body compressed."""

    async def packed(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        packer = Packer(coding)

        async def send_packed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
                message = {**message, "headers": [*headers, (b"content-encoding", packer.name.encode())]}
            elif message["type"] == "http.response.body":
                more = message.get("more_body", False)
                data = packer.pack(message.get("body", b"")) + (b"" if more else packer.end())
                message = {**message, "body": data}
            await send(message)

        await app(scope, receive, send_packed)

    return packed
