"""A client and the dedicated sessions beside it: what the routers of both eras share.

Subclassed by `router` (a server with sessions) and `dual_era` (a stateless server that opens sessions too), which
decide where each request goes. Everything that is no request goes to the main client. The one rule: all that runs
beside the main client belongs to one group, which ends with the router.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from agent.client.affinity import is_of_session
from agent.client.capabilities import declared_features
from agent.client.event import Event
from agent.client.protocol import McpClient, Request
from agent.client.server_info import ServerInfo
from agent.client.sessions.calls import SessionCalls
from agent.client.sessions.pending_call import OnPending
from agent.client.sessions.pool import OpenSession, SessionClient, SessionLimits, SessionPool, SessionRefused
from agent.client.streams import Updates
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import ClientEvent, Json

Main = TypeVar("Main", bound=McpClient)


class BesideSessions(Generic[Main]):
    """As `McpClient`, but for `request`. `shared`: the main client, which all callers share."""

    def __init__(
        self,
        shared: Main,
        open_session: OpenSession,
        group: asyncio.TaskGroup,
        *,
        limits: SessionLimits,
        on_pending: OnPending,
    ) -> None:
        self._shared = shared
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: set[Callable[[str], None]] = set()
        self._pool = SessionPool(open_session, limits, self._start, self._changed, on_pending)
        self._calls = SessionCalls(self._pool, self._start, self._without_session, on_pending)

    def __repr__(self) -> str:
        """The main client, the dedicated sessions, and the pending calls."""
        return f"<{type(self).__name__} {self._shared!r} {self._pool!r} {self._calls!r}>"

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

    @property
    def lost_what(self) -> str:
        """As `McpClient.lost_what`."""
        return self._shared.lost_what

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

    def end(self) -> None:
        """End all that is open; the group's owner waits for it."""
        self._calls.end()
        self._pool.forget_timers()
        for task in self._tasks:
            if not task.cancelling():  # One that is ending cleans up within a second.
                task.cancel()

    def _without_session(self, exc: SessionRefused) -> SessionClient:
        """The client in place of a session that the server does not open, or raises."""
        raise exc

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
                    features = features_of(params, affinity)
                    session = self._pool.of_client(features, affinity) if "roots" in features else None
                    if session is not None:
                        can_be_asked = params.get("canBeAsked") is True
                        return await self._calls.roots_changed(session, request, can_be_asked=can_be_asked)
        return {"resultType": "complete"}

    def _changed(self, kind: str) -> None:
        for listener in tuple(self._listeners):
            listener(kind)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


Router = TypeVar("Router", bound=BesideSessions[Any])


@asynccontextmanager
async def grouped(make: Callable[[asyncio.TaskGroup], Router]) -> AsyncGenerator[Router, None]:
    """The router that `make` makes in a group of its own; all but its main client ends with it."""
    group = asyncio.TaskGroup()
    await group.__aenter__()
    client = make(group)
    try:
        yield client
    finally:
        client.end()
        # By hand, so that what ended the client's life is not wrapped into a group of exceptions.
        await group.__aexit__(None, None, None)


def features_of(params: Json, affinity: str | None) -> Json:
    """Those of a caller's capabilities that matter to a session (`declared_features`); empty for none."""
    capabilities = (params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY)
    return declared_features(capabilities, sends_list_changed=is_of_session(affinity))
