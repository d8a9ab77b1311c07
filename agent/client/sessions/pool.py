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
from collections.abc import AsyncGenerator, Callable, Container, Coroutine, Hashable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import orjson

from agent import clock
from agent.authority.caller import caller
from agent.client.event import Event
from agent.client.protocol import why_lost
from agent.client.server_info import ListenNotSupported, OnNotification
from agent.client.sessions.dedicated import (
    SESSION_ENDED,
    DedicatedSession,
    OpenSession,
    SessionClient,
    SessionRefused,
)
from agent.client.sessions.pending_call import (
    CONTESTED_PATIENCE_S,
    OnPending,
)
from agent.client.sessions.shares import greedy, quota, yielding
from agent.client.streams import SESSIONS
from agent.errors import AuthRefused, CallNotSent, MeshError, ProtocolBroken, RpcError, Unreachable, bare
from agent.model import CHANGE_META_KEY, Json
from agent.rpc_codes import INVALID_PARAMS

log = logging.getLogger(__name__)

# A server may use the session's standing stream, so a call waits for it; not for one that never opens.
STREAM_WAIT_S: Final = 2.0
# A stream that ends is opened again, ever more slowly.
STREAM_PAUSE_MIN_S: Final = 1.0
STREAM_PAUSE_MAX_S: Final = 30.0
# A caller's capabilities are kept as long as its session; the largest honest ones are a few hundred bytes.
FEATURES_BYTES_MAX: Final = 8 << 10
# How often a waiting call looks for sessions to reclaim at most, while one of them is ending.
POLL_AGAIN_MIN_S: Final = 1.0

# A session that gained something is kept, unused, as long as a node keeps its client's own.
GAINED_IDLE_S: Final = 1_800.0

StartTask: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


# Called with the affinity of a session's only caller, and what the server told there: a list change, one of
# `OF_SESSION`, or our own `SESSION_ENDED`.
OnNews: TypeAlias = Callable[[str, str, Json], None]


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions there may be, how many of them unused, and for how long."""

    sessions_max: int
    idle_max: int
    idle_s: float = 300.0


def _unheard(_method: str, _params: Json) -> None:
    """News of a session that has ended."""


def _ignored(_kind: str) -> None:
    """Changes in sessions of a client that has ended."""


def _refused(work: Coroutine[Any, Any, None], _name: str) -> asyncio.Task[None]:
    work.close()
    raise CallNotSent("this node has ended its link to the server")


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
        if self.of_client(features, affinity) is not None:
            return True
        if len(self._sessions) < self._limits.sessions_max and not self._has_quota():
            return True
        may_end = yielding(caller().grant.name, self._held())
        return any(not one.users and not one.gained and one.token in may_end for one in self._sessions)

    def client_ended(self, affinity: str) -> None:
        """This caller has gone: end its sessions, and its calls with them."""
        for session in [one for one in self._sessions if one.key[1] == affinity]:
            if not session.users:
                self._end(session)
            session.over = True
            for call in session.calls:
                call.give_up()

    def end(self) -> None:
        """Open no more, and lead back to the owner no more; the owner ends the tasks."""
        self._start_task, self._on_change = _refused, _ignored
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
            tokens = {caller().grant.name} if self._has_quota() else None  # Only its own would give it room.
            if reclaimed not in self._sessions:  # Else it is still ending, or serves another waiting call.
                reclaimed = self._reclaim(tokens)
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_reclaim_s(tokens)):
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

    def _held(self) -> Counter[str]:
        """How many sessions there are, by token."""
        return Counter(one.token for one in self._sessions)

    def _has_quota(self) -> bool:
        """Whether the present caller's token has as many sessions as it may."""
        grant = caller().grant
        return grant.named and self._held()[grant.name] >= quota(self._limits.sessions_max)

    def _make_room(self) -> bool:
        """Whether one more session may be opened for the present caller; an idle one may be ended for it."""
        token = caller().grant.name
        if self._has_quota():
            return self._end_idle({token})
        if len(self._sessions) < self._limits.sessions_max:
            return True
        return self._end_idle(yielding(token, self._held()))

    def _longest_away(self, tokens: Container[str] | None) -> tuple[float, DedicatedSession] | None:
        """The session left unanswered longest, of `tokens` or of owners with more than their share, and since when."""
        over = greedy((one.owner for one in self._sessions), self._limits.sessions_max)
        away = [
            (since_s, one)
            for one in self._sessions
            if (one.owner in over if tokens is None else one.token in tokens)
            and (since_s := one.away_since_s) is not None
        ]
        return min(away, key=lambda pair: pair[0], default=None)

    def _reclaim(self, tokens: Container[str] | None) -> DedicatedSession | None:
        """Give up the calls of the session whose caller has been away longest, if that is long enough."""
        away = self._longest_away(tokens)
        if away is None or away[0] + CONTESTED_PATIENCE_S > clock.now_s():
            return None
        log.warning("MCP calls given up: their clients left server requests unanswered while others waited")
        for call in away[1].calls:
            call.give_up(contested=True)
            self._on_pending("given_up", 0)
        return away[1]

    def _until_reclaim_s(self, tokens: Container[str] | None) -> float:
        """Seconds until the next look at them: any session may become one to reclaim after that time."""
        away = self._longest_away(tokens)
        left_s = CONTESTED_PATIENCE_S if away is None else away[0] + CONTESTED_PATIENCE_S - clock.now_s()
        return max(left_s, POLL_AGAIN_MIN_S)

    def _end_idle(self, tokens: Container[str]) -> bool:
        """End an unused session of these tokens, if there is one: that gained nothing, of the token with most."""
        held = self._held()
        unused = [one for one in self._sessions if not one.users and one.token in tokens]
        if unused:
            self._end(max(unused, key=lambda one: (not one.gained, held[one.token])))
        return bool(unused)

    def _give_back(self, session: DedicatedSession) -> None:
        session.users -= 1
        self._freed.set()
        if session.users:
            return
        if session not in self._sessions:
            self._let_go(session)
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
        unused = Counter(one.token for one in self._sessions if not one.users and not one.gained)
        if unused.total() > self._limits.idle_max:
            self._end_idle({max(unused, key=unused.__getitem__)})

    def _end(self, session: DedicatedSession) -> None:
        """Let the keeper close it; only for a session that is not in use."""
        self._sessions.pop(session, None)
        if session.expiry is not None:
            session.expiry.cancel()
        if session.keeper is not None:
            session.keeper.cancel()
        self._freed.set()

    def _let_go(self, session: DedicatedSession) -> None:
        """Cut what leads back to a session that has ended, or only the garbage collector could take it away."""
        session.keeper = None
        if not session.users:
            session.client = None

    async def _keep(self, session: DedicatedSession) -> None:
        """Open one session, follow its stream, and close it in the end."""
        try:
            await self._open_and_follow(session)
        except MeshError as exc:
            session.failure = bare(exc)
        except asyncio.CancelledError as exc:
            exc.__context__ = None
            bare(exc)  # The task holds it.
            raise
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
            session.tell = _unheard
            self._let_go(session)

    async def _open_and_follow(self, session: DedicatedSession) -> None:
        async with self._open_session(session.features, session.ask, session.hear) as client:
            await self._follow(session, client)

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
        ended: Unreachable | None = None  # How the stream did, by silence or not.
        try:
            while True:
                try:
                    await client.listen(on_change)
                except (ListenNotSupported, ProtocolBroken):
                    on_change("listening")
                    await client.lost.wait()
                except Unreachable as exc:
                    ended = exc
                    on_change("listening")
                if client.lost.is_set():
                    raise ended or why_lost(client)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await client.lost.wait()
                pause_s = min(2 * pause_s, STREAM_PAUSE_MAX_S)
        finally:
            del ended  # Its traceback has this frame: a circle, for the garbage collector to find.
            late.cancel()


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
            copied = CallNotSent.about("the server", "opened no session of its own for the call", f": {why}")
            return copied if failure is None else copied.as_silent_as(failure)
