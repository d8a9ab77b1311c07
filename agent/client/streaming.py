"""Passes a large result from the client that reads it to the caller that waits for it, in parts.

The endpoints make a `ResultStream` for each request, dispatch a `LargeResult` for each attempt, which clients are
given; where calls outlive attempts, a `PendingCall` stands between. The one rule: a result that has begun goes to that
caller alone, whole or visibly broken.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from agent.lossless_json.raw import Bytes
from agent.lossless_json.rewriter import JsonRewriter
from agent.model import Json

MakeRewriter: TypeAlias = Callable[[], JsonRewriter]


@dataclass(slots=True)
class ResultStream:
    """Takes one result in parts; each call waits while the caller reads slower than we do.

    `begin` comes once, before the first part, and says whether parts are taken; `end` once, after the last. A caller
    that has gone raises `ConnectionError` or cancels the task. `added`: members that the result needs, unless it has
    them.
    """

    begin: Callable[[], Awaitable[bool]]
    part: Callable[[Bytes], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    added: Json


class LargeResult:
    """A sink, and the rewriter for one replica's results on the way to it. One for each attempt."""

    __slots__ = ("_begun", "_sink", "ended_with_error", "is_begun", "make_rewriter")

    def __init__(self, sink: ResultStream, make_rewriter: MakeRewriter) -> None:
        self._sink = sink
        self._begun: list[Callable[[], None]] = []
        self.is_begun = False
        self.ended_with_error: bool | None = None  # None before its end.
        self.make_rewriter = make_rewriter

    def when_begun(self, call: Callable[[], None]) -> None:
        """Call `call` once the result has begun."""
        self._begun.append(call)

    async def begin(self) -> bool:
        """As `ResultStream.begin`."""
        if not await self._sink.begin():
            return False
        self.is_begun = True
        for call in self._begun:
            call()
        return True

    async def part(self, part: Bytes) -> None:
        """As `ResultStream.part`."""
        if part:
            await self._sink.part(part)

    async def end(self, *, is_error: bool) -> None:
        """As `ResultStream.end`. `is_error`: of the result, as it says itself."""
        self.ended_with_error = is_error  # The whole result has gone out: a caller that leaves now has it.
        await self._sink.end()


def lift(deadline: asyncio.Timeout, large: LargeResult | None) -> None:
    """Lift a request's deadline when its result begins: the server is not to blame for a slow reader."""
    if large is not None:
        large.when_begun(lambda: deadline.reschedule(None))
