"""An event that tasks wait for: as `asyncio.Event`, in a tenth of the memory while at most one task waits.

Used by links, sessions and clients, which hold nine of them for each backend throughout its life; an `asyncio.Event`
keeps a deque of 760 bytes for its waiters, mostly for none. The one rule: it behaves as an `asyncio.Event` does; the
only addition is `first_of`.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Event:
    """Set by `set`, reset by `clear`; for one event loop."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: tuple[asyncio.Future[None], ...] = ()  # A list would have room for four.

    def __repr__(self) -> str:
        return f"<Event {'set' if self._is_set else 'unset'}, {len(self._waiting)} waiting>"

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it and wake every waiter, even when it is cleared again before they run."""
        self._is_set = True
        waiting, self._waiting = self._waiting, ()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Reset it."""
        self._is_set = False

    def wait(self) -> Coroutine[Any, Any, None]:
        """Return at once while it is set, else when it is set next; to be awaited."""
        return first_of(self)  # Not wrapped in another coroutine: a task waits here for each link all the time.

    def _enter(self, waiter: asyncio.Future[None]) -> None:
        self._waiting = (*self._waiting, waiter)

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        # Only a cancelled waiter is still there; `set` has removed the others.
        if waiter in self._waiting:
            self._waiting = tuple(other for other in self._waiting if other is not waiter)


async def within(event: Event, seconds: float) -> None:
    """Wait until it is set, `seconds` at most.

    Without `asyncio.timeout`, which cancels a task and takes the cancellation back: each link waits so every few
    seconds, mostly for nothing.
    """
    if event.is_set():
        return
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, _end, waiter)
    event._enter(waiter)  # noqa: SLF001 - one idea in one file
    try:
        await waiter
    finally:
        timer.cancel()
        event._leave(waiter)  # noqa: SLF001 - as above


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def first_of(*events: Event) -> None:
    """Wait until any of them is set, without a task for each."""
    if any(event.is_set() for event in events):
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for event in events:
        event._enter(waiter)  # noqa: SLF001 - one idea in one file
    try:
        await waiter
    finally:
        for event in events:
            event._leave(waiter)  # noqa: SLF001 - as above
