"""The client to a server with sessions as links see it: it routes each request to the shared or a dedicated session.

Made by the HTTP and stdio clients, around the session that they have opened. Calls of callers that accept server
requests run in dedicated sessions (`agent.client.sessions.calls`); everything else (probes, subscriptions, other calls)
goes over the one shared session, which declares no capabilities, or, for callers that show pages of MCP Apps and accept
no server requests, over another shared one that declares this. Lists are read in a session that declares everything,
because many servers list only what a caller could use. The one rule: server requests for a caller and its answers pass
in that caller's session, and in no other.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import replace
from typing import Final

from agent.client import jsonrpc
from agent.client.affinity import is_of_session
from agent.client.capabilities import EVERY_FEATURE, MAY_ASK, permits_requests
from agent.client.protocol import Request, shown_s
from agent.client.sessions.beside import LISTS, BesideSessions, features_of
from agent.client.sessions.client_tasks import TASK_REQUESTS
from agent.client.sessions.dedicated import OpenSession, SessionClient, SessionRefused, SharedClient
from agent.client.sessions.pending_call import OnPending, unheard
from agent.client.sessions.pool import SessionLimits, SessionPool
from agent.errors import CallNotSent, MeshError, RpcError
from agent.model import CLIENT_METHOD, Json
from agent.rpc_codes import INVALID_PARAMS

log = logging.getLogger(__name__)

# All lists of one server are read in one session.
LISTING_LIMITS: Final = SessionLimits(sessions_max=1, idle_max=1)

# A list has this many times as long as the shared session took to open: a gateway that starts a program for each
# request needs as long for it.
OPENING_FACTOR: Final = 1.5

_KINDS: Final = frozenset(jsonrpc.LIST_CHANGES.values())
_CALLS: Final = MAY_ASK | {"completion/complete"}
# Made in sessions of single callers; of more, the oldest are looked for in the shared session, and not found.
TASKS_MAX: Final = 1_000
# In place of an affinity, distinct from every caller's: of our own listing, and of what callers may share.
_FOR_LISTING: Final = object()
_FOR_ALL: Final = object()


class SessionRouter(BesideSessions[SharedClient]):
    """As `McpClient`. Its dedicated sessions end with it, `shared` does not.

    `own_for_all`: every call needs a dedicated session, whatever its caller declared.
    `lists_apart`: lists are not read over the shared session. `by_session`: where the server says that its lists may
    change, or tells of a change, what it offers may depend on the session, so every caller that has a session gets one
    here too, while there is room for it. `opened_in_s`: how long the shared session took.

    Long because which session a request needs is one decision.
    """

    __slots__ = (
        "_by_session",
        "_list_takes_s",
        "_listing",
        "_lists_apart",
        "_made_tasks",
        "_may_differ",
        "_not_opened",
        "_opening",
        "_own_for_all",
        "_refused",
    )

    def __init__(
        self,
        shared: SharedClient,
        open_session: OpenSession,
        *,
        limits: SessionLimits,
        own_for_all: bool = False,
        lists_apart: bool = True,
        by_session: bool = False,
        on_pending: OnPending = unheard,
        opened_in_s: float = 0.0,
    ) -> None:
        super().__init__(shared, open_session, limits=limits, on_pending=on_pending)
        self._own_for_all = own_for_all
        self._lists_apart = lists_apart
        self._list_takes_s = OPENING_FACTOR * opened_in_s
        self._may_differ = by_session
        self._by_session = by_session and shared.server_info.lists_may_differ
        self._made_tasks: OrderedDict[str, tuple[Json, str]] = OrderedDict()  # Features and affinity of their callers.
        # A pool of its own, so that no caller can keep us from listing.
        self._listing = SessionPool(open_session, LISTING_LIMITS, self._start, self._changed, unheard)
        self._refused = False
        self._opening: asyncio.Task[None] | None = None
        self._not_opened: MeshError | None = None

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; the result may be `input_required`, and a retry of the request continues it."""
        method, params = request.method, request.params
        if method == CLIENT_METHOD:
            return await self._take_client_event(request)
        if method in LISTS:
            return await self._list(request)
        if method in TASK_REQUESTS and params is not None:
            return await self._about_task(request, params)
        features: Json = {}
        if method in MAY_ASK and params is not None:
            if params.get("requestState") is not None:
                return await self._calls.retry(request)
            if params.get("inputResponses") is not None:
                raise RpcError(INVALID_PARAMS, "inputResponses came without the requestState that they answer")
            features = features_of(params, request.affinity)
        if method not in _CALLS or self._refused:
            return await self._shared.request(request)
        return self._made(request, features, await self._call(request, features))

    async def _list(self, request: Request) -> Json:
        if request.affinity is not None:
            return await self.list_in_session(request)
        if self._lists_apart and not self._refused:
            return await self._list_apart(request)
        return await self._shared.request(request)

    async def _list_apart(self, request: Request) -> Json:
        """A list in the session for that; in the shared one while it is still opening when half of the time is over.

        Sooner if the list needs more than the other half. A gateway that starts a program for each session, or even for
        each request, needs its time several times, and what callers without features see is better than nothing. The
        session goes on opening, for the next list.
        """
        if self._opening is None or self._opening.done():
            self._opening = self._start(self._open_to_list(), "open the session to list in")
        left_s = request.left_s()
        await asyncio.wait([self._opening], timeout=max(0.0, min(left_s / 2, left_s - self._list_takes_s)))
        if not self._opening.done():
            return await self._shared.request(request)
        if isinstance(self._not_opened, SessionRefused):
            self._note_refusal(self._not_opened)
            return await self._shared.request(request)
        if self._not_opened is not None:
            raise copy(self._not_opened)  # Several lists may raise it.
        return await self._at_once(self._listing, EVERY_FEATURE, _FOR_LISTING, request)

    async def _open_to_list(self) -> None:
        try:
            async with self._listing.lent(EVERY_FEATURE, _FOR_LISTING):
                self._not_opened = None
        except MeshError as exc:
            self._not_opened = exc

    async def _call(self, request: Request, features: Json) -> Json:
        """A call of a caller with these features, in the session that it needs."""
        if self._own_for_all or permits_requests(features):
            return await self._calls.begin(request, features)
        affinity = request.affinity
        if self._may_differ and affinity is not None and is_of_session(affinity):
            if not self._by_session:
                request = self._noticing(request)
            elif self._pool.has_room(features, affinity):
                return await self._at_once(self._pool, features, affinity, request)
        if features:
            return await self._at_once(self._pool, features, _FOR_ALL, request)
        return await self._shared.request(request)

    def _noticing(self, request: Request) -> Request:
        """A call of a client with a session, on whose stream the server may tell of a change."""
        hand_on = request.on_notification

        async def notice(method: str, params: Json) -> None:
            if method in jsonrpc.LIST_CHANGES:
                self._told_of_change()
            if hand_on is not None:
                await hand_on(method, params)

        return request.heard_by(notice)

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `BesideSessions.listen`."""

        def noticed(kind: str) -> None:
            if kind in _KINDS:
                self._told_of_change()
            on_change(kind)

        await super().listen(noticed)

    def _told_of_change(self) -> None:
        if self._may_differ and not self._by_session:
            log.info("MCP server changes its lists without having said so", extra={"client": repr(self._shared)})
            self._by_session = True

    def end(self) -> None:
        """As `BesideSessions.end`."""
        self._listing.end()
        super().end()
        self._opening = None

    def _made(self, request: Request, features: Json, result: Json) -> Json:
        """The result of a call; a task that it made is known in the session of its caller alone."""
        task = result.get("task") if request.params is not None and "task" in request.params else None
        affinity, task_id = request.affinity, task.get("taskId") if isinstance(task, dict) else None
        session = None if affinity is None else self._pool.of_client(features, affinity)
        if session is not None and affinity is not None and isinstance(task_id, str):
            session.gained = True
            self._made_tasks[task_id] = features, affinity
            if len(self._made_tasks) > TASKS_MAX:
                self._made_tasks.popitem(last=False)
        return result

    async def _about_task(self, request: Request, params: Json) -> Json:
        """A request of 2025-11-25 about a task; `tasks/result` may be answered with what the task asks."""
        known = self._made_tasks.get(params.get("taskId", ""))
        if known is None:
            return await self._shared.request(request)
        features, affinity = known
        if request.method != "tasks/result" or not permits_requests(features):
            return await self._at_once(self._pool, features, affinity, request)
        if params.get("requestState") is not None:
            return await self._calls.retry(request)
        return await self._calls.begin(replace(request, affinity=affinity), features)

    def _opens_for(self, features: Json, affinity: str) -> bool:
        has_sessions = self._by_session or self._own_for_all or permits_requests(features)
        return has_sessions and not self._refused and self._pool.has_room(features, affinity)

    async def _at_once(self, pool: SessionPool, features: Json, key: Hashable, request: Request) -> Json:
        """Send a request, which no server request can interrupt, in the one session of `key` with these features."""
        timeout_s = request.left_s()
        try:
            async with (
                asyncio.timeout_at(request.deadline_s) as opening,
                pool.lent(features, key, request.on_notification) as session,
            ):
                assert session.client is not None, "it is open while it is lent"
                opening.reschedule(None)  # From here on the client watches the deadline: it knows what it has sent.
                return await session.client.request(request)
        except SessionRefused as exc:
            self._note_refusal(exc)
            return await self._shared.request(request)
        except TimeoutError as exc:
            what = f"opened no session for {request.method} within {shown_s(timeout_s)}"
            raise CallNotSent.about("the server", what).as_silence() from exc

    def _without_session(self, exc: SessionRefused) -> SessionClient:
        if self._own_for_all:
            raise CallNotSent(str(exc)) from exc
        self._note_refusal(exc)
        return self._shared

    def _note_refusal(self, exc: SessionRefused) -> None:
        """From now on use the shared session alone: calls without server requests are better than none."""
        if not self._refused:
            log.warning(
                "MCP server opens one session only, so it can send no server requests", extra={"reason": str(exc)}
            )
        self._refused = not self._own_for_all
