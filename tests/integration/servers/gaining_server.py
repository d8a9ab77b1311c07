"""A real server with one list for each session: what `unlock` adds is there for the session that called it alone.

As dynamic toolsets, and servers on the TypeScript SDK with one `McpServer` for each session, have it. Updates of a
gained resource go to the session that subscribed, and an elicitation by URL is completed in the session that was asked.
The one rule: nothing that one session does shows in another.
"""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, RequestParams

from agent.model import Json

ANY: Json = {"type": "object"}
NOTE = "vault://note"
URL_REQUIRED = -32042
METHODS = (
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "resources/templates/list",
)


@dataclass
class _Own:
    """What one session has."""

    number: int
    gained: list[str] = field(default_factory=list)
    subscribed: set[str] = field(default_factory=set)


@dataclass
class Gaining:
    """One server. `announces`: it tells of changed lists. `declares`: it says at the beginning that it will."""

    announces: bool = True
    declares: bool = True
    sessions: int = 0
    _own: WeakKeyDictionary[Any, _Own] = field(default_factory=WeakKeyDictionary)

    def server(self) -> Server[Any]:
        """The server itself."""
        server: Server[Any] = Server("gaining", version="1")
        server.middleware.append(self._answer)
        for method in METHODS:
            server.add_request_handler(method, RequestParams, _unreached)
        return server

    def _of(self, ctx: Any) -> _Own:
        connection = ctx.session._connection
        if connection not in self._own:
            self.sessions += 1
            self._own[connection] = _Own(self.sessions)
        return self._own[connection]

    async def _answer(self, ctx: Any, call_next: Any) -> Any:
        params = dict(ctx.params or {})
        match ctx.method:
            case "server/discover":
                raise MCPError(code=METHOD_NOT_FOUND, message="Method not found")
            case "initialize":
                result = await call_next(ctx)
                raw = result if isinstance(result, dict) else result.model_dump(by_alias=True, exclude_none=True)
                raw["capabilities"] |= {
                    "tools": {"listChanged": self.announces and self.declares},
                    "resources": {"subscribe": True, "listChanged": self.announces and self.declares},
                }
                return raw
            case "tools/list":
                names = ["unlock", "whoami", "touch", "pay", *self._of(ctx).gained]
                return {"tools": [{"name": name, "inputSchema": ANY} for name in names]}
            case "resources/list":
                return {"resources": [{"uri": NOTE, "name": "note"}] if self._of(ctx).gained else []}
            case "resources/templates/list":
                return {"resourceTemplates": []}
            case "resources/read" | "resources/subscribe" | "resources/unsubscribe":
                return self._about_resource(ctx.method, params["uri"], self._of(ctx))
            case "tools/call":
                return await self._called(ctx, params["name"], self._of(ctx))
            case _:
                return await call_next(ctx)

    def _about_resource(self, method: str, uri: str, own: _Own) -> Json:
        match method:
            case "resources/subscribe":
                own.subscribed.add(uri)
            case "resources/unsubscribe":
                own.subscribed.discard(uri)
            case _ if own.gained:
                return {"contents": [{"uri": uri, "text": f"note of {own.number}"}]}
            case _:
                raise MCPError(code=INVALID_PARAMS, message=f"Resource {uri} not found", data={"uri": uri})
        return {}

    async def _called(self, ctx: Any, name: str, own: _Own) -> Json:
        match name:
            case "unlock":
                own.gained.append(f"secret{len(own.gained)}")
                if self.announces:
                    await ctx.session.send_tool_list_changed()
                    await ctx.session.send_resource_list_changed()
            case "touch":
                for uri in own.subscribed:
                    await ctx.session.send_resource_updated(uri)
            case "pay":
                asked = {"mode": "url", "url": "https://example.org/pay", "message": "Pay", "elicitationId": "pay-1"}
                raise MCPError(code=URL_REQUIRED, message="Pay first", data={"elicitations": [asked]})
            case "whoami":
                if own.gained:
                    await ctx.session.send_elicit_complete("pay-1")
            case _ if name not in own.gained:
                raise MCPError(code=INVALID_PARAMS, message=f"Tool {name} not found")
        return {"content": [{"type": "text", "text": f"{name} in {own.number}"}]}


async def _unreached(_ctx: Any, _params: RequestParams) -> Json:
    raise AssertionError("the middleware answers first")
