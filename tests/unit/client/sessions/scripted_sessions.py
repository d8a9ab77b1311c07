"""A server with sessions that a test plays, for the timing of sessions of one's own and of parked calls.

Used by the tests of `agent.client.sessions.router`, which all run in loop time. The one rule: what the server was asked
and told stays in the `Server`, and what it says of a call goes to the call alone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from agent.client.event import Event
from agent.client.protocol import Request
from agent.client.server_info import OnNotification, OnServerRequest, ServerInfo
from agent.client.sessions.dedicated import OnNotice, SessionRefused
from agent.client.sessions.pool import SessionLimits
from agent.client.sessions.router import SessionRouter
from agent.client.streaming import LargeResult
from agent.errors import Unreachable
from agent.model import Era, Json

FORM: Json = {"message": "Word?", "requestedSchema": {"type": "object", "properties": {}}}
META: Json = {"_meta": {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}}
LIMITS = SessionLimits(sessions_max=3, idle_max=2, idle_s=300.0)


@dataclass(eq=False)
class Session:
    """One session with a server that a test plays: `hold` ends when the server has its answers, or may go on."""

    server: "Server"
    features: Json
    on_server_request: OnServerRequest
    on_notice: OnNotice
    lost: Event = field(default_factory=Event)
    lost_reason: str = ""
    lost_what: str = ""
    calls: int = 0
    heard: list[Json] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    on_change: Callable[[str], None] = lambda _: None
    on_heard: Callable[[], object] = lambda: None
    asked_early: bytes | None = None

    @property
    def server_info(self) -> ServerInfo:
        return ServerInfo(Era.LEGACY, "2025-11-25", {}, {}, None, None)

    async def request(self, request: Request, *, on_server_request: OnServerRequest | None = None) -> Json:
        self.calls += 1
        on_notification = request.on_notification
        try:
            match (request.params or {}).get("name"):
                case "ask":
                    if on_notification is not None:
                        await on_notification("notifications/progress", {"progress": 1})
                    (on_server_request or self.on_server_request)(question(number := self.calls))
                    return {"heard": await self.answer_to(number)}
                case "ask aside":
                    self.on_server_request(question(number := self.calls))
                    return {"heard": await self.answer_to(number)}
                case "ask in passing":
                    self.on_server_request(question(self.calls))
                case "bug":
                    raise ZeroDivisionError
                case "heard so far":
                    return {"heard": list(self.heard)}
                case "ask and write" | "write and ask" | "write and tell" as name:
                    return await self.write(name, request.sink, on_notification)
                case "hold":
                    await self.server.go_on.wait()
                    await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)  # The news takes a moment.
            self.server.cancelled += 1
            raise
        return {"by": self.server.opened.index(self) if self in self.server.opened else None, "method": request.method}

    async def write(self, name: str, sink: LargeResult | None, on_notification: OnNotification | None) -> Json:
        """A result in parts, before or after a question that need not be answered, or around a notification."""
        assert sink is not None, "the first attempt takes parts"
        assert on_notification is not None
        if name == "ask and write":
            self.on_server_request(question(self.calls))
        await self.server.go_on.wait()
        if name == "write and tell":
            await on_notification("notifications/before", {})
        if written := await sink.begin():
            if name == "write and ask":
                self.on_server_request(question(self.calls))
            self.on_notice("notifications/amid", {})
            await sink.part(b"{}")
            await sink.end(is_error=False)
        return {"written": written}

    async def answer_to(self, number: int) -> Json:
        while not (replies := [reply for reply in self.heard if reply["id"] == number]):
            self.answered.clear()
            await self.answered.wait()
        return replies[0]

    async def listen(self, on_change: Callable[[str], None]) -> None:
        if self.server.asks_early:
            self.asked_early = self.on_server_request(question(99))
        if self.server.streams_late:
            await self.lost.wait()
        self.on_change = on_change
        on_change("listening")
        self.server.on_open()
        await self.lost.wait()
        raise Unreachable(self.lost_reason)

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:  # noqa: ARG002 - the protocol's signature
        await asyncio.sleep(self.server.answering_s)
        self.heard.append(orjson.loads(reply))
        self.answered.set()
        self.on_heard()

    lists_by_session = False
    quiet = None

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """There are none."""

    async def probe(self, timeout_s: float) -> None:
        """It lives."""


@dataclass
class Server:
    """The other side: every session that was opened beside the shared one, and how many have ended."""

    opened: list[Session] = field(default_factory=list)
    closed: int = 0
    cancelled: int = 0
    refuses: bool = False
    asks_early: bool = False
    streams_late: bool = False
    answering_s: float = 0.0
    on_open: Callable[[], None] = lambda: None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(
        self, features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
    ) -> AsyncIterator[Session]:
        if self.refuses:
            raise SessionRefused("one is enough")
        session = Session(self, features, on_server_request, on_notice)
        self.opened.append(session)
        try:
            yield session
        finally:
            self.closed += 1

    def shared(self) -> Session:
        return Session(self, {}, lambda _: b"", lambda _method, _params: None)


@asynccontextmanager
async def client_to(server: Server, **more: Any) -> AsyncIterator[SessionRouter]:
    async with SessionRouter(server.shared(), server.open, limits=LIMITS, **more) as client:
        yield client


def question(number: int) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": FORM}


def nested(levels: int) -> Json:
    value: Json = {}
    for _ in range(levels):
        value = {"a": value}
    return value


async def call(client: SessionRouter, name: str, *, timeout_s: float = 60.0, **more: Any) -> Json:
    beside = {key: more.pop(key, None) for key in ("affinity", "sink", "on_notification")}
    return await client.request(
        Request.within("tools/call", {"name": name, **META, **more}, timeout_s=timeout_s, **beside)
    )


def retry(asked: Json) -> Json:
    answers = {key: {"action": "accept"} for key in asked["inputRequests"]}
    return {"requestState": asked["requestState"], "inputResponses": answers}


async def all_at_once(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)
