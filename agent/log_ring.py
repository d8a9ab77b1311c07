"""The newest lines of the log, and those that come, for operators who read them over REST.

Filled by `agent.logs` with lines that are masked already, from any thread; read by `agent.rest.diagnosis`. A reader may
want more than the log itself has: the level is lowered for as long as it reads. The one rule: what is kept has a limit
of lines and of bytes, and a slow reader loses the oldest, and is given their number.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Container, Sequence
from types import MappingProxyType
from typing import Any, Final

import orjson

LINES_MAX: Final = 2_000
BYTES_MAX: Final = 2 * 1024 * 1024
READERS_MAX: Final = 8
# Of one named token, so that it does not shut out the others.
READERS_EACH_MAX: Final = 6
AT_ONCE_MAX: Final = 500
LEVELS: Final = MappingProxyType(
    {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
)


class LogRing:
    """See the module. `wants` hears of the least severe level that any reader wants, None where there is none."""

    def __init__(self, wants: Callable[[int | None], None]) -> None:
        self._wants = wants
        self._lines: deque[tuple[int, str]] = deque()
        self._bytes = 0
        self._added = 0
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<LogRing {len(self._lines)} lines, {len(self._readers)} readers>"

    def add(self, level: int, line: str) -> None:
        """Take a line, which is JSON; a thread may call it."""
        with self._lock:
            self._lines.append((level, line))
            self._added += 1
            self._bytes += len(line)
            while len(self._lines) > LINES_MAX or (self._bytes > BYTES_MAX and len(self._lines) > 1):
                self._bytes -= len(self._lines.popleft()[1])
        if self._readers:
            for reader in tuple(self._readers):
                reader.wake()

    def add_all(self, lines: Sequence[tuple[int, str]]) -> None:
        """Take many of them, with their levels, as `add` does."""
        with self._lock:
            self._lines.extend(lines)
            self._added += len(lines)
            self._bytes += sum(len(line) for _, line in lines)
            while len(self._lines) > LINES_MAX or (self._bytes > BYTES_MAX and len(self._lines) > 1):
                self._bytes -= len(self._lines.popleft()[1])
        if lines:
            for reader in tuple(self._readers):
                reader.wake()

    def read(self, level: str, binding: str = "") -> "Reader | None":
        """One more reader, from the oldest line on; None where there are too many. `binding`: of its token."""
        if self._closed or len(self._readers) >= READERS_MAX:
            return None
        if binding and sum(one.binding == binding for one in self._readers) >= READERS_EACH_MAX:
            return None
        reader = Reader(self, LEVELS[level], binding)
        self._readers.add(reader)
        self._tell()
        return reader

    def end_of_revoked(self, bindings: Container[str]) -> None:
        """End the readers whose tokens are valid no more."""
        for reader in tuple(self._readers):
            if reader.binding and reader.binding not in bindings:
                reader.end()

    def close(self) -> None:
        """End all readers and begin none; the node stops."""
        self._closed = True
        for reader in tuple(self._readers):
            reader.end()

    def leave(self, reader: "Reader") -> None:
        """It reads no more."""
        self._readers.discard(reader)
        self._tell()

    def _tell(self) -> None:
        self._wants(min((reader.level for reader in self._readers), default=None))

    @property
    def oldest(self) -> int:
        """The number of lines that are not kept any more."""
        with self._lock:
            return self._added - len(self._lines)

    def since(self, number: int) -> tuple[int, int, list[tuple[int, str]]]:
        """The number of the newest of these lines, how many after `number` are lost, and the next ones."""
        with self._lock:
            oldest = self._added - len(self._lines)
            first = max(number, oldest)
            lines = [
                self._lines[at] for at in range(first - oldest, min(len(self._lines), first - oldest + AT_ONCE_MAX))
            ]
        return first + len(lines), first - number, lines


class Reader:
    """One stream of lines, of one event loop."""

    def __init__(self, ring: LogRing, level: int, binding: str) -> None:
        self.level, self.binding, self.ended = level, binding, False
        self._ring, self._number = ring, ring.oldest
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()

    def take(self) -> list[dict[str, Any]]:
        """The lines that came since the last time; of those that are lost their number."""
        self._news.clear()
        self._number, lost, lines = self._ring.since(self._number)
        if len(lines) == AT_ONCE_MAX:
            self._news.set()
        told = [orjson.loads(line) for level, line in lines if level >= self.level]
        return [{"event": "lines are lost", "count": lost}, *told] if lost else told

    async def wait(self, timeout_s: float) -> bool:
        """Whether there is a line, or the end, within that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """There is a new line; a thread may say so."""
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # The loop is closed: nothing reads any more.
            self._ring.leave(self)

    def end(self) -> None:
        """Have the stream end."""
        self.ended = True
        self.wake()

    def leave(self) -> None:
        """Nothing more is read."""
        self._ring.leave(self)
