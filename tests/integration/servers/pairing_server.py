"""A real server that does everything the protocol has, in one era alone; run as a file it speaks stdio.

The SDK's low-level server carries the messages, and a middleware answers them with raw objects, so that what is on the
wire is what stands here. The one rule: what happens inside can be waited for with a tool (`when`), by rooms that each
test names for itself; so one server serves all tests at once.
"""

import asyncio
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakSet

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.lowlevel import server as lowlevel_server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, RequestParams, SubscriptionsListenRequestParams

from agent.model import Era, Json
from tests.integration.servers.pairing_definitions import (
    ERROR,
    LEVELS,
    PROMPTS,
    QUESTIONS,
    READABLE,
    REFUSED_URI,
    RESOURCES,
    RESULT,
    TEMPLATES,
    TOOLS,
)

Context = ServerRequestContext[Any, Any]

_DECLARED: Final = (
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "completion/complete",
)
_MORE: Final = {name: RESULT[name] for name in ("_meta", "x-future")}
_SESSION_METHODS: Final = ("resources/subscribe", "resources/unsubscribe", "logging/setLevel")


@dataclass
class Room:
    """What a test's calls have come to, and an event that is set with every change of that."""

    states: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, state: str) -> None:
        self.states.add(state)
        self.changed.set()

    async def when(self, *states: str) -> None:
        """Wait until all of these were reached."""
        while not self.states.issuperset(states):
            self.changed.clear()
            await self.changed.wait()


class PairingServer:
    """The server of one era."""

    def __init__(self, era: Era) -> None:
        self._legacy = era is Era.LEGACY
        self._rooms: defaultdict[str, Room] = defaultdict(Room)
        self._grown: list[str] = []
        self._bus = InMemorySubscriptionBus()
        self._sessions: WeakSet[Any] = WeakSet()
        self._subscribed: defaultdict[str, WeakSet[Any]] = defaultdict(WeakSet)
        self.server: Server[Any] = Server("pairing", version="1", instructions="Try everything.")
        self.server.middleware.append(self._answer)
        for method in (*_DECLARED, *(_SESSION_METHODS if self._legacy else ())):
            self.server.add_request_handler(method, RequestParams, _unreached)
        if not self._legacy:
            self._listen = ListenHandler(self._bus)
            self.server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._stream)

    async def _answer(self, ctx: Context, call_next: Any) -> Any:
        if ctx.request_id is None:
            return await call_next(ctx)
        if ctx.method == ("server/discover" if self._legacy else "initialize"):
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found")
        if self._legacy:
            self._sessions.add(ctx.session._connection)
        result = await self._served(ctx, dict(ctx.params or {}))
        if result is None:
            return await call_next(ctx)
        if self._legacy:
            return result
        hints = {} if ctx.method in ("tools/call", "prompts/get") else {"ttlMs": 0, "cacheScope": "private"}
        return {"resultType": "complete", **hints, **result}

    async def _served(self, ctx: Context, params: Json) -> Json | None:
        """The result; None for what the SDK answers."""
        match ctx.method:
            case "tools/call":
                arguments = params.get("arguments") or {}
                return _echoed(params) or await self._done(
                    ctx, params, arguments, self._rooms[arguments.get("room", "")]
                )
            case "logging/setLevel":
                return {}
            case "resources/subscribe" | "resources/unsubscribe":
                return self._subscribe(ctx, params["uri"], on=ctx.method == "resources/subscribe")
            case _:
                return self._listed(ctx.method) or _given(ctx.method, params)

    def _listed(self, method: str) -> Json | None:
        grown = self._grown
        match method:
            case "tools/list":
                return {"tools": [*TOOLS, *({"name": name, "inputSchema": {"type": "object"}} for name in grown)]}
            case "prompts/list":
                return {"prompts": [*PROMPTS, *({"name": name} for name in grown)]}
            case "resources/list":
                return {"resources": [*RESOURCES, *({"uri": f"pair://{name}", "name": name} for name in grown)]}
            case "resources/templates/list":
                return {"resourceTemplates": TEMPLATES}
        return None

    async def _done(self, ctx: Context, params: Json, arguments: Json, room: Room) -> Json:
        """The result of a tool that does something."""
        match params["name"]:
            case "ask":
                return await self._ask(ctx, params, arguments["kinds"])
            case "hang":
                await _hang(arguments["name"], room)
            case "meet":
                await _meet(ctx, params, arguments, room)
            case "talk":
                for level in LEVELS:
                    note = {"level": level, "logger": "pair", "data": {"said": level, "n": 1.0}, "x-future": 1.0}
                    await _tell(ctx, "notifications/message", note)
            case "when":
                await room.when(*arguments["states"])
            case "release":
                room.enter("released")
            case "grow":
                await self._grow(arguments["name"])
            case "touch":
                await self._touch(arguments["uri"])
            case _:
                raise MCPError(code=INVALID_PARAMS, message="no such tool")
        return _text("done")

    async def _ask(self, ctx: Context, params: Json, kinds: list[str]) -> Json:
        """Ask one thing after the other; the result tells the answers, each as it came."""
        if self._legacy:
            return _text(json.dumps([await _asked(ctx, kind) for kind in kinds]))
        answers = json.loads(params.get("requestState") or "[]")
        if "inputResponses" in params:
            answers.append(params["inputResponses"]["q"])
        if len(answers) == len(kinds):
            return _text(json.dumps(answers))
        return {
            "resultType": "input_required",
            "inputRequests": {"q": QUESTIONS[kinds[len(answers)]]},
            "requestState": json.dumps(answers),
        }

    async def _grow(self, name: str) -> None:
        """Let each list have something of that name instead of what grew before."""
        self._grown = [name]
        for event in (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()):
            await self._bus.publish(event)
        for connection in tuple(self._sessions):
            await connection.send_tool_list_changed()
            await connection.send_prompt_list_changed()
            await connection.send_resource_list_changed()

    async def _touch(self, uri: str) -> None:
        await self._bus.publish(ResourceUpdated(uri))
        for connection in tuple(self._subscribed[uri]):
            await connection.send_resource_updated(uri)

    def _subscribe(self, ctx: Context, uri: str, *, on: bool) -> Json:
        if uri == REFUSED_URI:
            raise MCPError(code=INVALID_PARAMS, message="not for you")
        (self._subscribed[uri].add if on else self._subscribed[uri].discard)(ctx.session._connection)
        return {}

    async def _stream(self, ctx: Context, params: SubscriptionsListenRequestParams) -> Any:
        asked = params.notifications.resource_subscriptions or []
        params.notifications.resource_subscriptions = [uri for uri in asked if uri != REFUSED_URI]
        return await self._listen(ctx, params)


def _echoed(params: Json) -> Json | None:
    """The result of a tool that only tells something."""
    match params["name"]:
        case "echo":
            return {**RESULT, "structuredContent": {"seen": params}}
        case "fail":
            raise MCPError(**ERROR)
        case "broken":
            return {**RESULT, "isError": True}
    return None


def _given(method: str, params: Json) -> Json | None:
    """What else can be asked for; each tells what it was asked."""
    match method:
        case "prompts/get":
            message = {"role": "user", "content": RESULT["content"][0], "x-future": 1.0}
            return {"description": json.dumps(params), "messages": [message], **_MORE}
        case "resources/read" if params["uri"] in READABLE:
            text = {"mimeType": "text/plain", "text": json.dumps(params), "_meta": {"x": 1.0}, "x-future": 1.0}
            return {"contents": [{"uri": params["uri"], **text}, {"uri": params["uri"], "blob": "AA=="}], **_MORE}
        case "resources/read":
            raise MCPError(code=INVALID_PARAMS, message="no such page", data={"uri": params["uri"], "x": 1.0})
        case "completion/complete":
            values = [json.dumps(params["ref"]), params["argument"]["value"] + "!"]
            return {"completion": {"values": values, "total": 9, "hasMore": True, "x-future": 1.0}, **_MORE}
    return None


async def _meet(ctx: Context, params: Json, arguments: Json, room: Room) -> None:
    """Progress before and after the others of the room have come, for those who gave a token."""
    token, name = params.get("_meta", {}).get("progressToken"), arguments["name"]
    for step, others in ((1, ()), (2, arguments["others"])):
        await room.when(*others)
        note = {"progressToken": token, "progress": step, "total": 2.5, "message": name, "x-future": 1.0}
        if token is not None:
            await _tell(ctx, "notifications/progress", note)
        room.enter(name)


async def _hang(name: str, room: Room) -> None:
    """Wait until the room is released, and tell it when that is cancelled."""
    room.enter(f"{name} hangs")
    try:
        await room.when("released")
    except asyncio.CancelledError:
        room.enter(f"{name} cancelled")
        raise
    room.enter(f"{name} done")


async def _asked(ctx: Context, kind: str) -> Json:
    """What the client of a session answers, or its error."""
    question = QUESTIONS[kind]
    try:
        answer: Json = await ctx.session._request_outbound.send_raw_request(question["method"], question["params"])
    except MCPError as exc:
        return {"error": exc.error.model_dump(exclude_none=True)}
    return answer


async def _tell(ctx: Context, method: str, params: Json) -> None:
    """Tell the client something on the stream of this very call."""
    await ctx.session._request_outbound.notify(method, params)


async def _unreached(_ctx: Context, _params: RequestParams) -> Json:
    raise AssertionError("the middleware answers first")


def _text(text: str) -> Json:
    return {"content": [{"type": "text", "text": text}]}


async def _serve(era: Era) -> None:
    server = PairingServer(era).server
    async with stdio_server() as (reads, writes):
        await server.run(reads, writes, server.create_initialization_options())


if __name__ == "__main__":
    if sys.argv[1] == "legacy":
        # The SDK's loop of both eras is exchanged for the one that serves sessions alone.
        lowlevel_server.serve_dual_era_loop = serve_loop
    anyio.run(_serve, Era(sys.argv[1]))
