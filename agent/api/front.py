"""The MCP front of one endpoint: answers lists from the route table and forwards what is routed.

It stands first in the SDK's middleware chain of the endpoint's FastMCP server, so raw params come in and raw results
go out: definitions and results pass as their servers wrote them. The one rule: what is not routed falls through to
the management server, and nothing is ever answered with an empty success.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from agent.api.notices import Notices
from agent.core.route_table import Route, RouteTable
from agent.dispatch import CallRefused, Dispatch, Forwarded
from agent.errors import CallOutcomeUnknown, CallTimedOut, LinkFailed, RpcError
from agent.model import MESH_EXTENSION, Json, NodeIdentity

log = logging.getLogger("agent.mcp")

# Ours, in JSON-RPC's range for servers: why a forwarded request has no answer (docs/architecture.md, "Errors").
NOT_EXECUTED: Final = -32000
OUTCOME_UNKNOWN: Final = -32001

# Required in 2026-07-28 lists. A list may change at any moment and says so by notification, so it is stale at once.
_LIST_HINTS: Final[Json] = {"ttlMs": 0, "cacheScope": "private"}
# Results that must carry cache hints at 2026-07-28; a legacy backend does not know them.
_CACHEABLE: Final = frozenset({"resources/read"})
# Words of 2026-07-28 that earlier clients have no use for.
_MODERN_KEYS: Final = frozenset({"resultType", "ttlMs", "cacheScope"})

# What a client sends as a name may be a book; the log keeps its title.
NAME_LEN_LOGGED: Final = 128

_LISTS: Final = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


class MeshFront:
    """SDK server middleware of one endpoint. Reads the route table anew for each request."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        routes: Callable[[], RouteTable],
        dispatch: Dispatch,
        notices: Notices,
        own: Mapping[str, list[Json]],
    ) -> None:
        """`own`: result key ('tools', 'resources', ...) -> the management server's own definitions."""
        self._identity = identity
        self._routes = routes
        self._dispatch = dispatch
        self._notices = notices
        self._own = own
        self._own_tools = frozenset(tool["name"] for tool in own.get("tools", ()))
        self._own_uris = frozenset(resource["uri"] for resource in own.get("resources", ()))

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answer one message, or hand it on."""
        if ctx.request_id is None:
            return await call_next(ctx)
        started_s = time.monotonic()
        outcome, backend = "failed", "own"
        try:
            forwarded = await self._forward(ctx)
            if forwarded is not None:
                backend = forwarded.replica.backend_key
                result: HandlerResult = shaped(ctx, forwarded.result)
            elif ctx.method in _LISTS:
                result = self._list(ctx)
            else:
                result = self._introduced(ctx, await call_next(ctx))
            outcome = "ok"
        except MCPError as exc:
            outcome = f"error {exc.code}"
            raise
        finally:
            log.info(
                "MCP request",
                extra={
                    "method": ctx.method,
                    "mcp_name": _asked_name(ctx),
                    "backend": backend,
                    "outcome": outcome,
                    "ms": round((time.monotonic() - started_s) * 1000, 2),
                },
            )
        return result

    def input_schema(self, tool_name: str) -> Json | None:
        """The SDK's schema hook; without it every call with arguments would list the whole catalogue first."""
        route = self._routes().tools.get(tool_name)
        if route is not None:
            schema = route.definition.get("inputSchema")
            return schema if isinstance(schema, dict) else None
        return next((t.get("inputSchema") for t in self._own.get("tools", ()) if t["name"] == tool_name), None)

    def _list(self, ctx: ServerRequestContext[Any, Any]) -> Json:
        table = self._routes()
        key = _LISTS[ctx.method]
        if (ctx.params or {}).get("cursor") is not None:
            raise MCPError(code=INVALID_PARAMS, message="cursor: unknown; this list has one page")
        routed = {
            "tools": table.listed_tools,
            "prompts": table.listed_prompts,
            "resources": table.listed_resources,
            "resourceTemplates": table.listed_templates,
        }[key]()
        result: Json = {key: [*self._own.get(key, ()), *(route.definition for route in routed)]}
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            result |= {"resultType": "complete", **_LIST_HINTS}
        return result

    async def _forward(self, ctx: ServerRequestContext[Any, Any]) -> Forwarded | None:
        params = dict(ctx.params or {})
        _check_object(params, "_meta")
        route = self._route(ctx.method, params)
        if route is None:
            return None

        async def pass_on(method: str, note: Json) -> None:
            # Request-scoped: it rides this request's own response stream, in order, under its backpressure.
            await ctx.session._request_outbound.notify(method, note)  # noqa: SLF001 - the typed way drops unknown fields

        try:
            forwarded = await self._dispatch.forward(ctx.method, route, params, pass_on)
        except RpcError as exc:
            raise MCPError(code=exc.code, message=exc.message, data=exc.data) from exc
        except CallRefused as exc:
            raise MCPError(code=NOT_EXECUTED, message=str(exc), data={"outcome": "not_executed"}) from exc
        except CallOutcomeUnknown as exc:
            data = {"outcome": "unknown", "timed_out": isinstance(exc, CallTimedOut)}
            raise MCPError(code=OUTCOME_UNKNOWN, message=f"{route.public_name}: {exc}", data=data) from exc
        except LinkFailed as exc:
            data = {"outcome": "unknown", "timed_out": False}
            raise MCPError(code=INTERNAL_ERROR, message=f"{route.public_name}: {exc}", data=data) from exc
        if ctx.method == "resources/read":
            result = with_public_uri(forwarded.result, forwarded.replica.remote_name, params["uri"])
            return Forwarded(result, forwarded.replica)
        return forwarded

    def _route(self, method: str, params: Json) -> Route | None:
        """Find who is asked; None means the management server. Unknown names are refused here, by name."""
        table = self._routes()
        match method:
            case "tools/call":
                name = _text(params, "name")
                _check_object(params, "arguments")
                if name in self._own_tools:
                    return None
                return _known(table.tools.get(name), "tool", name)
            case "prompts/get":
                name = _text(params, "name")
                _check_object(params, "arguments")
                return _known(table.prompts.get(name), "prompt", name)
            case "resources/read":
                uri = _text(params, "uri")
                return None if uri in self._own_uris else _known(table.resolve_uri(uri), "resource", uri)
            case "completion/complete":
                ref = params.get("ref")
                if not isinstance(ref, dict):
                    raise MCPError(code=INVALID_PARAMS, message="ref: an object is required")
                if ref.get("type") == "ref/prompt":
                    return _known(table.prompts.get(_text(ref, "name")), "prompt", ref["name"])
                uri = _text(ref, "uri")
                return _known(table.templates.get(uri) or table.resolve_uri(uri), "resource", uri)
            case _:
                return None

    def _introduced(self, ctx: ServerRequestContext[Any, Any], result: HandlerResult) -> HandlerResult:
        """Add who we are to the answer of server/discover and initialize; keep a legacy session for notices."""
        if ctx.method not in ("server/discover", "initialize"):
            return result
        raw: Json = (
            result.model_dump(by_alias=True, mode="json", exclude_none=True)
            if isinstance(result, BaseModel)
            else dict(result or {})
        )
        # Legacy servers strip `extensions`, so there it goes where every version lets it through.
        slot = "extensions" if ctx.method == "server/discover" else "experimental"
        capabilities = dict(raw.get("capabilities") or {})
        card = {"node_id": self._identity.node_id, "name": self._identity.name}
        capabilities[slot] = {**(capabilities.get(slot) or {}), MESH_EXTENSION: card}
        if ctx.method == "initialize":
            self._notices.remember(ctx.session._connection)  # noqa: SLF001 - the SDK has no public list of sessions
        return {**raw, "capabilities": capabilities}


def shaped(ctx: ServerRequestContext[Any, Any], result: Json) -> Json:
    """Fit a backend's result to the era of the client that asked; content is never touched."""
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        hints = _LIST_HINTS if ctx.method in _CACHEABLE else {}
        return {"resultType": "complete", **hints, **result}
    if result.get("resultType") == "input_required":
        raise MCPError(
            code=INVALID_PARAMS,
            message="The server asks for client input in a way that this client's protocol version does not have.",
        )
    return {key: value for key, value in result.items() if key not in _MODERN_KEYS}


def with_public_uri(result: Json, remote_uri: str, public_uri: str) -> Json:
    """Name the contents that were asked for as the client named them."""
    contents = result.get("contents")
    if not isinstance(contents, list):
        return result
    renamed = [
        {**part, "uri": public_uri} if isinstance(part, dict) and part.get("uri") == remote_uri else part
        for part in contents
    ]
    return {**result, "contents": renamed}


def _known(route: Route | None, kind: str, name: str) -> Route:
    if route is None:
        raise MCPError(code=INVALID_PARAMS, message=f"Unknown {kind}: {name!r}", data={"name": name})
    return route


def _text(params: Mapping[str, Any], field: str) -> str:
    value = params.get(field)
    if not isinstance(value, str):
        raise MCPError(code=INVALID_PARAMS, message=f"{field}: a string is required")
    return value


def _check_object(params: Json, field: str) -> None:
    if not isinstance(params.get(field), dict | None):
        raise MCPError(code=INVALID_PARAMS, message=f"{field}: an object is required")


def _asked_name(ctx: ServerRequestContext[Any, Any]) -> str | None:
    params = ctx.params or {}
    name = params.get("name") or params.get("uri")
    return name[:NAME_LEN_LOGGED] if isinstance(name, str) else None
