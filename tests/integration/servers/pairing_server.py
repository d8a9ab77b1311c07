"""A real server that does everything the protocol has, in one era alone; run as a file it speaks stdio.

The SDK's low-level server carries the messages, and a middleware answers them with raw objects, so that what is on the
wire is what stands here. Its lists have two pages. The one rule: nothing that one test does changes what another one
sees, so that one server serves all of them.
"""

import json
import re
import sys
from collections import defaultdict
from typing import Any, Final
from weakref import WeakSet

import anyio
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

from agent.model import TASKS_EXTENSION, Era, Json
from agent.tasks.ids import declares_tasks
from tests.integration.servers.pairing_acts import ACTS, USUAL, Context, Room, act
from tests.integration.servers.pairing_definitions import (
    ERROR,
    LINKS,
    PROMPTS,
    READABLE,
    REFUSED_URI,
    RESOURCES,
    RESULT,
    TEMPLATES,
    TOOLS,
)

ACT_URI: Final = re.compile("pair://act/(?P<what>[a-z]+)/(?P<room>[a-z0-9]+)")
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
_SESSION_METHODS: Final = ("resources/subscribe", "resources/unsubscribe", "logging/setLevel", "tasks/result")
_TASK_METHODS: Final = ("tasks/get", "tasks/cancel")
# The only task, which has always ended already.
TASK: Final[Json] = {
    "taskId": "the chore",
    "status": "completed",
    "createdAt": "2026-11-22T10:00:00Z",
    "lastUpdatedAt": "2026-11-22T10:00:01Z",
}


class PairingServer:
    """The server of one era."""

    def __init__(self, era: Era) -> None:
        self._era = era
        self._legacy = era is Era.LEGACY
        self._rooms: defaultdict[str, Room] = defaultdict(Room)
        self._grown: list[str] = []
        self._bus = InMemorySubscriptionBus()
        self._sessions: WeakSet[Any] = WeakSet()
        self._subscribed: defaultdict[str, WeakSet[Any]] = defaultdict(WeakSet)
        self.server: Server[Any] = Server("pairing", version="1", instructions="Try everything.")
        self.server.middleware.append(self._answer)
        for method in (*_DECLARED, *_TASK_METHODS, *(_SESSION_METHODS if self._legacy else ())):
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
        if ctx.method in ("initialize", "server/discover"):
            return self._with_tasks(await call_next(ctx))
        result = await self._served(ctx, dict(ctx.params or {}))
        if result is None:
            return await call_next(ctx)
        if self._legacy:
            return result
        hints = (
            {} if ctx.method in ("tools/call", "prompts/get", *_TASK_METHODS) else {"ttlMs": 0, "cacheScope": "private"}
        )
        return {"resultType": "complete", **hints, **result}

    async def _served(self, ctx: Context, params: Json) -> Json | None:
        """The result; None for what the SDK answers."""
        match ctx.method:
            case "tools/call":
                return await self._call(ctx, params, params.get("arguments") or {})
            case "prompts/get" if params["name"] in ACTS:
                outcome = await self._act(ctx, params["name"], {**USUAL, **params["arguments"]})
                message = {"role": "user", "content": {"type": "text", "text": outcome}}
                return {"messages": [message]} if isinstance(outcome, str) else outcome
            case "resources/read" if (acted := ACT_URI.fullmatch(params["uri"])) is not None:
                outcome = await self._act(ctx, acted["what"], {**USUAL, "room": acted["room"]})
                contents = [{"uri": params["uri"], "text": outcome}]
                return {"contents": contents} if isinstance(outcome, str) else outcome
            case "logging/setLevel":
                return {}
            case "tasks/get" | "tasks/result" | "tasks/cancel":
                return self._about_task(ctx.method, params["taskId"])
            case "resources/subscribe" | "resources/unsubscribe":
                return self._subscribe(ctx, params["uri"], on=ctx.method == "resources/subscribe")
            case _:
                return self._page(ctx.method, params.get("cursor")) or _given(ctx.method, params)

    def _with_tasks(self, introduction: Any) -> Json:
        """The initialize or discovery result with the tasks capability of its era."""
        shown: Json = (
            introduction
            if isinstance(introduction, dict)
            else introduction.model_dump(by_alias=True, exclude_none=True)
        )
        if self._legacy:
            shown["capabilities"]["tasks"] = {"cancel": {}, "requests": {"tools": {"call": {}}}}
        else:
            shown["capabilities"].setdefault("extensions", {})[TASKS_EXTENSION] = {}
        return shown

    def _chore(self, ctx: Context, params: Json) -> Json:
        """What is a task and nothing else."""
        if self._legacy and isinstance(params.get("task"), dict):
            return {"task": {**TASK, "ttl": None}}
        if not self._legacy and declares_tasks(dict(ctx.params or {})):
            return {"resultType": "task", **TASK, "ttlMs": None}
        raise MCPError(code=INVALID_PARAMS, message="only as a task")

    def _about_task(self, method: str, task_id: str) -> Json:
        if task_id != TASK["taskId"]:
            raise MCPError(code=INVALID_PARAMS, message="no such task")
        if method == "tasks/result":
            return RESULT
        if method == "tasks/get":
            return {**TASK, "ttl": None} if self._legacy else {**TASK, "ttlMs": None, "result": RESULT}
        if self._legacy:
            raise MCPError(code=INVALID_PARAMS, message="it has ended")
        return {}

    def _page(self, method: str, cursor: str | None) -> Json | None:
        """One of the two pages of a list."""
        listed = self._listed(method)
        if listed is None:
            return None
        ((member, entries),) = listed.items()
        if cursor is None:
            return {member: entries[:1], "nextCursor": "the rest"}
        return {member: entries[1:]}

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

    async def _call(self, ctx: Context, params: Json, arguments: Json) -> Json:
        match params["name"]:
            case "echo":
                headers = {} if ctx.request is None else {"headers": dict(ctx.request.headers)}
                return {**RESULT, "structuredContent": {"seen": params, **headers}}
            case "broken":
                return {**RESULT, "isError": True}
            case "link":
                return LINKS
            case "fail":
                raise MCPError(**ERROR)
            case "chore":
                return self._chore(ctx, params)
            case "grow":
                await self._grow(arguments["name"])
                return _text("done")
            case "touch":
                await self._touch(arguments["uri"])
                return _text("done")
            case what if what in ACTS:
                outcome = await self._act(ctx, what, arguments)
                return _text(outcome) if isinstance(outcome, str) else outcome
        raise MCPError(code=INVALID_PARAMS, message="no such tool")

    async def _act(self, ctx: Context, what: str, arguments: Json) -> str | Json:
        return await act(ctx, self._era, what, arguments, self._rooms[arguments.get("room", "")])

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
