"""A server of HTTP+SSE that refuses connections for a moment may be restarting: its link waits for it.

Made by `agent.client.http.sse_session` for each session that may be opened anew. Servers that stop refuse connections
before they end their streams, or after. The one rule: a server that stays away is waited for once, and not again before
it has answered. Of those that wait one at a time tries, for all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agent import clock
from agent.client.http.response import HttpRefusal
from agent.client.negotiation import PING
from agent.client.protocol import Request
from agent.client.sessions.beside import LISTS
from agent.errors import CallFailed, CallNotSent, MeshError, Unreachable
from agent.mcp_terms import READS

# Another session is asked for so often, for so long.
RESTART_S: Final = 2.0
RESTART_PAUSE_S: Final = 0.25
# Executing these twice does no harm, by the protocol's own definition.
_REPEATABLE: Final = frozenset({PING, *READS, *LISTS})


class Restart:
    """See the module. Sole writer: the session. `failed`: what the last try failed with."""

    __slots__ = ("_turn", "_until_s", "failed")

    def __init__(self) -> None:
        self._until_s: float | None = None
        self._turn = asyncio.Lock()
        self.failed = CallNotSent()

    def __repr__(self) -> str:
        return f"<Restart until {self._until_s}>"

    def begun(self) -> None:
        """It refuses a connection, or has ended the stream."""
        if self._until_s is None:
            self._until_s = clock.now_s() + RESTART_S

    def over(self) -> None:
        """It answers."""
        self._until_s = None

    async def tried(
        self,
        attempt: Callable[[], Awaitable[None]],
        known: CallNotSent,
        deadline_s: float,
        may_go_on: Callable[[CallNotSent], bool],
    ) -> None:
        """Have `attempt` made until it succeeds, by one at a time of those that wait, within the time for a restart.

        `known`: `failed` as the caller last saw it; one that finds a later one fails as that did. Raises `CallNotSent`.
        """
        while True:
            try:
                async with self._turn:
                    return await self._tried_once(attempt, known)
            except CallNotSent as exc:
                known = self.failed
                if not (may_go_on(exc) and await self.pause(deadline_s)):
                    raise

    async def _tried_once(self, attempt: Callable[[], Awaitable[None]], known: CallNotSent) -> None:
        if self.failed is not known:
            raise CallNotSent.of(self.failed)
        try:
            await attempt()
        except CallNotSent as exc:
            self.failed = CallNotSent.of(exc)  # Without its frames.
            raise

    async def pause(self, deadline_s: float) -> bool:
        """Return True when to try again, False at once where it has been away for too long, or it would be too late."""
        self.begun()
        assert self._until_s is not None, "it has begun"
        if clock.now_s() + RESTART_PAUSE_S > min(self._until_s, deadline_s):
            return False
        await asyncio.sleep(RESTART_PAUSE_S)
        return True


def may_go_again(request: Request, failed: CallNotSent) -> bool:
    """Whether a request whose session was gone may go out in another one.

    A server that found no stream for its answer may have executed it, though it says that it knows no such session.
    """
    return failed.nothing_sent or request.repeatable or request.method in _REPEATABLE


def may_pass(failure: MeshError | HttpRefusal | TimeoutError) -> bool:
    """Whether another try may find the server as it was: it is restarting, not heard, or a proxy has no way to it."""
    said = failure.as_failure() if isinstance(failure, HttpRefusal) else failure
    return isinstance(said, Unreachable | CallFailed | TimeoutError)
