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
from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from typing import Final

from agent.client.capabilities import EVERY_FEATURE, MAY_ASK, permits_requests
from agent.client.protocol import Request, shown_s
from agent.client.sessions.beside import BesideSessions, features_of, grouped
from agent.client.sessions.pending_call import OnPending, unheard
from agent.client.sessions.pool import (
    OpenSession,
    SessionClient,
    SessionLimits,
    SessionPool,
    SessionRefused,
    SharedClient,
)
from agent.errors import CallNotSent, RpcError
from agent.model import CLIENT_METHOD, Json
from agent.rpc_codes import INVALID_PARAMS

log = logging.getLogger(__name__)

# All lists of one server are read in one session.
LISTING_LIMITS: Final = SessionLimits(sessions_max=1, idle_max=1)

_CALLS: Final = MAY_ASK | {"completion/complete"}
_LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
# In place of an affinity, distinct from every caller's: of our own listing, and of what callers may share.
_FOR_LISTING: Final = object()
_FOR_ALL: Final = object()


class SessionRouter(BesideSessions[SharedClient]):
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
        super().__init__(shared, open_session, group, limits=limits, on_pending=on_pending)
        self._own_for_all = own_for_all
        self._lists_apart = lists_apart
        # A pool of its own, so that no caller can keep us from listing.
        self._listing = SessionPool(open_session, LISTING_LIMITS, self._start, self._changed, unheard)
        self._refused = False

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; the result may be `input_required`, and a retry of the request continues it."""
        method, params = request.method, request.params
        if method == CLIENT_METHOD:
            return await self._take_client_event(request)
        if method in _LISTS and self._lists_apart and not self._refused:
            return await self._at_once(self._listing, EVERY_FEATURE, _FOR_LISTING, request)
        features: Json = {}
        if method in MAY_ASK and params is not None:
            if params.get("requestState") is not None:
                return await self._calls.retry(request)
            if params.get("inputResponses") is not None:
                raise RpcError(INVALID_PARAMS, "inputResponses came without the requestState that they answer")
            features = features_of(params, request.affinity)
        if method not in _CALLS or self._refused or not (features or self._own_for_all):
            return await self._shared.request(request)
        if not (self._own_for_all or permits_requests(features)):
            return await self._at_once(self._pool, features, _FOR_ALL, request)
        return await self._calls.begin(request, features)

    def end(self) -> None:
        """As `BesideSessions.end`."""
        self._listing.forget_timers()
        super().end()

    async def _at_once(self, pool: SessionPool, features: Json, key: Hashable, request: Request) -> Json:
        """Send a request, which no server request can interrupt, in the one session of `key` with these features."""
        timeout_s = request.left_s()
        try:
            async with (
                asyncio.timeout_at(request.deadline_s) as opening,
                pool.lent(features, key) as session,
            ):
                assert session.client is not None, "it is open while it is lent"
                opening.reschedule(None)  # From here on the client watches the deadline: it knows what it has sent.
                return await session.client.request(request)
        except SessionRefused as exc:
            self._note_refusal(exc)
            return await self._shared.request(request)
        except TimeoutError as exc:
            what = f"opened no session for {request.method} within {shown_s(timeout_s)}"
            raise CallNotSent.about("the server", what) from exc

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


def asking(
    shared: SharedClient,
    open_session: OpenSession,
    *,
    limits: SessionLimits,
    own_for_all: bool = False,
    lists_apart: bool = True,
    on_pending: OnPending = unheard,
) -> AbstractAsyncContextManager[SessionRouter]:
    """The client over `shared` and the sessions that `open_session` opens; all but `shared` end with it."""
    return grouped(
        lambda group: SessionRouter(
            shared,
            open_session,
            group,
            limits=limits,
            own_for_all=own_for_all,
            lists_apart=lists_apart,
            on_pending=on_pending,
        )
    )
