"""One dial by several attempts: what hangs is begun anew beside itself, and the first outcome of any is that of all.

Used by `agent.client.http.dial`. A packet that was lost is sent again ever more rarely, and a handshake that a hung
worker has taken is never answered, also when the server is back; another attempt finds it at once. The one rule: no
attempt is given up for its slowness alone, so that a slow server is reached as soon as ever.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from agent.client.small_task_group import SmallTaskGroup

# A server that returns is found in 2 s while it is called: the rest is for its answers. Within one network a connection
# takes milliseconds, and a server with so much to do that it takes longer gets no more than three of them at once.
AGAIN_AFTER_S: Final = 1.5

_T = TypeVar("_T")


def outcome_of(made: _T | Exception) -> _T:
    """What was made; raises why not."""
    if not isinstance(made, Exception):
        return made
    try:
        raise made
    finally:
        del made  # Its traceback has this frame: a circle, for the garbage collector to find.


class Attempts(Generic[_T]):
    """See the module. `attempt` makes one; `drop` ends what was made too late."""

    __slots__ = ("_attempt", "_drop", "_first", "_group", "_made", "_others", "_timer")

    def __init__(self, attempt: Callable[[], Awaitable[_T]], drop: Callable[[_T], None]) -> None:
        self._attempt = attempt
        self._drop = drop
        self._made: list[_T | Exception] = []  # The first outcome.
        self._others: list[asyncio.Task[None]] = []
        self._first: asyncio.Timeout | None = None
        self._group: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Attempts {1 + len(self._others)}>"

    async def first(self) -> _T:
        """The first outcome: what was made, or why not. The caller bounds the time."""
        try:
            async with SmallTaskGroup() as self._group:
                self._timer = asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self._one_more)
                try:
                    # In this task, as most have no other; it ends with the outcome of another one, too.
                    async with asyncio.timeout(None) as self._first:
                        await self._begin()
                except TimeoutError:
                    assert self._made, "another one was quicker"
                finally:
                    self._end()
        except asyncio.CancelledError:
            # While the others ended: nothing takes what was made any more.
            if self._made and not isinstance(made := self._made.pop(), Exception):
                self._drop(made)
            raise
        return outcome_of(self._made.pop())

    async def _begin(self) -> None:
        try:
            made = await self._attempt()
        except Exception as exc:  # noqa: BLE001 - the top of an attempt; raised by `first`
            self._take(exc)
        else:
            self._take(made)

    def _take(self, made: _T | Exception) -> None:
        if not self._made:
            self._made.append(made)
        elif not isinstance(made, Exception):
            self._drop(made)

    def _one_more(self) -> None:
        assert self._group is not None, "it runs"
        self._timer = asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self._one_more)
        self._others.append(self._group.create_task(self._beside(), name="one more attempt of a dial"))

    async def _beside(self) -> None:
        await self._begin()
        if self._first is not None and not self._first.expired():
            self._first.reschedule(0)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for one in self._others:
            one.cancel()
        # Nothing leads back here any more.
        self._others, self._group, self._first, self._timer = [], None, None, None
