"""The table of one endpoint's sessions, for clients from before 2026-07-28.

`agent.server.sessions.http` opens and looks up sessions here, notifications are sent with `tell`, and the wiring runs
`cleanup_ctx` around the server. A session belongs to the endpoint and the token with which it began. Its ID is no
authentication: the token is checked before. An ID that is not in the table is adopted when its seal is valid
(`agent.server.sessions.sealed_id`). The one rule: sessions are bounded in number and idle time, and nothing of one
outlives it but its ID.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Container, Coroutine
from functools import partial
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

import orjson
from aiohttp import web

from agent import clock
from agent.authority.caller import caller
from agent.client.sessions.shares import quota, yielding
from agent.server.response import EventStream
from agent.server.sessions.sealed_id import LIFETIME_S, Agreed, SessionSeal
from agent.server.sessions.session import ServerSession
from agent.state.ended_sessions import EndedSessions

log = logging.getLogger(__name__)

# The SDK's own limits, which hosts are used to: a session costs some kilobytes, a laptop's user is away for less.
SESSIONS_MAX: Final = 10_000
IDLE_MAX_S: Final = 30 * 60.0
# Sessions may end this much later than their time, which delays nothing.
SWEEP_EVERY_S: Final = 60.0
# Why a session ended: its client said so.
BY_CLIENT: Final = "by_client"
# The token of its client was revoked or has expired.
REVOKED: Final = "revoked"
# Sent once to a client whose session was adopted: changes in between are not known here.
_LISTS_CHANGED: Final = tuple(
    orjson.dumps({"jsonrpc": "2.0", "method": f"notifications/{kind}/list_changed"})
    for kind in ("tools", "prompts", "resources")
)

T = TypeVar("T")


class NoRoom(Exception):
    """No session is idle, so that no other can be opened or adopted."""


class SessionWatch(Protocol):
    """What hears of sessions that other processes of this node may serve as well (`agent.workers`)."""

    def begun(self, session: ServerSession) -> None:
        """It is in the table."""
        ...

    def over(self, session: ServerSession, why: str) -> None:
        """It is not any more."""
        ...


class Sessions:
    """The table. Its one writer is the event loop; between the two halves of `cleanup_ctx` it is open.

    Long because sessions are opened, adopted, ended and notified here alone.
    """

    def __init__(
        self,
        record: Callable[[str], None],
        ended: Callable[[ServerSession], Coroutine[Any, Any, None]],
        seal: SessionSeal,
        *,
        ended_ids: EndedSessions | None = None,
        sessions_max: int = SESSIONS_MAX,
        idle_max_s: float = IDLE_MAX_S,
    ) -> None:
        """`record` counts the events of sessions (docs/metrics.md); `ended` notifies servers of an ended one.

        `ended_ids`: those of all endpoints that clients ended; None: this table's alone, and until the node's end.
        """
        self._record = record
        self._ended = ended
        self._seal = seal
        self._sessions_max = sessions_max
        self._idle_max_s = idle_max_s
        # Longest unused first.
        self._sessions: OrderedDict[str, ServerSession] = OrderedDict()
        self._held = Counter[str]()  # By binding.
        self._ended_ids = EndedSessions() if ended_ids is None else ended_ids
        self._tasks: asyncio.TaskGroup | None = None
        self._closing = False
        self._deaf = False
        self._has_adopted = False
        self.watch: SessionWatch | None = None

    def __repr__(self) -> str:
        return f"<Sessions {'closing' if self._closing else 'open' if self.is_open else 'idle'} {len(self._sessions)}>"

    async def cleanup_ctx(self, _app: web.Application) -> AsyncIterator[None]:
        """For `app.cleanup_ctx`: sessions can be opened until the server's end, and all of them end with it."""
        self._ended_ids.elsewhere.add(self._ended_elsewhere)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            sweeper = tasks.create_task(self._sweep(), name="sweep sessions")
            try:
                yield
            finally:
                self._tasks = None
                self._ended_ids.elsewhere.discard(self._ended_elsewhere)
                sweeper.cancel()
                for session in list(self._sessions.values()):
                    self.end(session, "stopped")

    async def on_shutdown(self, _app: web.Application) -> None:
        """For `app.on_shutdown`: aiohttp calls it when no client can connect any more, before it waits for requests.

        A call may not wait until the end of the drain for an answer that would need a connection.
        """
        self.close_streams()
        self._deaf = True
        for session in self._sessions.values():
            session.go_deaf()

    def close_streams(self) -> None:
        """End standing streams now and later; calls under way go on. May be repeated."""
        self._closing = True
        for session in self._sessions.values():
            if session.stream is not None:
                session.stream.end()

    def cut_off(self) -> None:
        """End every call under way with an answer: the node waits no longer, and its outcome will not be known."""
        for session in self._sessions.values():
            session.cut_off()

    @property
    def count(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def is_open(self) -> bool:
        """Whether requests can be served."""
        return self._tasks is not None

    def start_task(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run work that may outlive its request and must not raise; `RuntimeError` when the server is ending."""
        if self._tasks is None:
            work.close()
            raise RuntimeError("the server is ending, and begins nothing")
        return self._tasks.create_task(work, name=name)

    def open(self, version: str, declared: bytes) -> ServerSession:
        """Begin a session of a client that declared these capabilities, as JSON. Raises `NoRoom`."""
        agreed = Agreed(version, declared)
        session = self._add(self._seal.seal(agreed, time.time(), caller().grant.binding), agreed)
        self._record("opened")
        return session

    def find(self, session_id: str, *, notices: bool = True) -> ServerSession | None:
        """The session of that ID, used from now on; None when it has ended, or never was.

        One that is not in the table but was opened here before, or by another node of the mesh, is adopted: its client
        continues, and is notified that lists may have changed. `notices`: whether it is sent list changes from
        now on. Raises `NoRoom`.
        """
        binding = caller().grant.binding
        if session_id in self._sessions:  # Of another caller's, this one learns nothing.
            return self.present(session_id, binding, notices=notices)
        agreed = None if session_id in self._ended_ids else self._seal.open(session_id, time.time(), binding)
        if agreed is None:
            return None
        session = self._add(session_id, agreed)
        session.notices, session.adopted = notices, asyncio.Lock()
        for note in _LISTS_CHANGED if notices else ():
            session.tell(note)
        # After a restart thousands come, and a line costs more than all the rest; the metric counts them.
        level, self._has_adopted = logging.DEBUG if self._has_adopted else logging.INFO, True
        log.log(level, "MCP session adopted", extra={"version": agreed.version})
        self._record("adopted")
        return session

    def present(self, session_id: str, binding: str, *, notices: bool) -> ServerSession | None:
        """As `find`, of a session that is in the table. `binding`: of the caller."""
        session = self._sessions.get(session_id)
        if session is None or session.grant.binding != binding:
            return None
        session.notices, session.used_at_s = notices, clock.now_s()
        self._sessions.move_to_end(session_id)
        return session

    def _add(self, session_id: str, agreed: Agreed) -> ServerSession:
        grant, binding = caller().grant, caller().grant.binding
        has_quota = grant.named and self._held[binding] >= quota(self._sessions_max)
        if has_quota or len(self._sessions) >= self._sessions_max:
            if (idle := self._longest_idle({binding} if has_quota else yielding(binding, self._held))) is None:
                log.warning("MCP session refused, all are in use", extra={"limit": self._sessions_max})
                self._record("refused")
                raise NoRoom
            self.end(idle, "made_room")
        session = ServerSession(session_id, agreed.version, agreed.declared, clock.now_s(), deaf=self._deaf)
        session.grant = grant
        self._sessions[session_id] = session
        self._held[session.binding] += 1
        if self.watch is not None:
            self.watch.begun(session)
        return session

    def _longest_idle(self, bindings: Container[str]) -> ServerSession | None:
        """Of these callers' sessions, one of the caller with most of them; None where all are busy."""
        idle = [session for session in self._sessions.values() if not session.busy and session.binding in bindings]
        return max(idle, key=lambda session: self._held[session.binding], default=None)

    def end(self, session: ServerSession, why: str) -> None:
        """Forget a session and end what is under way in it; may be repeated."""
        if self._sessions.pop(session.id, None) is not None:
            self._held[session.binding] -= 1
            log.info("MCP session ended", extra={"why": why, "age_idle_s": round(clock.now_s() - session.used_at_s)})
            self._record(why)
            if self.watch is not None:
                self.watch.over(session, why)
            session.end()
            # Servers keep nothing that long when idle; and when the node stops, they release it in time.
            if self._tasks is not None and why != "idle":
                self.start_task(self._ended(session), "notify servers of an ended session")

    def used(self, session_id: str) -> None:
        """Another process of this node has served a call of it."""
        if (session := self._sessions.get(session_id)) is not None:
            self._touch(session)

    def cancel(self, session_id: str, request_id: str | int) -> None:
        """End a call whose client has cancelled it at another process of this node."""
        if (session := self._sessions.get(session_id)) is not None:
            session.cancel_call(request_id)

    def end_of_revoked(self, bindings: Container[str]) -> None:
        """End the sessions of callers whose binding is not among these: their token is not valid any more."""
        for session in list(self._sessions.values()):
            if session.binding and session.binding not in bindings:
                self.end(session, REVOKED)

    async def end_by_client(self, session: ServerSession) -> None:
        """End a session at its client's word: no node that can know of that adopts it again."""
        self.end(session, BY_CLIENT)
        await self._ended_ids.add(session.id, int(time.time()) + LIFETIME_S)

    def _ended_elsewhere(self, session_id: str) -> None:
        """End what this node has of a session that its client ended at another one."""
        if (session := self._sessions.get(session_id)) is not None:
            self.end(session, BY_CLIENT)

    async def stream(self, session: ServerSession, request: web.Request) -> web.StreamResponse:
        """Serve the session's standing stream; it takes the place of one that a client may have lost."""
        stream = EventStream(request, session.take_notes, partial(self._record, "stream_dropped"))
        if session.stream is not None:
            session.stream.end()
        session.stream = stream
        stream.nudge()
        if self._closing:
            stream.end()
        try:
            return await stream.serve()
        finally:
            if session.stream is stream:
                session.stream = None
            self._touch(session)

    def tell(self, method: str) -> None:
        """Send a notification to every session; never waits."""
        note = orjson.dumps({"jsonrpc": "2.0", "method": method})
        for session in filter(attrgetter("notices"), self._sessions.values()):
            session.tell(note)

    def _touch(self, session: ServerSession) -> None:
        if session.id in self._sessions:
            session.used_at_s = clock.now_s()
            self._sessions.move_to_end(session.id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            before_s = clock.now_s() - self._idle_max_s
            for session in list(self._sessions.values()):
                if session.used_at_s > before_s:
                    break  # So are all that follow.
                if session.busy:
                    self._touch(session)
                else:
                    self.end(session, "idle")
