"""A request that may be too large for the other side's kernel, while it is under way: who is only busy is waited for.

Made by `agent.client.http.connection`, one a request. Linux ends a connection whose other end takes nothing for as long
as TCP_USER_TIMEOUT says, though its kernel acknowledges each question whether it would: a server that is too busy to
read. So such a request has more time of the kernel, and its connection is looked at here. The one rule: an
acknowledgement, of whatever it is, is life; who gives none is not heard, and is as soon found as for a small request.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

from agent import clock
from agent.client.http.dial import TCP_USER_TIMEOUT_MS

# What the kernel of a server that does not read takes, at least; 64 KiB at first.
UNREAD_BYTES_MAX: Final = 32 * 1024
# As long as a client that is slow to read its answer has (`agent.app.sockets`).
TCP_USER_TIMEOUT_LARGE_MS: Final = 30_000
# The kernel's own limit is so far ahead of the time that a request has taken, and is moved on at each look: an event
# loop that stands still ends no connection. The kernel asks ever more rarely whether the other side would read, but at
# least this often, as it does so before its limit.
AHEAD_MS: Final = 12_000
LOOK_EVERY_S: Final = 0.25
# So much went out again, or was asked again, in vain. On one machine an answer is there before its question is counted.
IN_VAIN_MIN: Final = 2

_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None) if _USER_TIMEOUT is not None else None
# `struct tcp_info` of linux/tcp.h: how often in a row something was sent again, and asked, without an answer; and
# milliseconds since the last acknowledgement.
_INFO: Final = struct.Struct("@2x2B52xI")


class LargeRequest:
    """See the module. From its beginning to `end`; `unheard` is called once, where the other side is not heard."""

    __slots__ = ("_began_s", "_sock", "_timer", "_unheard")

    def __init__(self, sock: socket.socket, unheard: Callable[[], None]) -> None:
        self._sock, self._unheard = sock, unheard
        self._began_s = clock.now_s()
        self._timer: asyncio.TimerHandle | None = None
        if _TCP_INFO is None:
            self._wait(TCP_USER_TIMEOUT_LARGE_MS)
        else:
            self._wait(AHEAD_MS)
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def __repr__(self) -> str:
        return f"<LargeRequest since {self._began_s:g}{'' if self._timer else ', over'}>"

    def end(self) -> None:
        """Have the requests after it wait as usual."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wait(TCP_USER_TIMEOUT_MS)

    def _wait(self, milliseconds: int) -> None:
        if _USER_TIMEOUT is not None and self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds)

    def _look(self) -> None:
        self._timer = None
        if self._sock.fileno() < 0:
            return
        assert _TCP_INFO is not None, "it is looked at where the system tells"
        try:
            again, asked, silent_ms = _INFO.unpack(self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size))
        except (OSError, struct.error):  # A sandbox refuses it, or tells less: the kernel's limit is all there is.
            self._wait(TCP_USER_TIMEOUT_LARGE_MS)
            return
        lasts_ms = int(1000 * (clock.now_s() - self._began_s))
        silent_ms = min(silent_ms, lasts_ms)  # Before that it was not asked anything.
        if max(again, asked) >= IN_VAIN_MIN and silent_ms >= TCP_USER_TIMEOUT_MS:
            self._unheard()
        else:
            self._wait(min(lasts_ms + AHEAD_MS, TCP_USER_TIMEOUT_LARGE_MS))
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
