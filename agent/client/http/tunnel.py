"""Asking an HTTP proxy for a way through to a server by TLS (CONNECT; RFC 9110, section 9.3.6).

Used by `agent.client.http.dial`, on a socket that is connected to the proxy. The one rule: nothing but the head of the
proxy's answer is read, so that every byte after it is the server's.
"""

import asyncio
import re
import socket
from typing import Final

# A proxy that answers with a longer head is none.
_HEAD_BYTES_MAX: Final = 16 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: ([ -~]{0,100}))?")
_END: Final = b"\r\n\r\n"


class TunnelRefused(OSError):
    """The proxy does not let us through. The text reads on after the proxy's name."""


async def open_tunnel(sock: socket.socket, host: str, port: int, authorization: str | None) -> None:
    """Have the proxy connect `sock` with a server; the caller bounds it in time. Raises `TunnelRefused`, `OSError`."""
    loop = asyncio.get_running_loop()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if authorization is not None:
        lines.append(f"Proxy-Authorization: {authorization}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(_END):
        # As much as is certainly still the head: the server's first byte may come with the last of it.
        missing = len(_END) - next((n for n in (3, 2, 1) if head.endswith(_END[:n])), 0)
        part = await loop.sock_recv(sock, missing)
        if not part:
            raise TunnelRefused("closed the connection without an answer")
        head += part
        if len(head) > _HEAD_BYTES_MAX:
            raise TunnelRefused("does not answer as a proxy does")
    status = _STATUS.match(head)
    if status is None:
        raise TunnelRefused("does not answer as a proxy does")
    if not status[1].startswith(b"2"):
        reason = (status[2] or b"").decode()
        hint = "; put user and password into its URL" if status[1] == b"407" else ""
        raise TunnelRefused(f"refuses the way with HTTP {status[1].decode()} {reason}".rstrip() + hint)
