"""One backend's pool of HTTP connections, and the exact answer to "was any byte of this request written?".

Used by the HTTP doors alone; the only place that knows aiohttp's client and its exceptions. The one rule: a request
counts as sent from the moment its first byte is handed to the socket, so whatever fails before that is `CallNotSent`
and may be tried again here, and whatever fails after it is never sent again.
"""

import select
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter

from agent.dial_guard import GuardedResolver, IpNetwork, check_url
from agent.errors import CallFailed, CallNotSent, CallOutcomeUnknown, DialRefused, ProtocolBroken, Unreachable
from agent.model import HttpTarget

if TYPE_CHECKING:
    from asyncio import BaseTransport

# Shorter than uvicorn's 5 s, the shortest common one, so that we give up an idle connection before the server does.
KEEPALIVE_S: Final = 4.0
# How long a resolved name is dialled again without asking; a peer that moves is found within faults.md's 5 s.
DNS_CACHE_S: Final = 5
# TCP: a silent connection is probed after 5 s, then every 2 s, twice; unacknowledged data may wait 5 s (faults.md,
# "half-open connection").
TCP_KEEPALIVE_IDLE_S: Final = 5
TCP_KEEPALIVE_INTERVAL_S: Final = 2
TCP_KEEPALIVE_PROBES: Final = 2
TCP_USER_TIMEOUT_MS: Final = 5_000
# Pooled connections that may be found dead in a row before we stop: a restarted server leaves as many as there were
# callers at once, and each costs no more than a system call.
DEAD_CONNECTIONS_MAX: Final = 256

_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

# Set by us on every message; a target's own headers cannot change them.
_OWN_HEADERS: Final = frozenset({"accept", "accept-encoding", "content-type", "content-length", "host", "connection"})


class OutgoingBody(aiohttp.Payload):
    """A request's bytes, which know whether they were handed to the socket, or found the connection dead before that.

    One per request. Written by aiohttp in one piece together with the headers.
    """

    _autoclose = True  # Nothing is open behind it; aiohttp need not warn about it.

    def __init__(self, data: bytes) -> None:
        super().__init__(data, content_type="application/json")
        self._size = len(data)
        self.sent = False
        self.found_dead = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature; it is always the whole length
    ) -> None:
        """Write all of it, unless the other side has hung up on this connection already."""
        transport = writer.transport if isinstance(writer, StreamWriter) else None
        if transport is None or transport.is_closing() or _has_hung_up(transport):
            self.found_dead = True
            raise aiohttp.ClientConnectionResetError("the connection was closed before the request was written")
        self.sent = True
        await writer.write(self._value)


class HttpPool:
    """Sends to one URL. Made by `open_pool`; safe for concurrent use."""

    def __init__(self, session: aiohttp.ClientSession, url: str, where: str) -> None:
        self._session = session
        self._url = url
        self.where = where

    def use_token(self, token: str) -> None:
        """Show another token from the next request on; requests on their way keep theirs."""
        self._session.headers["Authorization"] = f"Bearer {token}"

    def __repr__(self) -> str:
        """Where it leads; never the headers."""
        return f"<HttpPool {self.where}>"

    async def post(self, body: OutgoingBody, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send `body` and wait for the answer's head; the caller reads and closes the response.

        `body.sent` is true as soon as the request may have been executed, also when this call is cancelled.

        Raises:
            CallNotSent: No connection could be made.
            DialRefused: The name leads to an address that may not be dialled; not sent.
            CallOutcomeUnknown: The connection broke after the request was written.
            ProtocolBroken: The answer is not HTTP.
        """
        for _ in range(DEAD_CONNECTIONS_MAX):
            try:
                return await self._session.post(self._url, data=body, headers=headers, allow_redirects=False)
            except aiohttp.ClientConnectorError as exc:
                raise CallNotSent(self.explain(exc)) from exc
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                # Only a connection that died in the pool is given up for another; nothing was written to it.
                if body.sent or not (body.found_dead or isinstance(exc, aiohttp.ServerDisconnectedError)):
                    raise self._failure(exc, sent=body.sent) from exc
                body.found_dead = False
        raise CallNotSent(f"{self.where} closes every connection at once")

    async def get(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Open a stream of events. Raises `Unreachable`, `DialRefused`, `ProtocolBroken`."""
        try:
            return await self._session.get(self._url, headers=headers, allow_redirects=False)
        except aiohttp.ClientResponseError as exc:
            raise ProtocolBroken(f"{self.where} does not speak HTTP: {exc.message}") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise Unreachable(self.explain(exc)) from exc

    async def delete(self, headers: Mapping[str, str]) -> None:
        """Tell the server that a session is over. Raises `Unreachable`; any answer will do."""
        try:
            async with self._session.delete(self._url, headers=headers, allow_redirects=False):
                pass
        except (aiohttp.ClientError, OSError, DialRefused) as exc:
            raise Unreachable(self.explain(exc)) from exc

    def explain(self, exc: BaseException) -> str:
        """Why the other side could not be reached, without vendor noise."""
        match exc:
            case aiohttp.ConnectionTimeoutError():
                reason = "does not accept the connection in time"
            case aiohttp.ClientConnectorDNSError():
                reason = "has a host name that cannot be resolved"
            case aiohttp.ClientConnectorCertificateError():
                cause = exc.certificate_error
                reason = f"has a TLS certificate that is refused: {getattr(cause, 'verify_message', None) or cause}"
            case aiohttp.ClientConnectorSSLError():
                reason = f"cannot be reached by TLS: {exc.os_error.strerror or exc.os_error}"
            case ConnectionRefusedError() | aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
                reason = "refuses the connection"
            case aiohttp.ServerDisconnectedError():
                reason = "closed the connection without an answer"
            case aiohttp.ClientPayloadError():
                reason = "broke off in the middle of its answer"
            case aiohttp.ClientConnectorError():
                reason = f"cannot be reached: {exc.os_error.strerror or exc.os_error}"
            case _:
                reason = f"cannot be reached: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}"
        return f"{self.where} {reason}"

    def _failure(self, exc: BaseException, *, sent: bool) -> CallFailed | ProtocolBroken:
        if isinstance(exc, aiohttp.ClientResponseError):
            return ProtocolBroken(f"{self.where} does not speak HTTP: {exc.message[:200]}")
        return CallOutcomeUnknown(self.explain(exc)) if sent else CallNotSent(self.explain(exc))


@asynccontextmanager
async def open_pool(
    target: HttpTarget, *, connect_timeout_s: float, denied: Sequence[IpNetwork] = ()
) -> AsyncGenerator[HttpPool, None]:
    """Make the pool of one target; nothing is dialled yet. Raises `DialRefused`, and `ProtocolBroken` for a bad URL."""
    try:
        url = check_url(target.url, denied)
    except ValueError as exc:
        raise ProtocolBroken(str(exc)) from exc
    headers = {name: value for name, value in target.headers if name.lower() not in _OWN_HEADERS}
    # Compressed answers would cost both ends more than they save between machines of one network.
    headers |= {"Accept": "application/json, text/event-stream", "Accept-Encoding": "identity"}
    if target.token is not None:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        headers["Authorization"] = f"Bearer {target.token}"
    connector = aiohttp.TCPConnector(
        limit=0,  # How many calls may be in flight is decided above, not by a queue in here.
        keepalive_timeout=KEEPALIVE_S,
        resolver=GuardedResolver(denied),
        ttl_dns_cache=DNS_CACHE_S,
        socket_factory=_socket,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_read=None),
    ) as session:
        yield HttpPool(session, url, url.partition("?")[0])


def _has_hung_up(transport: "BaseTransport") -> bool:
    """Whether the kernel already knows that the other side closed, though the event loop has not read it yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), _HUNG_UP)
    return bool(poll.poll(0))


def _socket(address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, object]) -> socket.socket:
    """A socket that notices a vanished other side within seconds; options the platform lacks are left out."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", TCP_KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", TCP_KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", TCP_KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT_MS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
