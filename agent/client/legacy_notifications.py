"""What a session of before 2026-07-28 tells unasked: list changes, and updates of what was subscribed to.

Owned by the clients to such servers, over HTTP and over pipes, whose session all callers share. The one rule: the
server is asked once for each URI that anybody follows, and told when nobody does any more.
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
from agent.model import Json

# How the client that owns the session sends a request.
Send: TypeAlias = Callable[[Request], Awaitable[Json]]

LOG_MESSAGE: Final = "notifications/message"
LOG_LEVEL_META_KEY: Final = "io.modelcontextprotocol/logLevel"
# From the most verbose on (RFC 5424, as MCP has them).
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


def asked_level(params: Json | None) -> str | None:
    """The level that a request asks for in its `_meta`, if it is one."""
    meta = params.get("_meta") if params is not None else None
    level = meta.get(LOG_LEVEL_META_KEY) if isinstance(meta, dict) else None
    return level if level in LEVELS else None


def is_wanted(message: Json, level: str | None) -> bool:
    """Whether who asked for `level` is to get the log message with these params; one of an unknown level passes."""
    if level is None:
        return False
    said = message.get("level")
    return said not in LEVELS or LEVELS.index(said) >= LEVELS.index(level)


SET_LEVEL: Final = "logging/setLevel"
# A caller is present for so long after a request: callers that take turns must not cost a request each.
PRESENT_S: Final = 60.0
# Logs are no reason to keep a call waiting.
SET_TIMEOUT_S: Final = 2.0


class SessionLogs:
    """One session's level. Sole writers: the tasks of its requests."""

    def __init__(self, request: Send) -> None:
        """`request`: the client's own."""
        self._request = request
        self._asked_at_s: dict[str, float] = {}
        self._level: str | None = None
        self._server_info: ServerInfo | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SessionLogs {self._level}>"

    async def show(self, params: Json | None, server_info: ServerInfo) -> None:
        """See to it that a request with `params` gets the messages that it asks for, where the server has any."""
        level = asked_level(params)
        if level is None or "logging" not in server_info.capabilities:
            return
        async with self._turn:
            now_s = clock.now_s()
            self._asked_at_s[level] = now_s
            present = [asked for asked, at_s in self._asked_at_s.items() if now_s - at_s <= PRESENT_S]
            wanted = min(present, key=LEVELS.index)
            if wanted != self._level or server_info is not self._server_info:
                self._level, self._server_info = (
                    wanted,
                    server_info,
                )  # A renewed session says server_info anew, and has no level.
                # A refusal is no reason to ask again: the server's own choice stays, and is filtered.
                with contextlib.suppress(MeshError):
                    await self._request(Request.within(SET_LEVEL, {"level": wanted}, timeout_s=SET_TIMEOUT_S))


SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
SUBSCRIBE_TIMEOUT_S: Final = 10.0
# Taking back is courtesy: it may hold nobody up.
UNSUBSCRIBE_TIMEOUT_S: Final = 2.0
# There is one request for each URI; so many at a time keep a server busy and drown no one else's calls.
REQUESTS_AT_ONCE: Final = 8


class SessionSubscriptions:
    """What one client's session is subscribed to, and its `listeners` to list changes.

    Sole writers: the tasks that run `follow`, and the client's `listen`.
    """

    def __init__(self, request: Send) -> None:
        """`request`: the client's own."""
        self.listeners: set[Callable[[str], None]] = set()
        self._request = request
        self._held: dict[Updates, frozenset[str]] = {}
        self._ended: dict[Updates, asyncio.Future[str]] = {}
        # Subscribing and taking back could overtake each other on their connections; so one after the other.
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SessionSubscriptions {sum(map(len, self._held.values()))} URIs>"

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`."""
        ended = self._ended[updates] = asyncio.get_running_loop().create_future()
        try:
            await self._subscribe(updates, ended)
            raise Unreachable(await ended)
        finally:
            await self._take_back(self._held.pop(updates, frozenset()))
            del self._ended[updates]
            ended.cancel()

    def take(self, method: str, params: Json) -> bool:
        """Tell whom a notification concerns; False for one that is neither an update nor, for a listener, a change."""
        change = jsonrpc.LIST_CHANGES.get(method) if self.listeners else None
        if change is not None:
            for listener in tuple(self.listeners):
                listener(change)
        elif method == UPDATED:
            # One telling is enough: a client's followers are one link's.
            uri, teller = params.get("uri"), next((updates for updates in self._ended if updates.acknowledged), None)
            if isinstance(uri, str) and teller is not None:
                teller.updated(uri, params)
        return change is not None or method == UPDATED

    def session_ended(self, reason: str) -> None:
        """The server has forgotten all of it: every `follow` ends."""
        self._held.clear()
        for ended in self._ended.values():
            if not ended.done():
                ended.set_result(reason)

    async def _subscribe(self, updates: Updates, ended: asyncio.Future[str]) -> None:
        granted: set[str] = set()
        refusals: dict[str, RpcError] = {}

        async def subscribe(uri: str) -> None:
            if not self._is_held(uri):
                try:
                    await self._request(Request.within(SUBSCRIBE, {"uri": uri}, timeout_s=SUBSCRIBE_TIMEOUT_S))
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
                if not ended.done():  # Otherwise some of it may have been said to a session that is no more.
                    self._held[updates] = frozenset(granted)
        if not ended.done():
            updates.grant(granted, refusals)

    async def _take_back(self, uris: Iterable[str]) -> None:
        async def unsubscribe(uri: str) -> None:
            if not self._is_held(uri):
                with contextlib.suppress(MeshError):
                    await self._request(Request.within(UNSUBSCRIBE, {"uri": uri}, timeout_s=UNSUBSCRIBE_TIMEOUT_S))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNSUBSCRIBE_TIMEOUT_S), self._turn:
                await _each(uris, unsubscribe)

    def _is_held(self, uri: str) -> bool:
        return any(uri in held for held in self._held.values())


async def _each(items: Iterable[str], act: Callable[[str], Awaitable[None]]) -> None:
    """Do it for all, some at a time."""
    left: Iterator[str] = iter(items)

    async def work() -> None:
        for item in left:
            await act(item)

    async with asyncio.TaskGroup() as group:
        for number in range(REQUESTS_AT_ONCE):
            group.create_task(work(), name=f"subscriptions {number}")
