"""One session with a server, of one's own: what it asks and tells while it serves a call, before, and in between.

Kept by `own_sessions`, which opens, lends and ends it. The one rule: a question is put to the client that the session
serves, never to the next one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from agent.errors import MeshError
from agent.links import rpc
from agent.links.door_protocol import Door, RequestDoor
from agent.links.flag import Flag
from agent.links.hello import OnNotification, OnQuestion
from agent.links.negotiation import PING
from agent.links.open_call import QUESTIONS_MAX, OpenCall, TakesAnswers
from agent.links.result_sink import LargeResult
from agent.model import Json

# To refuse what was asked before there was a call.
EARLY_TIMEOUT_S: Final = 1.0

_NO_CALL: Final = (-32600, "No request of this session is under way; ask while one is")


class SessionRefused(MeshError):
    """The server does not open a session beside the one that there is. Never leaves the doors."""


class SessionDoor(RequestDoor, TakesAnswers, Protocol):
    """One session (or child) that was opened with a client's features."""

    async def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
        affinity: str | None = None,
        large: LargeResult | None = None,
        on_question: OnQuestion | None = None,
    ) -> Json:
        """As `RequestDoor.request`; `on_question` takes what comes on a stream that names this very request, if any."""
        ...


class SharedDoor(SessionDoor, Door, Protocol):
    """The session that everybody shares."""


OnNotice: TypeAlias = Callable[[str, Json], None]
# Opens a session with these features. Raises `SessionRefused`, `AuthRefused`, `CallNotSent`.
OpenSession: TypeAlias = Callable[[Json, OnQuestion, OnNotice], AbstractAsyncContextManager[SessionDoor]]


@dataclass(eq=False)
class OwnSession:
    """One session. `calls`: those that it serves now; `users` counts those that wait for its opening too.

    `spent`: not to be lent to another client; `over`: to nobody, after a bug of ours or when its client is gone.
    `early`: questions from before the call that they are put to.
    """

    features: Json
    key: tuple[bytes, Hashable]
    opened: Flag = field(default_factory=Flag)
    door: SessionDoor | None = None
    failure: MeshError | None = None
    calls: list[OpenCall] = field(default_factory=list)
    users: int = 0
    spent: bool = False
    over: bool = False
    used: bool = False
    early: list[Json] = field(default_factory=list)
    keeper: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None

    @property
    def away_since_s(self) -> float | None:
        """Since when all whom it serves leave its questions alone, in loop time; None while somebody does not."""
        if not self.calls or len(self.calls) < self.users:
            return None
        since_s = [call.away_since_s for call in self.calls if call.given_up is None]
        known_s = [one_s for one_s in since_s if one_s is not None]
        return max(known_s) if known_s and len(known_s) == len(self.calls) else None

    @asynccontextmanager
    async def serving(self, call: OpenCall) -> AsyncGenerator[SessionDoor, None]:
        """Take what the session asks and tells for what it asks and tells `call`, within the block."""
        assert self.door is not None, "it is open while it is lent"
        self.calls.append(call)
        self.used = True
        call.door = self.door
        early, self.early = self.early, []
        try:
            await call.send(filter(None, map(call.ask, early)), timeout_s=EARLY_TIMEOUT_S)
            yield self.door
        finally:
            self.calls.remove(call)
            self.spent |= call.answered

    def ask(self, message: Json) -> bytes | None:
        """Take a question that names no call: it is for the only client, at its latest call.

        Some servers ask as soon as a session is open; that waits for the call that it was opened for, or, where the
        session belongs to one client, for the next.
        """
        if self.calls:
            return self.calls[-1].ask(message)
        if message["method"] == PING:
            return rpc.encode_reply(message)
        may_wait = isinstance(self.key[1], str) or (self.key[1] is None and not self.used)
        if not may_wait or len(self.early) >= QUESTIONS_MAX:
            return rpc.encode_error(message["id"], *_NO_CALL)
        self.early.append(message)
        return None

    def hear(self, method: str, params: Json) -> None:
        """Take a notification that names no call."""
        if method == rpc.CANCELLED_METHOD:
            self.early = [asked for asked in self.early if asked["id"] != params.get("requestId")]
        for call in self.calls if method == rpc.CANCELLED_METHOD else self.calls[-1:]:
            call.hear(method, params)
