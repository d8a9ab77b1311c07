"""Dialling one host: its permitted addresses, a socket that notices a vanished other side, and TLS.

Used by `agent.client.http.pool` alone, one `Dialler` a target. The one rule: what was checked is what is dialled: a
name is resolved here, through the guard, and what connects gets addresses only.
"""

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from aiohappyeyeballs import AddrInfoType, start_connection
from aiohttp.abc import AbstractResolver

from agent import clock
from agent.client.dial_guard import GuardedResolver
from agent.client.http.attempts import Attempts
from agent.client.http.silence import MayBeSilence, is_short, is_silence
from agent.client.http.tunnel import TunnelRefused, open_tunnel
from agent.client.outbound import BindingLike
from agent.client.proxies import Proxy
from agent.config.tls_files import TlsFault, dialling_context
from agent.descriptors import said_shortage
from agent.errors import IdentityRefused
from agent.model import TlsFiles

# How long a resolved name is reused; a peer that moves is found that soon.
DNS_CACHE_S: Final = 5.0
# How long one address may take before the next one is tried beside it (RFC 8305, section 5).
NEXT_ADDRESS_AFTER_S: Final = 0.25
# TCP: a half-open connection, whose other end has vanished, ends within 5 s. Unacknowledged data may wait 4 s from when
# they are sent again; one that waits for an answer is probed each second, and ends 4 s after the last word of the other
# side. Linux judges that at probes alone, so that each of them is one more packet that may be lost.
TCP_KEEPALIVE_IDLE_S: Final = 1
# One that nothing is waited for on is closed before this, or used again.
TCP_KEEPALIVE_REST_S: Final = 15
TCP_KEEPALIVE_INTERVAL_S: Final = 1
TCP_KEEPALIVE_PROBES: Final = 3
TCP_USER_TIMEOUT_MS: Final = 4_000

# Contexts with files of servers, which many links to them share.
_CONTEXTS_MAX: Final = 64
_NO_FILES: Final = TlsFiles()

_P = TypeVar("_P", bound=asyncio.Protocol)


class DialFailed(MayBeSilence):
    """There is no connection. The text says why, and reads on after the server's name."""


class Dialler:
    """Dials one host and port. `timeout_s` bounds the name, the connection and the TLS handshake together.

    `context`: gives what TLS trusts and shows, for each connection; by default the system's authorities, and nothing.
    `proxy`: what is dialled in its place, and asked for a tunnel to what speaks TLS. `judges_name`: the name is
    resolved here too then, and refused as if it were dialled. `binding`: looks at certificates. `server_name`: what TLS
    asks for in place of the host. `resolver`: resolves names, by default as the machine does; its answers are filtered
    (`GuardedResolver`).

    `by_name`: whether a name is dialled, which may lead to another address tomorrow.
    """

    __slots__ = (
        "_binding",
        "_context",
        "_is_tried",
        "_judges_name",
        "_last",
        "_name",
        "_names",
        "_port",
        "_proxy_names",
        "_server_name",
        "_timeout_s",
        "by_name",
        "proxy",
        "tls",
    )

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool,
        timeout_s: float,
        resolver: AbstractResolver | None = None,
        context: Callable[[], ssl.SSLContext | None] | None = None,
        proxy: Proxy | None = None,
        judges_name: bool = True,
        binding: BindingLike | None = None,
        server_name: str = "",
    ) -> None:
        self.tls = tls
        self.proxy = proxy
        self._context, self._last = context, None if context is None else context()
        self._port = port
        self._timeout_s = timeout_s
        self._is_tried = False  # By a dial that is begun anew where it hangs: one at a time, whatever waits.
        self._name = host.rstrip(".")
        self._judges_name, self._binding, self._server_name = judges_name, binding, server_name
        self._proxy_names = None if proxy is None else _names_of(proxy.host, proxy.port, resolver)
        # A literal was judged when the URL was checked; only a name can lead elsewhere.
        self._names = _names_of(host, port, resolver)
        self.by_name = self._names is not None or proxy is not None

    def __repr__(self) -> str:
        return f"<Dialler {self._name}:{self._port}{' by TLS' if self.tls else ''}>"

    async def dial(self, make: Callable[[], _P]) -> _P:
        """Connect; returns the protocol that `make` made, with its transport.

        Raises:
            DialFailed: No address could be connected to in time, or TLS was refused.
            DialRefused: The name leads to addresses that may not be dialled.
            IdentityRefused: The certificate names another node.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                _, protocol = await self._tried(partial(self._attempt, make))
        except DialFailed:
            raise
        except OSError as exc:
            raise _failed(exc) from exc
        return protocol

    async def _tried(
        self, attempt: Callable[[], Awaitable[tuple[asyncio.Transport, _P]]]
    ) -> tuple[asyncio.Transport, _P]:
        """By several attempts, where no other dial is made so: a server that hangs gets three more at most."""
        if self._is_tried:
            return await attempt()
        self._is_tried = True
        try:
            return await Attempts(attempt, _abort).first()
        finally:
            self._is_tried = False

    async def _attempt(self, make: Callable[[], _P]) -> tuple[asyncio.Transport, _P]:
        loop = asyncio.get_running_loop()
        sock = await (self._connected() if self.proxy is None else self._connected_by(self.proxy))
        if not self.tls:
            return await loop.create_connection(make, sock=sock)
        name = self._server_name or self._name
        transport, protocol = await loop.create_connection(
            make, sock=sock, ssl=self._present_context(), server_hostname=name
        )
        self._look_at(transport)
        return transport, protocol

    def _present_context(self) -> ssl.SSLContext:
        """By the files as they are now: certificates are renewed while links live. Files of no use leave the last."""
        if self._context is not None:
            with contextlib.suppress(TlsFault):
                self._last = self._context()
        return self._last or _tls_context()

    def _look_at(self, transport: asyncio.Transport) -> None:
        """Raises `IdentityRefused` for a certificate that names another node than the one that this leads to."""
        if self._binding is None:
            return
        try:
            self._binding.seen(transport.get_extra_info("peercert"))
        except IdentityRefused:
            transport.abort()
            raise

    async def _connected(self) -> socket.socket:
        if self._names is None:
            return await _connect([_address(self._name, self._port)])
        return await _connect(await self._names.addresses())

    async def _connected_by(self, proxy: Proxy) -> socket.socket:
        """A socket to the proxy, and through it to what speaks TLS."""
        if self._judges_name and self._names is not None:
            await self._names.addresses()
        try:
            addresses = [_address(proxy.host, proxy.port)]
            if self._proxy_names is not None:
                addresses = await self._proxy_names.addresses()
            sock = await _connect(addresses)
        except DialFailed as exc:
            said = f"cannot be reached through its proxy: {proxy} {exc}"
            raise DialFailed(said, silent=exc.silent, short=exc.short) from exc
        except OSError as exc:
            said = f"cannot be reached through its proxy: {proxy} {_reason(exc)}"
            raise DialFailed(said, silent=is_silence(exc), short=is_short(exc)) from exc
        if not self.tls:
            return sock
        try:
            await open_tunnel(sock, self._name, self._port, proxy.authorization)
        except BaseException as exc:
            sock.close()
            if isinstance(exc, OSError):
                reason = str(exc) if isinstance(exc, TunnelRefused) else _reason(exc)
                raise DialFailed(f"cannot be reached through its proxy: {proxy} {reason}") from exc
            raise
        return sock


def _abort(connection: tuple[asyncio.Transport, object]) -> None:
    connection[0].abort()


async def _connect(addresses: list[AddrInfoType]) -> socket.socket:
    try:
        return await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, socket_factory=_socket)
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL and not any(map(_has_way, addresses)):
            raise OSError(errno.ENETUNREACH, "this machine has no address of that family") from None
        # The frames below keep it in a list: a circle at each dial in vain, for the garbage collector to find.
        raise exc.with_traceback(None)  # noqa: B904 - it is the same one


def _has_way(address: AddrInfoType) -> bool:
    """Whether this machine has an address to dial it from, so that what is lacking is a port.

    Without one (IPv6 is off in many containers) the kernel says the same, but no waiting helps. Nothing is sent.
    """
    family, _, _, _, there = address
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(there)
    except OSError as exc:
        return exc.errno != errno.EADDRNOTAVAIL
    return True


class _Names:
    """The addresses of one name, resolved once for all concurrent dials, and remembered for `DNS_CACHE_S`."""

    def __init__(self, host: str, port: int, resolver: GuardedResolver) -> None:
        self._host = host
        self._port = port
        self._resolver = resolver
        self._resolving = asyncio.Lock()
        self._found: list[AddrInfoType] = []
        self._fresh_until_s = 0.0

    async def addresses(self) -> list[AddrInfoType]:
        """All permitted ones; each dial begins with another, so that connections spread over them."""
        async with self._resolving:
            if not self._found or clock.now_s() >= self._fresh_until_s:
                try:
                    answers = await self._resolver.resolve(self._host, self._port)
                except (OSError, UnicodeError) as exc:  # UnicodeError: a label that DNS cannot hold.
                    if is_short(exc) and isinstance(exc, OSError):
                        raise _failed(exc) from exc
                    raise DialFailed("has a host name that cannot be resolved", silent=is_silence(exc)) from exc
                if not answers:
                    raise DialFailed("has a host name that cannot be resolved")
                self._found = [_address(answer["host"], answer["port"]) for answer in answers]
                self._fresh_until_s = clock.now_s() + DNS_CACHE_S
            found = self._found
            self._found = [*found[1:], found[0]]
            return found


def _names_of(host: str, port: int, resolver: AbstractResolver | None) -> _Names | None:
    return None if _is_literal(host) else _Names(host, port, GuardedResolver(resolver))


def _failed(exc: OSError) -> DialFailed:
    refused = exc.errno == errno.ECONNREFUSED
    return DialFailed(_reason(exc), silent=is_silence(exc), short=is_short(exc), refused=refused)


def _reason(exc: OSError) -> str:
    if lack := said_shortage(exc):
        return f"cannot be reached, as {lack}"
    match exc:
        case ssl.SSLCertVerificationError():
            return f"has a TLS certificate that is refused: {exc.verify_message or exc}"
        case ssl.SSLError():
            return f"cannot be reached by TLS: {exc.strerror or exc}"
        case TimeoutError():
            return "does not accept the connection in time"
        case _ if exc.errno == errno.ECONNREFUSED:
            return "refuses the connection"
    return f"cannot be reached: {exc.strerror or str(exc) or type(exc).__name__}"


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()  # Names that look like numbers were refused with the URL.


def _address(host: str, port: int) -> AddrInfoType:
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


def _socket(address: AddrInfoType) -> socket.socket:
    """A socket that notices a vanished other side within seconds; options the platform lacks are left out."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    keep_alive(made, waits=False)
    for name, value in (
        ("TCP_KEEPINTVL", TCP_KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", TCP_KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT_MS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def keep_alive(sock: socket.socket, *, waits: bool) -> None:
    """Have the kernel ask soon whether the other side is there, or hardly ever, where it owes no answer."""
    option = getattr(socket, "TCP_KEEPIDLE", None)
    if option is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.IPPROTO_TCP, option, TCP_KEEPALIVE_IDLE_S if waits else TCP_KEEPALIVE_REST_S)


def tls_context(own: TlsFiles | None, common: TlsFiles) -> ssl.SSLContext | None:
    """The context for a server with files of its own, on a node with common ones; None where there are neither.

    Raises `TlsFault`. Files that were replaced are read again when it is called again.
    """
    files = (own or _NO_FILES, common)
    if files == (_NO_FILES, _NO_FILES):
        return None
    paths = [path for one in files for path in (one.ca, one.cert, one.key) if path is not None]
    return _context_of(*files, tuple(_changed_at(path) for path in paths))


@functools.lru_cache(maxsize=_CONTEXTS_MAX)
def _context_of(own: TlsFiles, common: TlsFiles, changed_at: tuple[int, ...]) -> ssl.SSLContext:  # noqa: ARG001 - a part of the key
    return dialling_context(own, common)


def _changed_at(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except (OSError, ValueError):
        return 0  # Reading it says why.


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """One for the whole process: making it reads every certificate authority from disk."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context
