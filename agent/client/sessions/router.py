"""The client to a server with sessions as links see it: it routes each request to the shared or a dedicated session.

Made by the HTTP and stdio clients, around the session that they have opened. Calls of callers that accept server
requests run in dedicated sessions (`agent.client.sessions.calls`); everything else (probes, subscriptions, other calls)
goes over the one shared session, which declares no capabilities. Lists are read in a session that declares all of them,
because many servers list only what a caller could use. The one rule: server requests for a caller and its answers pass
in that caller's session, and in no other.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from agent.client.affinity import is_of_session
from agent.client.capabilities import EVERY_FEATURE, MAY_ASK, declared_features
from agent.client.event import Event
from agent.client.protocol import Request, shown_s
from agent.client.server_info import ServerInfo
from agent.client.sessions.calls import SessionCalls
from agent.client.sessions.pending_call import OnPending, unheard
from agent.client.sessions.pool import (
    OpenSession,
    SessionClient,
    SessionLimits,
    SessionPool,
    SessionRefused,
    SharedClient,
)
from agent.client.streams import Updates
from agent.errors import CallNotSent, RpcError
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import CLIENT_METHOD, ClientEvent, Json
from agent.rpc_codes import INVALID_PARAMS

log = logging.getLogger(__name__)

# All lists of one server are read in one session.
LISTING_LIMITS: Final = SessionLimits(sessions_max=1, idle_max=1)

_CALLS: Final = MAY_ASK | {"completion/complete"}
_LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
_FOR_LISTING: Final = object()  # The affinity of our own listing, distinct from every caller's key.


class SessionRouter:
    """As `McpClient`. Made by `asking`.

    `own_for_all`: every call needs a dedicated session, whatever its caller declared.
    `lists_apart`: lists are not read over the shared session.
    """

    def __init__(
        self,
        shared: SharedClient,
        open_session: OpenSession,
        group: asyncio.TaskGroup,
        *,
        limits: SessionLimits,
        own_for_all: bool,
        lists_apart: bool,
        on_pending: OnPending,
    ) -> None:
        self._shared = shared
        self._group = group
        self._own_for_all = own_for_all
        self._lists_apart = lists_apart
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: set[Callable[[str], None]] = set()
        self._pool = SessionPool(open_session, limits, self._start, self._changed, on_pending)
        # A pool of its own, so that no caller can keep us from listing.
        self._listing = SessionPool(open_session, LISTING_LIMITS, self._start, self._changed, unheard)
        self._calls = SessionCalls(self._pool, self._start, self._go_on_shared, on_pending)
        self._refused = False

    def __repr__(self) -> str:
        """The shared client, the dedicated sessions, and the pending calls."""
        return f"<SessionRouter {self._shared!r} {self._pool!r} {self._calls!r}>"

    @property
    def server_info(self) -> ServerInfo:
        """As `McpClient.server_info`."""
        return self._shared.server_info

    @property
    def lost(self) -> Event:
        """As `McpClient.lost`."""
        return self._shared.lost

    @property
    def lost_reason(self) -> str:
        """As `McpClient.lost_reason`."""
        return self._shared.lost_reason

    def use_token(self, token: str) -> None:
        """As `McpClient.use_token`."""
        self._shared.use_token(token)

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`; changes that are announced in any session count."""
        self._listeners.add(on_change)
        try:
            await self._shared.listen(on_change)
        finally:
            self._listeners.discard(on_change)

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`."""
        await self._shared.follow(updates)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        await self._shared.probe(timeout_s)

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; the result may be `input_required`, and a retry of the request continues it."""
        method, params = request.method, request.params
        if method == CLIENT_METHOD:
            return await self._take_client_event(request)
        if method in _LISTS and self._lists_apart and not self._refused:
            return await self._list(request)
        features: Json = {}
        if method in MAY_ASK and params is not None:
            if params.get("requestState") is not None:
                return await self._calls.retry(request)
            if params.get("inputResponses") is not None:
                raise RpcError(INVALID_PARAMS, "inputResponses came without the requestState that they answer")
            features = _features_of(params, request.affinity)
        if method not in _CALLS or self._refused or not (features or self._own_for_all):
            return await self._shared.request(request)
        return await self._calls.begin(request, features)

    async def _take_client_event(self, request: Request) -> Json:
        """Take an event of a caller with a session; the result may be `input_required`."""
        params, affinity = request.params or {}, request.affinity
        if params.get("requestState") is not None:
            return await self._calls.retry(request)
        if affinity is not None and is_of_session(affinity):
            match params.get("event"):
                case ClientEvent.ENDED:
                    self._pool.client_ended(affinity)
                case ClientEvent.ROOTS_CHANGED:
                    features = _features_of(params, affinity)
                    session = self._pool.of_client(features, affinity) if "roots" in features else None
                    if session is not None:
                        can_be_asked = params.get("canBeAsked") is True
                        return await self._calls.roots_changed(session, request, can_be_asked=can_be_asked)
        return {"resultType": "complete"}

    def end(self) -> None:
        """End all that is open; the group's owner waits for it."""
        self._calls.end()
        self._pool.forget_timers()
        self._listing.forget_timers()
        for task in self._tasks:
            if not task.cancelling():  # One that is ending cleans up within a second.
                task.cancel()

    async def _list(self, request: Request) -> Json:
        timeout_s = request.left_s()
        try:
            async with (
                asyncio.timeout_at(request.deadline_s) as opening,
                self._listing.lent(EVERY_FEATURE, _FOR_LISTING) as session,
            ):
                assert session.client is not None, "it is open while it is lent"
                opening.reschedule(None)  # From here on the client watches the deadline: it knows what it has sent.
                return await session.client.request(request)
        except SessionRefused as exc:
            self._note_refusal(exc)
            return await self._shared.request(request)
        except TimeoutError as exc:
            raise CallNotSent(f"no session to list in could be opened within {shown_s(timeout_s)}") from exc

    def _go_on_shared(self, exc: SessionRefused) -> SessionClient:
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

    def _changed(self, kind: str) -> None:
        for listener in tuple(self._listeners):
            listener(kind)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _features_of(params: Json, affinity: str | None) -> Json:
    capabilities = (params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY)
    return declared_features(capabilities, sends_list_changed=is_of_session(affinity))


@asynccontextmanager
async def asking(
    shared: SharedClient,
    open_session: OpenSession,
    *,
    limits: SessionLimits,
    own_for_all: bool = False,
    lists_apart: bool = True,
    on_pending: OnPending = unheard,
) -> AsyncGenerator[SessionRouter, None]:
    """The client over `shared` and the sessions that `open_session` opens; all but `shared` end with it."""
    group = asyncio.TaskGroup()
    await group.__aenter__()
    client = SessionRouter(
        shared,
        open_session,
        group,
        limits=limits,
        own_for_all=own_for_all,
        lists_apart=lists_apart,
        on_pending=on_pending,
    )
    try:
        yield client
    finally:
        client.end()
        # By hand, so that what ended the client's life is not wrapped into a group of exceptions.
        await group.__aexit__(None, None, None)
