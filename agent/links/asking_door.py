"""The door to a server with sessions as links see it: calls of clients that can be asked get sessions of their own.

Inside the mesh everything is 2026-07-28, where a server asks by answering `input_required`. So when a server asks while
a call is open, the call's attempt ends with its questions, the call itself stays open (it is parked), and the client's
retry brings the answers and waits on. The one rule: the server's request runs exactly once, whatever its client does.

Everything else (probes, subscriptions, calls of clients that cannot be asked) goes over the one shared session, which
declares no features. Lists are read in a session that declares them all, because many servers list only what a client
could use.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

from mcp_types import CLIENT_CAPABILITIES_META_KEY

from agent.core.client_features import EVERY_FEATURE, MAY_ASK, declared_features
from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, MeshError, ProtocolBroken, RpcError
from agent.links.flag import Flag
from agent.links.hello import Hello, OnNotification
from agent.links.listening import Updates
from agent.links.open_call import OpenCall
from agent.links.own_session import OpenSession, SessionDoor, SessionRefused
from agent.links.own_sessions import OwnSessions, SessionLimits
from agent.links.parked import ParkedCalls, answers_of, for_retry, refused_in
from agent.model import Json

log = logging.getLogger(__name__)

# A call that asks may last as long as its client answers in time; this only keeps it from lasting for ever.
CALL_LIFETIME_S: Final = 86_400.0
# What is left to tell the server when a call is over may not hold us up.
FAREWELL_TIMEOUT_S: Final = 1.0

# All lists of one server are read in one session.
LISTING_LIMITS: Final = SessionLimits(sessions_max=1, idle_max=1)

_CALLS: Final = MAY_ASK | {"completion/complete"}
_LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
_FOR_LISTING: Final = object()  # The affinity of our own listing, which no client's key can equal.

_Send: TypeAlias = Callable[[SessionDoor], Awaitable[Json]]


class SharedDoor(SessionDoor, Protocol):
    """The session that everybody shares."""

    @property
    def hello(self) -> Hello:
        """As `Door.hello`."""
        ...

    def use_token(self, token: str) -> None:
        """As `Door.use_token`."""
        ...

    async def follow(self, updates: Updates) -> None:
        """As `Door.follow`."""
        ...

    async def probe(self, timeout_s: float) -> None:
        """As `Door.probe`."""
        ...


class AskingDoor:
    """As `agent.links.door.Door`. Made by `asking`.

    `own_for_all`: every call gets a session of its own, whatever its client declared, or none at all.
    `lists_apart`: lists are not read over the shared session.
    """

    def __init__(
        self,
        shared: SharedDoor,
        open_session: OpenSession,
        group: asyncio.TaskGroup,
        *,
        limits: SessionLimits,
        own_for_all: bool,
        lists_apart: bool,
    ) -> None:
        self._shared = shared
        self._group = group
        self._own_for_all = own_for_all
        self._lists_apart = lists_apart
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: set[Callable[[str], None]] = set()
        self._own = OwnSessions(open_session, limits, self._start, self._changed)
        # Apart, so that no caller can keep us from listing.
        self._listing = OwnSessions(open_session, LISTING_LIMITS, self._start, self._changed)
        self._parked = ParkedCalls()
        self._refused = False

    def __repr__(self) -> str:
        """The shared door, the others, and who waits."""
        return f"<AskingDoor {self._shared!r} {self._own!r} {self._parked!r}>"

    @property
    def hello(self) -> Hello:
        """As `Door.hello`."""
        return self._shared.hello

    @property
    def lost(self) -> Flag:
        """As `Door.lost`."""
        return self._shared.lost

    @property
    def lost_reason(self) -> str:
        """As `Door.lost_reason`."""
        return self._shared.lost_reason

    def use_token(self, token: str) -> None:
        """As `Door.use_token`."""
        self._shared.use_token(token)

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `Door.listen`; changes that are announced in any session count."""
        self._listeners.add(on_change)
        try:
            await self._shared.listen(on_change)
        finally:
            self._listeners.discard(on_change)

    async def follow(self, updates: Updates) -> None:
        """As `Door.follow`."""
        await self._shared.follow(updates)

    async def probe(self, timeout_s: float) -> None:
        """As `Door.probe`."""
        await self._shared.probe(timeout_s)

    async def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        on_notification: OnNotification | None = None,
        affinity: str | None = None,
    ) -> Json:
        """As `Door.request`; the result may be `input_required`, and then a retry of the same request goes on."""
        if method in _LISTS and self._lists_apart and not self._refused:
            return await self._list(method, params, timeout_s)
        features: Json = {}
        if method in MAY_ASK and params is not None:
            if params.get("requestState") is not None:
                answers, refused = answers_of(params), refused_in(params)
                parked = self._parked.take(params["requestState"])
                if refused == {}:
                    parked.give_up()
                    raise RpcError(-32603, "The client gave the call up")
                try:
                    replies = parked.answer(answers, refused or {})
                except RpcError:  # The answers cannot be written, and nobody can come with others.
                    parked.give_up()
                    raise
                return await self._attend(parked, method, timeout_s, for_retry(on_notification, params), replies)
            if params.get("inputResponses") is not None:
                raise RpcError(-32602, "inputResponses came without the requestState that they answer")
            features = declared_features((params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY))
        if method not in _CALLS or self._refused or not (features or self._own_for_all):
            return await self._shared.request(
                method, params, timeout_s=timeout_s, headers=headers, on_notification=on_notification
            )
        call = OpenCall(features)

        def send(door: SessionDoor) -> Awaitable[Json]:
            return door.request(
                method,
                params,
                timeout_s=CALL_LIFETIME_S,
                headers=headers,
                on_notification=call.notify,
                on_question=call.ask,
            )

        call.task = self._start(self._serve(call, affinity, send), "call that may ask")
        return await self._attend(call, method, timeout_s, on_notification)

    def end(self) -> None:
        """End whatever is open; the group's owner waits for it."""
        self._parked.clear()
        self._own.forget_timers()
        self._listing.forget_timers()
        for task in self._tasks:
            task.cancel()

    async def _list(self, method: str, params: Json | None, timeout_s: float) -> Json:
        try:
            async with asyncio.timeout(timeout_s), self._listing.lent(EVERY_FEATURE, _FOR_LISTING) as session:
                assert session.door is not None, "it is open while it is lent"
                return await session.door.request(method, params, timeout_s=timeout_s)
        except SessionRefused as exc:
            self._note_refusal(exc)
            return await self._shared.request(method, params, timeout_s=timeout_s)
        except TimeoutError as exc:
            raise CallNotSent(f"no session to list in could be opened within {timeout_s:g} s") from exc

    async def _attend(
        self,
        call: OpenCall,
        method: str,
        timeout_s: float,
        on_notification: OnNotification | None,
        replies: Sequence[bytes] = (),
    ) -> Json:
        """One attempt of the client: hand in its replies and wait for the result, or park the call as it asks."""
        attended = False
        try:
            async with asyncio.timeout(timeout_s):
                await call.send(replies, timeout_s=timeout_s)
                while True:
                    result = await call.news(on_notification)
                    if result is None and not self._parked.make_room():
                        log.warning("MCP server's question refused: too many calls wait for input")
                        await _refuse(call, "Too many calls wait for input already")
                        continue
                    attended = True
                    return self._parked.park(call) if result is None else result
        except TimeoutError as exc:
            kind = CallNotSent if call.door is None else CallTimedOut
            raise kind(f"the server did not answer {method} within {timeout_s:g} s") from exc
        finally:
            if not attended:
                call.give_up()

    async def _serve(self, call: OpenCall, affinity: str | None, send: _Send) -> None:
        """Run one request of the server's to its end, whoever waits for it meanwhile."""
        outcome: Json | MeshError | None = None
        try:
            try:
                async with self._own.lent(call.features, affinity) as session, session.serving(call) as door:
                    try:
                        outcome = await send(door)
                    finally:
                        await _refuse(call, "The request that this question belongs to is over")
            except SessionRefused as exc:
                if self._own_for_all:
                    raise CallNotSent(str(exc)) from exc
                self._note_refusal(exc)
                call.door = self._shared
                outcome = await send(self._shared)
        except MeshError as exc:
            outcome = exc
        except Exception as exc:  # A bug of ours ends this call and its session, and nobody else's.
            log.exception("MCP call broke unexpectedly")
            outcome = ProtocolBroken(f"unexpected {type(exc).__name__}")
        finally:
            lost = call.given_up or CallOutcomeUnknown("the call was given up")
            call.end(lost if outcome is None else outcome)

    def _note_refusal(self, exc: SessionRefused) -> None:
        """Go on as well as one session allows: better no questions than no calls."""
        if not self._refused:
            log.warning("MCP server opens one session only: it cannot ask clients", extra={"reason": str(exc)})
        self._refused = not self._own_for_all

    def _changed(self, kind: str) -> None:
        for listener in tuple(self._listeners):
            listener(kind)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@asynccontextmanager
async def asking(
    shared: SharedDoor,
    open_session: OpenSession,
    *,
    limits: SessionLimits,
    own_for_all: bool = False,
    lists_apart: bool = True,
) -> AsyncGenerator[AskingDoor, None]:
    """The door in front of `shared` and of the sessions that `open_session` opens; all but `shared` end with it."""
    group = asyncio.TaskGroup()
    await group.__aenter__()
    door = AskingDoor(shared, open_session, group, limits=limits, own_for_all=own_for_all, lists_apart=lists_apart)
    try:
        yield door
    finally:
        door.end()
        # By hand, so that what ended the door's life is not wrapped into a group of exceptions.
        await group.__aexit__(None, None, None)


async def _refuse(call: OpenCall, why: str) -> None:
    """Answer what the server still asks, as far as it listens."""
    with contextlib.suppress(CallOutcomeUnknown):  # As far as it listens.
        await call.send(call.refuse(why), timeout_s=FAREWELL_TIMEOUT_S)
