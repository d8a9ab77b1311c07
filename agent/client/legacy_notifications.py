"""Notifications of a server with sessions (before 2026-07-28): log messages, list changes and resource updates.

Owned by the clients to such servers, over HTTP and over stdio, whose session all callers share. `SessionLogs` keeps the
session's log level at the most verbose one that a caller has asked for lately; `SessionSubscriptions` holds one
subscription for each URI and hands list changes on. What the endpoints need to judge log messages is here too. The one
rule: the server gets one `resources/subscribe` for each followed URI, and `resources/unsubscribe` when its last
follower has gone.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeAlias

from agent import clock
from agent.client import jsonrpc
from agent.client.protocol import Request
from agent.client.server_info import ServerInfo
from agent.client.streams import UPDATED, Updates
from agent.errors import CallFailed, MeshError, RpcError, Unreachable
from agent.mcp_terms import LOG_LEVEL_META_KEY
from agent.model import Json

LOG_MESSAGE: Final = "notifications/message"
# From the most verbose on (RFC 5424, as MCP has them).
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
SET_LEVEL: Final = "logging/setLevel"
# How long a level stays in force after a request that asked for it: callers that alternate must not cost a request
# each.
PRESENT_S: Final = 60.0
# A call does not wait longer for its log level.
SET_TIMEOUT_S: Final = 2.0

SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
SUBSCRIBE_TIMEOUT_S: Final = 10.0
# Unsubscribing is a courtesy, so it may not delay anything.
UNSUBSCRIBE_TIMEOUT_S: Final = 2.0
# There is one request for each URI; so many at a time keep a server busy without delaying its calls.
REQUESTS_AT_ONCE: Final = 8

# How the client that owns the session sends a request.
Send: TypeAlias = Callable[[Request], Awaitable[Json]]


def asked_level(params: Json | None) -> str | None:
    """The level that a request asks for in its `_meta`, if it is one."""
    meta = params.get("_meta") if params is not None else None
    level = meta.get(LOG_LEVEL_META_KEY) if isinstance(meta, dict) else None
    return level if level in LEVELS else None


def is_wanted(message: Json, level: str | None) -> bool:
    """Whether a caller that asked for `level` gets the log message with these params; an unknown level passes."""
    if level is None:
        return False
    sent = message.get("level")
    return sent not in LEVELS or LEVELS.index(sent) >= LEVELS.index(level)


class SessionLogs:
    """One session's level. Sole writers: the tasks of its requests.

    It does not know the client, which gives its own `request` each time: a circle would wait for the garbage collector.
    """

    def __init__(self) -> None:
        self._asked_at_s: dict[str, float] = {}
        self._level: str | None = None
        self._server_info: ServerInfo | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SessionLogs {self._level}>"

    async def show(self, params: Json | None, server_info: ServerInfo, request: Send) -> None:
        """Set the level before a request with `params`, where it asks for one and the server has log messages."""
        level = asked_level(params)
        if level is None or "logging" not in server_info.capabilities:
            return
        async with self._turn:
            now_s = clock.now_s()
            self._asked_at_s[level] = now_s
            present = [asked for asked, at_s in self._asked_at_s.items() if now_s - at_s <= PRESENT_S]
            wanted = min(present, key=LEVELS.index)
            if wanted != self._level or server_info is not self._server_info:
                # A renewed session has another `server_info`, and no level yet.
                self._level, self._server_info = wanted, server_info
                # After a refusal the server's own choice stays, and is filtered.
                with contextlib.suppress(MeshError):
                    await request(Request.within(SET_LEVEL, {"level": wanted}, timeout_s=SET_TIMEOUT_S))


class SessionSubscriptions:
    """The subscriptions of one client's session, and its `listeners` to list changes.

    Sole writers: the tasks that run `follow`, and the client's `listen`.
    """

    def __init__(self, on_notice: Callable[[str, Json], None]) -> None:
        """`on_notice` takes updates in a session in which nothing is followed."""
        self.listeners: set[Callable[[str], None]] = set()
        self._on_notice = on_notice
        self._held: dict[Updates, frozenset[str]] = {}
        self._ended: dict[Updates, asyncio.Future[str]] = {}
        # Subscribing and unsubscribing could overtake each other on their connections, so one waits for the other.
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SessionSubscriptions {sum(map(len, self._held.values()))} URIs>"

    async def follow(self, updates: Updates, request: Send) -> None:
        """As `McpClient.follow`. `request`: the client's own, as in `SessionLogs`."""
        ended = self._ended[updates] = asyncio.get_running_loop().create_future()
        try:
            await self._subscribe(updates, ended, request)
            raise Unreachable(await ended)
        finally:
            await self._unsubscribe(self._held.pop(updates, frozenset()), request)
            del self._ended[updates]
            ended.cancel()

    def take(self, method: str, params: Json) -> bool:
        """Deliver a notification; False for all but updates and, where there is a listener, list changes."""
        change = jsonrpc.LIST_CHANGES.get(method) if self.listeners else None
        if change is not None:
            for listener in tuple(self.listeners):
                listener(change)
        elif method == UPDATED:
            # One of them is enough: all followers of a client belong to one link.
            uri, follower = params.get("uri"), next((updates for updates in self._ended if updates.acknowledged), None)
            if isinstance(uri, str) and follower is not None:
                follower.updated(uri, params)
            elif follower is None:
                self._on_notice(method, params)
        return change is not None or method == UPDATED

    def session_ended(self, reason: str) -> None:
        """The server has lost all subscriptions: every `follow` ends."""
        self._held.clear()
        for ended in self._ended.values():
            if not ended.done():
                ended.set_result(reason)

    async def _subscribe(self, updates: Updates, ended: asyncio.Future[str], request: Send) -> None:
        granted: set[str] = set()
        refusals: dict[str, RpcError] = {}

        async def subscribe(uri: str) -> None:
            if not self._is_held(uri):
                try:
                    await request(Request.within(SUBSCRIBE, {"uri": uri}, timeout_s=SUBSCRIBE_TIMEOUT_S))
                except RpcError as exc:
                    refusals[uri] = exc
                    return
            granted.add(uri)

        async with self._turn:
            try:
                await _each(sorted(updates.names), subscribe)
            except ExceptionGroup as failed:
                first = failed.exceptions[0]
                raise Unreachable(str(first)) if isinstance(first, CallFailed) else first from failed
            finally:
                if not ended.done():  # Otherwise some of them may belong to the session before.
                    self._held[updates] = frozenset(granted)
        if not ended.done():
            updates.grant(granted, refusals)

    async def _unsubscribe(self, uris: Iterable[str], request: Send) -> None:
        async def unsubscribe(uri: str) -> None:
            if not self._is_held(uri):
                with contextlib.suppress(MeshError):
                    await request(Request.within(UNSUBSCRIBE, {"uri": uri}, timeout_s=UNSUBSCRIBE_TIMEOUT_S))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNSUBSCRIBE_TIMEOUT_S), self._turn:
                await _each(uris, unsubscribe)

    def _is_held(self, uri: str) -> bool:
        return any(uri in held for held in self._held.values())


async def _each(items: Iterable[str], act: Callable[[str], Awaitable[None]]) -> None:
    """Call `act` for each item, `REQUESTS_AT_ONCE` at a time."""
    left: Iterator[str] = iter(items)

    async def work() -> None:
        for item in left:
            await act(item)

    async with asyncio.TaskGroup() as group:
        for number in range(REQUESTS_AT_ONCE):
            group.create_task(work(), name=f"subscriptions {number}")
