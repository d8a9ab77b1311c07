"""A flag that tasks wait for: what `asyncio.Event` does, in a tenth of its memory while nobody or one task waits.

Used by links, sessions and clients, which hold nine of them for each backend as long as it is there; an `asyncio.Event`
keeps a deque of 760 bytes for its waiters, mostly for none. The one rule: it behaves as an `asyncio.Event` does, so
that nobody has to know which of the two it is; what it can besides is `first_of`.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


class Event:
    """Raised by `set`, lowered by `clear`; for one event loop."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: tuple[asyncio.Future[None], ...] = ()  # A list would have room for four.

    def __repr__(self) -> str:
        return f"<Flag {'set' if self._is_set else 'unset'}, {len(self._waiting)} waiting>"

    def is_set(self) -> bool:
        """Whether it is raised."""
        return self._is_set

    def set(self) -> None:
        """Raise it and wake everybody who waits, even when it is lowered again before they run."""
        self._is_set = True
        waiting, self._waiting = self._waiting, ()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Lower it."""
        self._is_set = False

    def wait(self) -> Coroutine[Any, Any, None]:
        """Return at once while it is raised, else when it is raised next; to be awaited."""
        return first_of(self)  # Not a coroutine around that one: somebody waits here for each link all the time.

    def _enter(self, waiter: asyncio.Future[None]) -> None:
        self._waiting = (*self._waiting, waiter)

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        # Only who gave up is still there; `set` let go of the others.
        self._waiting = tuple(other for other in self._waiting if other is not waiter)


async def within(event: Event, seconds: float) -> None:
    """Wait until it is raised, `seconds` at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def first_of(*flags: Event) -> None:
    """Wait until any of them is raised, without a task for each."""
    if any(flag.is_set() for flag in flags):
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for flag in flags:
        flag._enter(waiter)  # noqa: SLF001 - one idea in one file
    try:
        await waiter
    finally:
        for flag in flags:
            flag._leave(waiter)  # noqa: SLF001 - as above
