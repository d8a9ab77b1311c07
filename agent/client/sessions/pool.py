"""Dedicated sessions with one server: opened when a call needs one, lent, kept for a while, and ended.

Used by `agent.client.sessions.router` and `.calls` alone. A server request can come on a session's standing stream,
which names no call; so a session serves one call at a time, or the calls of one caller (the affinity key), which may
get any of its server requests. `SessionPool` bounds the sessions; when all are in use, those of callers that leave
server requests unanswered are reclaimed. The one rule: a session in which a call was left unfinished, or a caller has
answered, never serves another caller: servers remember answers (roots, say) for as long as their session lasts.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import orjson

from agent import clock
from agent.client import jsonrpc
from agent.client.capabilities import permits_requests
from agent.client.event import Event
from agent.client.negotiation import PING
from agent.client.protocol import McpClient, Request, Requester, why_lost
from agent.client.server_info import ListenNotSupported, OnNotification, OnServerRequest
from agent.client.sessions.pending_call import (
    CONTESTED_PATIENCE_S,
    SERVER_REQUESTS_MAX,
    OnPending,
    PendingCall,
    TakesAnswers,
)
from agent.client.streams import SESSIONS, UPDATED
from agent.errors import AuthRefused, CallNotSent, MeshError, ProtocolBroken, RpcError, Unreachable
from agent.model import CHANGE_META_KEY, Json
from agent.rpc_codes import INVALID_PARAMS, INVALID_REQUEST

log = logging.getLogger(__name__)

# To refuse server requests from before a call.
EARLY_TIMEOUT_S: Final = 1.0
# A server may use the session's standing stream, so a call waits for it; not for one that never opens.
STREAM_WAIT_S: Final = 2.0
# A stream that ends is opened again, ever more slowly.
STREAM_PAUSE_MIN_S: Final = 1.0
STREAM_PAUSE_MAX_S: Final = 30.0
# A caller's capabilities are kept as long as its session; the largest honest ones are a few hundred bytes.
FEATURES_BYTES_MAX: Final = 8 << 10
# How often a waiting call looks for sessions to reclaim at most, while one of them is ending.
POLL_AGAIN_MIN_S: Final = 1.0

_NO_CALL: Final = (INVALID_REQUEST, "No request of this session is under way; ask while one is")


ELICITED: Final = "notifications/elicitation/complete"
# What a server tells in a session about more than a call.
TOLD_BESIDE_CALLS: Final = frozenset({ELICITED, UPDATED})
SESSION_ENDED: Final = "mesh-agent/session-ended"
# A session that gained something is kept, unused, as long as a node keeps its client's own.
GAINED_IDLE_S: Final = 1_800.0

T = TypeVar("T")

StartTask: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


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
# Called with the affinity of a session's only caller, and what the server told there: a list change, one of
# `TOLD_BESIDE_CALLS`, or our own `SESSION_ENDED`.
OnNews: TypeAlias = Callable[[str, str, Json], None]
# Opens a session with these features. Raises `SessionRefused`, `AuthRefused`, `CallNotSent`.
OpenSession: TypeAlias = Callable[[Json, OnServerRequest, OnNotice], AbstractAsyncContextManager[SessionClient]]


@dataclass(eq=False)
class DedicatedSession:
    """One session. `calls`: those that it serves now; `users` counts those that wait for its opening too.

    `gained`: it may hold what no other session has, a tool or a subscription, so it stays longer and is ended last.
    `spent`: not to be lent to another caller; `over`: not to be lent at all, after a bug of ours or when its caller has
    gone. `early`: server requests that wait for a call.
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
    keeper: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None

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
            await call.send(filter(None, map(call.ask, early)), timeout_s=EARLY_TIMEOUT_S)
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
            return next((call for call in self.calls if call.has_task(params)), self.calls[-1]).ask(message)
        if message["method"] == PING or not permits_requests(self.features):
            return jsonrpc.encode_reply(message)  # Its callers can answer nothing, so no later call of theirs will.
        may_wait = isinstance(self.key[1], str) or (self.key[1] is None and not self.used)
        if not may_wait or len(self.early) >= SERVER_REQUESTS_MAX:
            return jsonrpc.encode_error(message["id"], *_NO_CALL)
        self.early.append(message)
        return None

    def hear(self, method: str, params: Json) -> None:
        """Take a notification that names no call."""
        if method in TOLD_BESIDE_CALLS:
            self.tell(method, params)
            return
        if method == jsonrpc.CANCELLED_METHOD:
            self.early = [asked for asked in self.early if asked["id"] != params.get("requestId")]
        for call in self.calls if method == jsonrpc.CANCELLED_METHOD else self.calls[-1:]:
            call.hear(method, params)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions there may be, how many of them unused, and for how long."""

    sessions_max: int
    idle_max: int
    idle_s: float = 300.0


class SessionPool:
    """The dedicated sessions with one server. `on_change` is called for list changes in any of them.

    `on_pending` is called for calls that were given up for others, `on_news` for what belongs to one caller's session.

    Long because lending sessions, making room and ending idle ones share one account of them.
    """

    def __init__(
        self,
        open_session: OpenSession,
        limits: SessionLimits,
        start_task: StartTask,
        on_change: Callable[[str], None],
        on_pending: OnPending,
        *,
        on_news: OnNews = lambda _affinity, _method, _params: None,
    ) -> None:
        self._open_session = open_session
        self._limits = limits
        self._on_news = on_news
        self._start_task = start_task
        self._on_change = on_change
        self._on_pending = on_pending
        self._sessions: dict[DedicatedSession, None] = {}  # The last used one is last.
        self._freed = Event()
        self._stream_wait_s = STREAM_WAIT_S

    def __repr__(self) -> str:
        busy = sum(session.users > 0 for session in self._sessions)
        return f"<SessionPool {busy} of {len(self._sessions)} in use>"

    @asynccontextmanager
    async def lent(
        self, features: Json, affinity: Hashable, on_notification: OnNotification | None = None
    ) -> AsyncGenerator[DedicatedSession, None]:
        """A session with these features, waited for while all are in use; alone, or shared within one affinity.

        `on_notification` gets ours that a caller has a session of its own now, in the first call there.

        Raises:
            SessionRefused, AuthRefused, CallNotSent: there is none, and nothing was sent.
        """
        session = await self._taken(features, affinity)
        try:
            if on_notification is not None and not session.announced:
                session.announced = True
                if isinstance(affinity, str):
                    await on_notification(SESSIONS.notification, {"_meta": {CHANGE_META_KEY: True}})
            yield session
        except RpcError:
            raise
        except BaseException as exc:
            session.spent = True
            session.over |= isinstance(exc, Exception) and not isinstance(exc, MeshError)
            raise
        finally:
            self._give_back(session)

    def of_client(self, features: Json, affinity: str) -> DedicatedSession | None:
        """The open session with these features that serves this caller; None when there is none."""
        session = self._usable(_key(features, affinity))
        return session if session is not None and session.client is not None else None

    def of_caller(self, affinity: str) -> DedicatedSession | None:
        """The open session of this caller that was used last; None when there is none."""
        own = [one for one in self._sessions if one.key[1] == affinity and one.client is not None and not one.over]
        return own[-1] if own else None

    def has_room(self, features: Json, affinity: str) -> bool:
        """Whether a call of this caller gets a session at once, without the end of one that gained something."""
        if self.of_client(features, affinity) is not None or len(self._sessions) < self._limits.sessions_max:
            return True
        return any(not one.users and not one.gained for one in self._sessions)

    def client_ended(self, affinity: str) -> None:
        """This caller has gone: end its sessions, and its calls with them."""
        for session in [one for one in self._sessions if one.key[1] == affinity]:
            if not session.users:
                self._end(session)
            session.over = True
            for call in session.calls:
                call.give_up()

    def forget_timers(self) -> None:
        """Cancel the expiry of all sessions; the owner of the tasks ends them."""
        for session in self._sessions:
            if session.expiry is not None:
                session.expiry.cancel()

    async def _taken(self, features: Json, affinity: Hashable) -> DedicatedSession:
        key = _key(features, affinity)
        reclaimed: DedicatedSession | None = None
        while True:
            session = self._usable(key)
            if session is None and self._make_room():
                session = DedicatedSession(features, key)
                if isinstance(affinity, str):
                    session.tell = partial(self._on_news, affinity)
                self._sessions[session] = None
                session.keeper = self._start_task(self._keep(session), "dedicated session")
            if session is not None:
                break
            if reclaimed not in self._sessions:  # Else it is still ending, or serves another waiting call.
                reclaimed = self._reclaim()
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_reclaim_s()):
                    await self._freed.wait()
        session.users += 1
        if session.expiry is not None:
            session.expiry.cancel()
        try:
            await session.opened.wait()
        except asyncio.CancelledError:  # It may come at the moment the session opens.
            self._give_back(session)
            raise
        if session.client is None:
            self._give_back(session)
            raise _copied(session.failure)
        return session

    def _usable(self, key: tuple[bytes, Hashable]) -> DedicatedSession | None:
        shared = key[1] is not None
        fitting = [one for one in self._sessions if one.key == key and not one.over and (shared or not one.users)]
        return fitting[-1] if fitting else None

    def _make_room(self) -> bool:
        """Whether one more session may be opened, for which the longest idle one may be ended."""
        if len(self._sessions) < self._limits.sessions_max:
            return True
        return self._end_idle()

    def _longest_away(self) -> tuple[float, DedicatedSession] | None:
        """The session left unanswered longest, of callers with more than their share, and since when."""
        greedy = over_share(Counter(one.key[1] for one in self._sessions), self._limits.sessions_max)
        away = [
            (since_s, one)
            for one in self._sessions
            if one.key[1] in greedy and (since_s := one.away_since_s) is not None
        ]
        return min(away, key=lambda pair: pair[0], default=None)

    def _reclaim(self) -> DedicatedSession | None:
        """Give up the calls of the session whose caller has been away longest, if that is long enough."""
        away = self._longest_away()
        if away is None or away[0] + CONTESTED_PATIENCE_S > clock.now_s():
            return None
        log.warning("MCP calls given up: their clients left server requests unanswered while others waited")
        for call in away[1].calls:
            call.give_up(contested=True)
            self._on_pending("given_up", 0)
        return away[1]

    def _until_reclaim_s(self) -> float:
        """Seconds until the next look at them: any session may become one to reclaim after that time."""
        away = self._longest_away()
        left_s = CONTESTED_PATIENCE_S if away is None else away[0] + CONTESTED_PATIENCE_S - clock.now_s()
        return max(left_s, POLL_AGAIN_MIN_S)

    def _end_idle(self) -> bool:
        unused = [one for one in self._sessions if not one.users]
        idle = next((one for one in unused if not one.gained), unused[0] if unused else None)
        if idle is not None:
            self._end(idle)
        return idle is not None

    def _give_back(self, session: DedicatedSession) -> None:
        session.users -= 1
        self._freed.set()
        if session.users or session not in self._sessions:
            return
        of_one_client = session.key[1] is not None
        is_over = session.over or session.client is None or session.client.lost.is_set()
        if is_over or (session.spent and not of_one_client):
            self._end(session)
            return
        del self._sessions[session]
        self._sessions[session] = None
        idle_s = max(self._limits.idle_s, GAINED_IDLE_S) if session.gained else self._limits.idle_s
        session.expiry = asyncio.get_running_loop().call_later(idle_s, self._end, session)
        if sum(not one.users and not one.gained for one in self._sessions) > self._limits.idle_max:
            self._end_idle()

    def _end(self, session: DedicatedSession) -> None:
        """Let the keeper close it; only for a session that is not in use."""
        self._sessions.pop(session, None)
        if session.expiry is not None:
            session.expiry.cancel()
        if session.keeper is not None:
            session.keeper.cancel()
        self._freed.set()

    async def _keep(self, session: DedicatedSession) -> None:
        """Open one session, follow its stream, and close it in the end."""
        try:
            async with self._open_session(session.features, session.ask, session.hear) as client:
                await self._follow(session, client)
        except MeshError as exc:
            session.failure = exc
        except Exception as exc:  # A bug of ours ends this session, and no other.
            log.exception("MCP dedicated session broke unexpectedly")
            session.failure = ProtocolBroken(f"unexpected {type(exc).__name__}")
        finally:
            if session.expiry is not None:
                session.expiry.cancel()
            self._sessions.pop(session, None)
            session.opened.set()
            self._freed.set()
            session.tell(SESSION_ENDED, {})

    async def _follow(self, session: DedicatedSession, client: SessionClient) -> None:
        """Hold the session's standing stream open where it has one; ends by cancellation or with the session's loss."""

        def on_change(kind: str) -> None:
            session.client = client
            session.opened.set()
            if kind != "listening":
                session.gained |= isinstance(session.key[1], str)
                session.tell(f"notifications/{kind}/list_changed", {})
                self._on_change(kind)

        def wait_no_longer() -> None:
            self._stream_wait_s = 0.0  # This server's streams open with the first event; do not wait for others.
            on_change("listening")

        late = asyncio.get_running_loop().call_later(self._stream_wait_s, wait_no_longer)
        pause_s = STREAM_PAUSE_MIN_S
        try:
            while True:
                try:
                    await client.listen(on_change)
                except (ListenNotSupported, ProtocolBroken):
                    on_change("listening")
                    await client.lost.wait()
                except Unreachable:
                    on_change("listening")
                if client.lost.is_set():
                    raise why_lost(client)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await client.lost.wait()
                pause_s = min(2 * pause_s, STREAM_PAUSE_MAX_S)
        finally:
            late.cancel()


def over_share(held: Mapping[T, int], places: int) -> frozenset[T]:
    """The callers with more than a fair share of `places`, one more caller counted; not empty while all are held."""
    return frozenset(caller for caller, count in held.items() if count * (len(held) + 1) > places)


def _key(features: Json, affinity: Hashable) -> tuple[bytes, Hashable]:
    declared = orjson.dumps(features, option=orjson.OPT_SORT_KEYS)
    if len(declared) > FEATURES_BYTES_MAX:
        raise RpcError(
            INVALID_PARAMS, f"The client declares more than {FEATURES_BYTES_MAX} bytes of what it can be asked"
        )
    return declared, affinity


def _copied(failure: MeshError | None) -> MeshError:
    """A copy of the failure: several calls may raise it."""
    match failure:
        case SessionRefused() | AuthRefused():
            return copy(failure)
        case _:
            why = failure or "the connection was closed"
            return CallNotSent.about("the server", "opened no session of its own for the call", f": {why}")
