"""Lets probes of HTTP/1.1 in without a Host header, which aiohttp's parser refuses before any handler sees them.

HAProxy's checks and probes written by hand send none, although RFC 9112 (section 3.2) demands one. `/healthz` and
`/readyz` have nothing to protect and answer every Host alike, so such a request is given one, and its connection ends
with its answer. Every other request reaches the parser as it came. The one rule: a connection that does not begin with
a probe costs one comparison, once.
"""

import asyncio
import re
from typing import Final

from aiohttp import web

# A probe's head has a few lines; whatever is longer goes to the parser as it is.
HEAD_BYTES_MAX: Final = 4_096
_BEGINS: Final = (b"GET ", b"HEAD ")
_PROBE: Final = re.compile(
    rb"(?:GET|HEAD) (?:https?://[^/\s]*)?/(?:healthz|readyz)(?:\?\S*)? HTTP/1\.1\r?\n", re.IGNORECASE
)
_HOST: Final = re.compile(rb"\nHost[ \t]*:", re.IGNORECASE)
_END: Final = re.compile(rb"\r?\n\r?\n")
_GIVEN: Final = b"Host: localhost\r\nConnection: close\r\n"


def with_host(received: bytes) -> bytes | None:
    """What the parser gets of a connection's first bytes; None: more of them are needed."""
    if not received.startswith(_BEGINS):
        is_beginning = any(begin.startswith(received) for begin in _BEGINS)
        return None if is_beginning else received
    if len(received) > HEAD_BYTES_MAX:
        return received
    if b"\n" not in received:
        return None
    line = _PROBE.match(received)
    if line is None:
        return received
    if (end := _END.search(received, line.end() - 2)) is None:
        return None
    head = received[: end.start() + 1]
    return received if _HOST.search(head) else received[: line.end()] + _GIVEN + received[line.end() :]


class FirstBytes(asyncio.Protocol):
    """Stands before a connection's own protocol until its first bytes have come."""

    def __init__(self, own: asyncio.Protocol) -> None:
        self._own = own
        self._received = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        self._transport = transport
        self._own.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        self._received += data
        whole = with_host(self._received)
        if whole is None:
            return
        assert self._transport is not None, "it is made first"
        self._transport.set_protocol(self._own)
        self._own.data_received(whole)

    def eof_received(self) -> bool | None:
        """As `asyncio.Protocol`."""
        return self._own.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        self._own.connection_lost(exc)

    def pause_writing(self) -> None:
        """As `asyncio.Protocol`."""
        self._own.pause_writing()

    def resume_writing(self) -> None:
        """As `asyncio.Protocol`."""
        self._own.resume_writing()


class ProbedSite(web.SockSite):
    """As `web.SockSite`, whose connections may begin with such a probe."""

    async def start(self) -> None:
        """As `web.SockSite.start`."""
        await web.BaseSite.start(self)
        serve = self._runner.server
        assert serve is not None, "the runner is set up before a site is made"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FirstBytes(serve()), sock=self._sock, backlog=self._backlog)
