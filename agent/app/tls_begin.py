"""TLS on a connection that has been accepted, from its first message on, so that a silent one costs nothing of it.

Used by `agent.app.first_bytes`. `loop.start_tls` reads the connection itself and has a buffer of 256 KiB for each, so a
thousand silent connections took 300 MB. The one rule: TLS begins when a client's whole hello is there, and ends without
waiting long for the client's goodbye.
"""

import asyncio
import ssl
import sys
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Final

_HANDSHAKE: Final = 0x16
_RECORD_HEAD_LEN: Final = 5
# Of the longest record (RFC 8446, section 5.2); what says that it is longer is refused by TLS itself.
_RECORD_LEN_MAX: Final = (1 << 14) + 256
# A client that is closed may answer so long; until then it has its place.
_GOODBYE_S: Final = 1.0


class _Protocol(SSLProtocol):
    """As the loop's own, with a buffer of two records."""

    max_size = 32 << 10


def is_whole_hello(received: bytes | bytearray) -> bool:
    """Whether TLS may have it: the first record of a handshake is whole, or it is none."""
    if not received or received[0] != _HANDSHAKE:
        return bool(received)
    if len(received) < _RECORD_HEAD_LEN:
        return False
    length = int.from_bytes(received[3:_RECORD_HEAD_LEN], "big")
    return length > _RECORD_LEN_MAX or len(received) >= _RECORD_HEAD_LEN + length


def begin_tls(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    hello: bytes,
    not_agreed: Callable[[], None],
) -> None:
    """Put TLS between a connection and its protocol, which hears `connection_made` again when TLS is agreed.

    `hello`: what was read of the connection. `not_agreed`: called where it comes to nothing; the connection is closed.
    How long that may take, is the caller's to decide.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    secure = _Protocol(
        loop,
        protocol,
        context,
        waiter,
        server_side=True,
        ssl_shutdown_timeout=_GOODBYE_S,
    )

    def ended(outcome: "asyncio.Future[None]") -> None:
        if outcome.cancelled() or outcome.exception() is not None or transport.is_closing():
            not_agreed()

    waiter.add_done_callback(ended)
    transport.set_protocol(secure)
    secure.connection_made(transport)
    rest = memoryview(hello)
    while rest and not transport.is_closing():
        buffer = secure.get_buffer(len(rest))
        taken = min(len(rest), len(buffer))
        buffer[:taken] = rest[:taken]
        secure.buffer_updated(taken)
        rest = rest[taken:]


def quiet_about_names() -> None:
    """Have nothing written for a client that asks TLS for a name that is none, which Python itself would report.

    It cannot be caught where it is raised, and a stranger could fill the log with it.
    """
    usual = sys.unraisablehook

    def report(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            usual(unraisable)

    sys.unraisablehook = report
