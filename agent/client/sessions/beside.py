"""A client and the dedicated sessions beside it: what the routers of both eras share.

Subclassed by `router` (a server with sessions) and `dual_era` (a stateless server that opens sessions too), which
decide where each request goes. Everything that is no request goes to the main client. The one rule: all that runs
beside the main client belongs to one group, which ends with the router.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, Self, TypeVar

from agent.client import jsonrpc
from agent.client.affinity import is_of_session
from agent.client.capabilities import declared_features
from agent.client.event import Event
from agent.client.legacy_notifications import SUBSCRIBE, SUBSCRIBE_TIMEOUT_S, UNSUBSCRIBE, UNSUBSCRIBE_TIMEOUT_S
from agent.client.protocol import McpClient, Quiet, Request, why_lost
from agent.client.server_info import ServerInfo
from agent.client.sessions.calls import SessionCalls
from agent.client.sessions.dedicated import SESSION_ENDED, OpenSession, SessionClient, SessionRefused
from agent.client.sessions.pending_call import OnPending
from agent.client.sessions.pool import SessionLimits, SessionPool
from agent.client.small_task_group import SmallTaskGroup
from agent.client.streams import RESOURCES, SESSIONS, UPDATED, Updates
from agent.errors import CallNotSent, MeshError
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import AFFINITY_META_KEY, SUBSCRIBED_THERE, ClientEvent, Json

LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
# Callers whose sessions had notices before their node followed these; and how many of one are kept.
UNTAKEN_MAX: Final = 64
UNTAKEN_OF_ONE_MAX: Final = 8

Main = TypeVar("Main", bound=McpClient)


def _unheard(_affinity: str, _method: str) -> None:
    """The hearer of notices before there is one."""


class BesideSessions(AbstractAsyncContextManager["BesideSessions[Main]"], Generic[Main]):
    """As `McpClient`, but for `request`. `shared`: the main client, which all callers share.

    Entered and left in one task; all but the main client ends with it. Most servers never need a dedicated session, so
    the pool of them is made when it is first asked for.

    Long because all that is no request concerns the main client and the dedicated sessions at once.
    """

    __slots__ = (
        "_beside",
        "_followers",
        "_group",
        "_limits",
        "_listeners",
        "_on_news",
        "_on_pending",
        "_open_session",
        "_shared",
        "_untaken",
    )

    def __init__(
        self, shared: Main, open_session: OpenSession, *, limits: SessionLimits, on_pending: OnPending
    ) -> None:
        self._shared = shared
        self._group = SmallTaskGroup()
        self._open_session, self._limits, self._on_pending = open_session, limits, on_pending
        self._listeners: tuple[Callable[[str], None], ...] = ()
        self._followers: tuple[Updates, ...] = ()
        self._on_news: Callable[[str, str], None] = _unheard
        # Of a few callers: the notices in their sessions while no node follows these yet.
        self._untaken: dict[str, list[tuple[str, Json]]] = {}
        self._beside: tuple[SessionPool, SessionCalls] | None = None

    def __repr__(self) -> str:
        """The main client, and the dedicated sessions and pending calls, if there ever were any."""
        beside = "" if self._beside is None else " {!r} {!r}".format(*self._beside)
        return f"<{type(self).__name__} {self._shared!r}{beside}>"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.end()
        # Without the exception, so that what ended the client's life is not wrapped into a group of exceptions.
        await self._group.__aexit__(None, None, None)
        # They know of this client: a circle, for the garbage collector to find.
        self._listeners, self._beside = (), None

    @property
    def _pool(self) -> SessionPool:
        """The dedicated sessions."""
        return self._made_beside()[0]

    @property
    def _calls(self) -> SessionCalls:
        """The calls in them."""
        return self._made_beside()[1]

    def _opener(self) -> OpenSession:
        """Opens a dedicated session."""
        return self._open_session

    def _made_beside(self) -> tuple[SessionPool, SessionCalls]:
        if self._beside is None:
            open_session = self._opener()
            pool = SessionPool(
                open_session, self._limits, self._start, self._changed, self._on_pending, on_news=self._told
            )
            self._beside = pool, SessionCalls(pool, self._start, self._without_session, self._on_pending)
        return self._beside

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
        self._listeners = (*self._listeners, on_change)
        try:
            await self._shared.listen(on_change)
        finally:
            self._listeners = tuple(one for one in self._listeners if one != on_change)

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`; updates of resources in any session count, and notices in those of single callers."""
        self._followers = (*self._followers, updates)
        try:
            if updates.subject is not SESSIONS:
                await self._shared.follow(updates)
                return
            updates.grant(updates.names)
            for affinity in updates.names & self._untaken.keys():
                for method, params in self._untaken.pop(affinity):
                    self._report(updates, affinity, method, params)
            await self.lost.wait()
            raise why_lost(self._shared)
        finally:
            self._followers = tuple(one for one in self._followers if one is not updates)

    def _told(self, affinity: str, method: str, params: Json) -> None:
        """A server told something in the session of one caller."""
        if method == UPDATED:
            # One is enough: all followers of a client belong to one link.
            uri, resources = params.get("uri"), (one for one in self._followers if one.subject is RESOURCES)
            if isinstance(uri, str) and (follower := next((one for one in resources if one.acknowledged), None)):
                meta = params.get("_meta")
                meta = {**(meta if isinstance(meta, dict) else {}), AFFINITY_META_KEY: affinity}
                follower.updated(uri, {**params, "_meta": meta})
            return
        follower = next((one for one in self._followers if one.subject is SESSIONS and affinity in one.names), None)
        if follower is not None:
            self._report(follower, affinity, method, params)
        elif method == SESSION_ENDED:
            self._untaken.pop(affinity, None)
        elif (method, params) not in (known := self._untaken.setdefault(affinity, [])):
            self._untaken[affinity] = [*known, (method, params)][-UNTAKEN_OF_ONE_MAX:]
            if len(self._untaken) > UNTAKEN_MAX:
                del self._untaken[next(iter(self._untaken))]
        if method == SESSION_ENDED or method in jsonrpc.LIST_CHANGES:
            self._on_news(affinity, method)  # After its client's node, which looks what there was until now.

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """As `McpClient.hear_sessions`."""
        self._on_news = on_news

    def _report(self, follower: Updates, affinity: str, method: str, params: Json) -> None:
        follower.updated(affinity, {SESSIONS.parameter: affinity, "method": method, "params": params})

    @property
    def lists_by_session(self) -> bool:
        """As `McpClient.lists_by_session`."""
        return True

    async def list_in_session(self, request: Request) -> Json:
        """A list as it is in the open session of a caller. Raises as `request`; `CallNotSent` where there is none."""
        session = self._pool.of_caller(request.affinity or "")
        if session is None:
            raise CallNotSent.for_clients("the client has no session there")
        async with self._pool.lent(session.features, request.affinity) as lent:
            assert lent.client is not None, "it is open while it is lent"
            return await lent.client.request(request)

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        await self._shared.probe(timeout_s)

    @property
    def quiet(self) -> Quiet | None:
        """As `McpClient.quiet`."""
        return None if self._shared.quiet is None else self

    def prober(self) -> Callable[[Callable[[bool], None]], Callable[[], None] | None]:
        """As `Quiet.prober`."""
        return self._asked_quietly.prober()

    def list_quietly(
        self, method: str, is_known: Callable[[Json], bool], heard: Callable[[bool], None]
    ) -> Callable[[], None] | None:
        """As `Quiet.list_quietly`."""
        return self._asked_quietly.list_quietly(method, is_known, heard)

    async def listen_quietly(
        self, on_change: Callable[[str], None], ended: Callable[[MeshError], None]
    ) -> Callable[[], None]:
        """As `Quiet.listen_quietly`; changes that are announced in any session count, also after the stream's end."""
        if on_change not in self._listeners:
            self._listeners = (*self._listeners, on_change)
        return await self._asked_quietly.listen_quietly(on_change, ended)

    @property
    def _asked_quietly(self) -> Quiet:
        quiet = self._shared.quiet
        assert quiet is not None, "this client has said so"
        return quiet

    def end(self) -> None:
        """End all that is open; the group's owner waits for it."""
        if self._beside is not None:
            pool, calls = self._beside
            calls.end()
            pool.end()
        for task in self._group.tasks:
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
                case ClientEvent.UNSUBSCRIBED:
                    await self._unsubscribe(request)
                case ClientEvent.SUBSCRIBED:
                    return {"resultType": "complete", SUBSCRIBED_THERE: await self._subscribe(request)}
        return {"resultType": "complete"}

    async def _subscribe(self, request: Request) -> bool:
        """Subscribe to a resource in the session of a caller, where it has one or is to get one; whether it has."""
        params, affinity = request.params or {}, request.affinity or ""
        features = features_of(params, affinity)
        session, uri = self._pool.of_client(features, affinity), params.get("uri")
        if not isinstance(uri, str) or (session is None and not self._opens_for(features, affinity)):
            return False
        async with self._pool.lent(features, affinity) as lent:
            assert lent.client is not None, "it is open while it is lent"
            await lent.client.request(Request.within(SUBSCRIBE, {"uri": uri}, timeout_s=SUBSCRIBE_TIMEOUT_S))
            lent.gained = True
        return True

    async def _unsubscribe(self, request: Request) -> None:
        params, affinity = request.params or {}, request.affinity or ""
        session, uri = self._pool.of_client(features_of(params, affinity), affinity), params.get("uri")
        if session is not None and session.client is not None and isinstance(uri, str):
            unsubscribe = Request.within(UNSUBSCRIBE, {"uri": uri}, timeout_s=UNSUBSCRIBE_TIMEOUT_S)
            await session.client.request(unsubscribe)

    def _opens_for(self, features: Json, affinity: str) -> bool:  # noqa: ARG002 - for routers that do
        """Whether a caller gets a session before its first call."""
        return False

    def _changed(self, kind: str) -> None:
        for listener in self._listeners:
            listener(kind)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._group.create_task(work, name=name)


def features_of(params: Json, affinity: str | None) -> Json:
    """Those of a caller's capabilities that matter to a session (`declared_features`); empty for none."""
    capabilities = (params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY)
    return declared_features(capabilities, sends_list_changed=is_of_session(affinity))
