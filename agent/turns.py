"""The end of a turn of the event loop, and what waits for it: answers and requests that are ready, lines of the log.

One turn is all callbacks between two looks at the sockets. A write wakes the process at the other end, which costs more
than the write: those of a turn go out one after the other, so that a client or server with several of them is woken
once. The last callback of a turn writes at once. Used where a callback writes one small message; everything else writes
as ever. The one rule: what waits goes out in its order, before the loop waits for anything, and before its connection
is closed or written to by anybody else (`Turn.end`).
"""

import asyncio
import math
import select
import selectors
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Sequence
from contextvars import Context
from typing import Any, Final, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# The other end begins its work meanwhile; a turn of a thousand callers must not keep it waiting.
WRITES_MAX: Final = 32
# Copying more than this to the kernel is itself as much work as a call.
WRITE_BYTES_MAX: Final = 16 << 10
# So many links are looked at in two milliseconds.
PART_LEN: Final = 200
# Steps are taken for so long before others have their turn.
SLICE_S: Final = 0.002
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT


class Turn:
    """One loop's turns. `waits`: whether something may wait; `written`: how often what waited was written.

    `has_timer`: whether a timer was started since the turn began to end.
    """

    __slots__ = ("_callbacks", "_due", "_loop", "_writes", "has_timer", "waits", "written")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # The callbacks that are still to be called. Where they cannot be seen, nothing waits, and there may be some.
        self._due: Collection[object] | None = getattr(loop, "_ready", None)
        self._writes: list[tuple[asyncio.WriteTransport, bytes]] = []
        self._callbacks: list[Callable[[], None]] = []
        self.waits = self.has_timer = False
        self.written = 0

    def __repr__(self) -> str:
        return f"<Turn {len(self._writes)} writes, {len(self._callbacks)} callbacks>"

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write at the end of this turn at the latest: now, where this is its last callback."""
        writes = self._writes
        if not self._due and not writes:
            self.written += 1
            transport.write(data)
            return
        writes.append((transport, data))
        self.waits = True
        if not self._due or len(writes) >= WRITES_MAX or len(data) > WRITE_BYTES_MAX:
            self._write()

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call it at the end of this turn, once."""
        self._callbacks.append(callback)
        self.waits = True

    def end(self) -> bool:
        """Do all that waits, now; whether something else has come up then, or may have."""
        self.waits = self.has_timer = False
        if self._writes:
            self._write()
        if self._callbacks:
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                try:
                    callback()
                except Exception as exc:  # noqa: BLE001 - one callback's failure must not end the loop
                    self._loop.call_exception_handler({"message": "the end of a turn failed", "exception": exc})
        return self.waits or self.has_timer or self._due is None or len(self._due) > 0

    def _write(self) -> None:
        writes, self._writes = self._writes, []
        self.written += 1
        for transport, data in writes:
            transport.write(data)  # One that has gone has a callback for that.


class _NoTurn(Turn):
    """For a loop that is not ours: nothing waits."""

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        self.written += 1
        transport.write(data)

    def at_end(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)


class _Selector(selectors.EpollSelector):
    """Ends the turn before it looks at the sockets, in one function: a call waits for two such looks."""

    turn: Turn | None = None

    def __init__(self) -> None:
        super().__init__()
        # Named in no documentation, and the same since these classes are there.
        self._poll, self._keys = self._selector.poll, self._fd_to_key  # type: ignore[attr-defined]  # as above

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        turn = self.turn
        if turn is not None and turn.waits and turn.end():
            timeout = 0
        if timeout is not None:  # Rounded up to what epoll counts in: else it would come back too early, and again.
            timeout = math.ceil(timeout * 1000) / 1000 if timeout > 0 else 0
        keys = self._keys
        try:
            events = self._poll(timeout, len(keys) or 1)
        except InterruptedError:
            return []
        ready = []
        for fd, event in events:
            if (key := keys.get(fd)) is not None:
                # An error concerns those who read and those who write.
                found = (selectors.EVENT_WRITE if event & ~_IN else 0) | (selectors.EVENT_READ if event & ~_OUT else 0)
                ready.append((key, found & key.events))
        return ready


class Loop(asyncio.SelectorEventLoop):
    """A loop whose turns have an end. `turn`: its turns."""

    turn: Turn
    # As asyncio's own, without a function of Python around it: each turn and each call ask for it several times.
    time = staticmethod(time.monotonic)

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        self.turn = selector.turn = Turn(self)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As `asyncio.AbstractEventLoop`; `call_later` comes here, too."""
        self.turn.has_timer = True
        return super().call_at(when, callback, *args, context=context)


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The turns of this loop; of one of another class, those in which nothing waits."""
    return loop.turn if isinstance(loop, Loop) else _NoTurn(loop)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """As `asyncio.run`, with turns that have an end."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


async def let_others(count: int) -> None:
    """Let others have their turn, where so many things are looked at that they are more than one part."""
    if count > PART_LEN:
        await asyncio.sleep(0)


async def in_parts(things: Sequence[_T]) -> AsyncIterator[Sequence[_T]]:
    """All of them, in parts between which others have their turn: for what would hold up calls in one piece.

    Counted and not timed, so that a simulation takes the same turns each time.
    """
    for begin in range(0, len(things), PART_LEN):
        if begin:
            await asyncio.sleep(0)
        yield things[begin : begin + PART_LEN]


async def in_slices(steps: Generator[None, None, _T]) -> _T:
    """What steps lead to, with turns for others between them."""
    until_s = time.perf_counter() + SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: _T = end.value
            return found
        if time.perf_counter() >= until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + SLICE_S
