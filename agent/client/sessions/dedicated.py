"""One dedicated session with a server: whose it is, and who receives the server's requests and notifications in it.

Opened, lent and ended by `agent.client.sessions.pool`. A server request can come on a session's standing stream, which
names no call: it goes to the caller's latest one. The one rule: no caller gets what a server says to another.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from agent.authority.caller import caller
from agent.client import jsonrpc
from agent.client.capabilities import permits_requests
from agent.client.event import Event
from agent.client.negotiation import PING
from agent.client.protocol import McpClient, Request, Requester
from agent.client.server_info import OnServerRequest
from agent.client.sessions.pending_call import SERVER_REQUESTS_MAX, PendingCall, TakesAnswers
from agent.client.sessions.shares import Owner
from agent.client.streams import UPDATED
from agent.errors import MeshError
from agent.model import Json
from agent.rpc_codes import INVALID_REQUEST

# Sending refusals to server requests that came before the call may delay it by this much: they are few and small.
EARLY_TIMEOUT_S: Final = 1.0

_NO_CALL: Final = (INVALID_REQUEST, "No request of this session is under way; ask while one is")

ELICITED: Final = "notifications/elicitation/complete"
# Notifications that concern the session, not one call.
OF_SESSION: Final = frozenset({ELICITED, UPDATED})
SESSION_ENDED: Final = "mesh-agent/session-ended"


class SessionRefused(MeshError):
    """The server does not open a second session. Never leaves the clients."""


class SessionClient(Requester, TakesAnswers, Protocol):
    """One session (or child process) that was opened with a caller's capabilities."""

    async def request(self, request: Request, *, on_server_request: OnServerRequest | None = None) -> Json:
        """As `Requester.request`; `on_server_request` takes the server requests on the stream of this request."""
        ...


class SharedClient(SessionClient, McpClient, Protocol):
    """The session that all callers share."""


OnNotice: TypeAlias = Callable[[str, Json], None]
# Opens a session with these client capabilities. Raises `SessionRefused`, `AuthRefused`, `CallNotSent`.
OpenSession: TypeAlias = Callable[[Json, OnServerRequest, OnNotice], AbstractAsyncContextManager[SessionClient]]


@dataclass(eq=False)
class DedicatedSession:
    """One session. `calls`: those that it serves now; `users` counts those that wait for its opening too.

    `features`: the caller's capabilities. `key`: a digest of them, and the affinity key of the only caller that may use
    it, if there is one. `used`: a call was served in it. `gained`: it may hold what no other session has, a tool or a
    subscription, so it stays longer and is ended last. `spent`: not to be lent to another caller; `over`: not to be
    lent at all, after a bug of ours or when its caller has gone. `early`: server requests that wait for a call.
    `token`: whose caller it was opened for.
    """

    features: Json
    key: tuple[bytes, Hashable]
    opened: Event = field(default_factory=Event)
    client: SessionClient | None = None
    failure: MeshError | None = None
    calls: list[PendingCall] = field(default_factory=list)
    users: int = 0
    spent: bool = False
    over: bool = False
    used: bool = False
    gained: bool = False
    announced: bool = False
    tell: OnNotice = lambda _method, _params: None
    early: list[Json] = field(default_factory=list)
    token: str = field(default_factory=lambda: caller().grant.name)
    keeper: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return Owner(self.token, self.key[1])

    @property
    def away_since_s(self) -> float | None:
        """Since when all its callers leave server requests unanswered, in loop time; None while one does not."""
        if not self.calls or len(self.calls) < self.users:
            return None
        since_s = [call.away_since_s for call in self.calls if call.given_up is None]
        known_s = [one_s for one_s in since_s if one_s is not None]
        return max(known_s) if known_s and len(known_s) == len(self.calls) else None

    @asynccontextmanager
    async def serving(self, call: PendingCall) -> AsyncGenerator[SessionClient, None]:
        """Within the block, give the session's server requests and notifications to `call`."""
        assert self.client is not None, "it is open while it is lent"
        self.calls.append(call)
        self.used = True
        call.client = self.client
        early, self.early = self.early, []
        try:
            replies = [call.ask(message, of_session=True) for message in early]
            await call.send(filter(None, replies), timeout_s=EARLY_TIMEOUT_S)
            yield self.client
        finally:
            self.calls.remove(call)
            self.spent |= call.answered

    def ask(self, message: Json) -> bytes | None:
        """Take a server request that names no call: it goes to the caller's latest call.

        Some servers send one as soon as a session is open; it waits for the call that the session was opened for, or,
        where the session belongs to one caller, for the next one.
        """
        if self.calls:
            params = jsonrpc.params_of(message)
            return next((call for call in self.calls if call.has_task(params)), self.calls[-1]).ask(
                message, of_session=True
            )
        if message["method"] == PING or not permits_requests(self.features):
            return jsonrpc.encode_reply(message)  # Its callers can answer nothing, so no later call of theirs will.
        may_wait = self._is_of_one_caller or (self.key[1] is None and not self.used)
        if not may_wait or len(self.early) >= SERVER_REQUESTS_MAX:
            return jsonrpc.encode_error(message["id"], *_NO_CALL)
        self.early.append(message)
        return None

    @property
    def _is_of_one_caller(self) -> bool:
        return isinstance(self.key[1], str)

    def take_back(self, call: PendingCall) -> None:
        """A call is over: what the server asked in the session, not for this call, waits for its caller's next one."""
        if self._is_of_one_caller and call.given_up is None:
            self.early += call.taken_back(SERVER_REQUESTS_MAX - len(self.early))

    def hear(self, method: str, params: Json) -> None:
        """Take a notification that names no call."""
        if method in OF_SESSION:
            self.tell(method, params)
            return
        if method == jsonrpc.CANCELLED_METHOD:
            self.early = [asked for asked in self.early if asked["id"] != params.get("requestId")]
        for call in self.calls if method == jsonrpc.CANCELLED_METHOD else self.calls[-1:]:
            call.hear(method, params)
