"""The first bytes of each connection: counted and waited for, and probes of HTTP/1.1 without a Host header let in.

A connection has some seconds for the head of its first request; until then it costs a few hundred bytes. Probes written
by hand, and HAProxy's checks, send no Host, although RFC 9112 (section 3.2) demands one, and aiohttp's parser refuses
them before any handler sees them. `/healthz` and `/readyz` answer every Host alike, so such a request is given one, and
its connection ends with its answer. The one rule: a connection costs its server nothing before it has asked something.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Protocol, cast

from aiohttp import web

from agent import clock
from agent.app.admission import Admission, Connections, RareErrors, caps_of, place_of
from agent.app.sockets import BACKLOG
from agent.app.tls_begin import begin_tls, is_whole_hello, quiet_about_names
from agent.descriptors import raise_limit
from agent.server.fast_path.serving import FastServer

# From the moment it is accepted to the end of its first request's head; as most servers have it.
FIRST_REQUEST_S: Final = 10.0
# What has said nothing for so long gives way to a new connection where there is no room.
SILENT_S: Final = 1.0
SWEEP_EVERY_S: Final = 1.0
# Where most places are taken, what has asked nothing more for so long gives way.
IDLE_GIVES_WAY_S: Final = 10.0
# Of those that wait for their first request, so many are looked at for one to give way.
_LOOKED_AT_MAX: Final = 256
# Connections are accepted in lots, and each lot is counted only after it: few enough for what a node keeps for itself.
_ACCEPTED_AT_ONCE: Final = 8
# More than the parser takes of a head, with many fields.
HELD_BYTES_MAX: Final = 128 << 10
# A probe's head has a few lines; whatever is longer goes to the parser as it is.
HEAD_BYTES_MAX: Final = 4_096
_BEGINS: Final = (b"GET ", b"HEAD ")
_PROBE: Final = re.compile(
    rb"(?:GET|HEAD) (?:https?://[^/\s]*)?/(?:healthz|readyz)(?:\?\S*)? HTTP/1\.1\r?\n", re.IGNORECASE
)
_HOST: Final = re.compile(rb"\nHost[ \t]*:", re.IGNORECASE)
_END: Final = re.compile(rb"\r?\n\r?\n")
_METHOD: Final = re.compile(rb"[A-Z]{1,24}(?: |\Z)")
_END_LEN: Final = 4
# What a client may send before a request (RFC 9112, section 2.2).
_BETWEEN: Final = b"\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"
)
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


def is_whole_head(received: bytes | bytearray, searched: int = 0) -> bool:
    """Whether the parser may have it: the head of a request is whole, or it is none, or too long for one.

    `searched`: so many bytes were looked at before.
    """
    if len(received) > HELD_BYTES_MAX or _METHOD.match(received) is None:
        return True
    return _END.search(received, max(0, searched - _END_LEN)) is not None


class FirstBytes(asyncio.Protocol):
    """Stands before a connection's own protocol until the head of its first request has come."""

    def __init__(self, own: Callable[[], asyncio.Protocol], site: "GuardedSite") -> None:
        self._make_own = own
        self._site = site
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._hello_awaited = site.tls is not None
        self._securing = False
        self.began_s = clock.now_s()
        self.address = ""

    @property
    def place(self) -> str:
        """Where it comes from; see `agent.app.admission.place_of`."""
        return place_of(self.address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`; with TLS twice: when it is accepted, so that it is counted, and when TLS is agreed."""
        self._transport = cast("asyncio.Transport", transport)
        if self._securing:
            self._securing = False
            return
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._site.begun(self)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        if self._hello_awaited:
            self._received += data
            if is_whole_hello(self._received):
                self._secure()
            return
        searched = len(self._received)
        self._received += data if self._received else data.lstrip(_BETWEEN)
        if not self._received or not is_whole_head(self._received, searched):
            return
        if (whole := with_host(bytes(self._received))) is None:
            return
        assert self._transport is not None, "it is made first"
        own, transport = self._make_own(), self._transport
        self._site.handed_over(self)
        transport.set_protocol(own)
        own.connection_made(transport)
        own.data_received(whole)

    def _secure(self) -> None:
        assert self._transport is not None, "it is made first"
        assert self._site.tls is not None, "else no hello is awaited"
        hello, self._received = bytes(self._received), bytearray()
        self._hello_awaited, self._securing = False, True
        begin_tls(self._transport, self, self._site.tls, hello, not_agreed=lambda: self._site.handed_over(self))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as `asyncio.Protocol`
        """As `asyncio.Protocol`."""
        self._site.handed_over(self)

    def refuse(self, answer: bytes) -> None:
        """Close it with this answer."""
        if self._transport is None:
            return
        if self._site.tls is None:
            self._transport.write(answer)
            self._transport.close()
            return
        if not (self._hello_awaited or self._securing):
            self._transport.write(answer)
        # Closing would wait for the other side's word, and hold a descriptor that is no longer counted.
        self._transport.abort()


class OtherConnections(Connections, Protocol):
    """Those that other processes of this node have."""

    def close_idle(self, count: int, idle_s: float) -> None:
        """Have so many closed that were idle for so long."""
        ...


class GuardedSite(web.SockSite):
    """As `web.SockSite`, with all its connections counted, and each given so long for its first request.

    `known` and `refused`: see `Admission`. `descriptors`: how many this process may have. `elsewhere`: the connections
    that other processes of this node have; they count as well.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        bound: socket.socket,
        *,
        backlog: int = 128,
        tls: ssl.SSLContext | None = None,
        descriptors: int = 1_024,
        known: Callable[[], Iterable[str]] = tuple,
        refused: Callable[[str], None] = lambda _reason: None,
        elsewhere: OtherConnections | None = None,
    ) -> None:
        super().__init__(runner, bound, backlog=backlog, ssl_context=tls)
        self.tls: Final = tls
        self._elsewhere = elsewhere
        self._first: dict[FirstBytes, None] = {}  # The oldest is first.
        self._admission = Admission(caps_of(descriptors), self, known, refused)
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """As `Connections`."""
        return len(self._first) + len(self._serving) + (0 if self._elsewhere is None else len(self._elsewhere))

    def addresses(self) -> Iterator[str]:
        """As `Connections`."""
        yield from (one.address for one in self._first)
        yield from self._serving.addresses()
        if self._elsewhere is not None:
            yield from self._elsewhere.addresses()

    async def start(self) -> None:
        """As `web.SockSite.start`."""
        await web.BaseSite.start(self)
        serve = self._serving
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(SWEEP_EVERY_S, self._swept)
        self._server = await loop.create_server(
            lambda: FirstBytes(serve, self),
            sock=self._sock,
            backlog=_ACCEPTED_AT_ONCE,
        )
        self._sock.listen(self._backlog)  # The loop has told the kernel of its lot.

    async def stop(self) -> None:
        """As `web.SockSite.stop`; a client that has just connected may still send its request."""
        if self._sweep is not None:
            self._sweep.cancel()
        await super().stop()

    def begun(self, one: FirstBytes) -> None:
        """A connection was accepted."""
        refusal = self._admission.refusal(one.address)
        # What has its share already takes the place of one of its own, never of another's.
        if not refusal or self._closed_oldest(SILENT_S, one.place if refusal == "address" else ""):
            self._first[one] = None
        else:
            one.refuse(_TOO_MANY)

    def handed_over(self, one: FirstBytes) -> None:
        """Its first request is there, or it has ended."""
        self._first.pop(one, None)

    @property
    def _serving(self) -> FastServer:
        serve = self._runner.server
        assert serve is not None, "the runner is set up before a site is made"
        return cast("FastServer", serve)

    def _swept(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._swept)
        while self._closed_oldest(FIRST_REQUEST_S):
            pass
        if (crowded := len(self) - self._admission.caps.each) >= 0:
            wanted = crowded + self._admission.caps.reserved
            wanted -= self._serving.close_idle(wanted, IDLE_GIVES_WAY_S)
            if self._elsewhere is not None and wanted:
                self._elsewhere.close_idle(wanted, IDLE_GIVES_WAY_S)

    def _closed_oldest(self, silent_s: float, place: str = "") -> bool:
        """Close the connection that has waited longest for its first request, if it has for so long.

        `place`: of that place alone; empty for any.
        """
        first = islice(self._first, _LOOKED_AT_MAX)
        oldest = next((one for one in first if not place or one.place == place), None)
        if oldest is None or oldest.began_s + silent_s > clock.now_s():
            return False
        self.handed_over(oldest)
        oldest.refuse(_TOO_SLOW)
        return True


async def start_site(
    runner: web.AppRunner,
    bound: socket.socket,
    tls: ssl.SSLContext | None = None,
    *,
    known: Callable[[], Iterable[str]],
    refused: Callable[[str], None],
    elsewhere: OtherConnections | None = None,
) -> None:
    """Serve on a bound socket, within what this process may have. For the others see `GuardedSite`."""
    asyncio.get_running_loop().set_exception_handler(RareErrors())
    if tls is not None:
        quiet_about_names()
    site = GuardedSite(
        runner,
        bound,
        backlog=BACKLOG,
        tls=tls,
        descriptors=raise_limit(),
        known=known,
        refused=refused,
        elsewhere=elsewhere,
    )
    await site.start()
