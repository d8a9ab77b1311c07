"""The MCP front of one endpoint: answers lists from the route table and forwards what is routed.

It stands first in the SDK's middleware chain of the endpoint's FastMCP server, so raw params come in and raw results
go out: definitions and results pass as their servers wrote them. Clients of the stateless era mostly never get here
(`agent.api.native`). The one rule: what is not routed falls through to the management server, and nothing is ever
answered with an empty success.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import LOG_LEVEL_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from agent.api.catalogue import LISTS, Catalogue
from agent.api.forwarding import Served, forward, logged, shaped
from agent.api.notices import Notices
from agent.api.questions import asked_client, in_rounds
from agent.api.search import unwrapped
from agent.core.route_table import Route
from agent.dispatch import Dispatch, Forwarded
from agent.model import DRAINING, MESH_EXTENSION, Json, NodeIdentity


class MeshFront:
    """SDK server middleware of one endpoint. Reads the route table anew for each request."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        catalogue: Catalogue,
        dispatch: Dispatch,
        notices: Notices,
        draining: Callable[[], bool],
    ) -> None:
        self._identity = identity
        self._draining = draining
        self._catalogue = catalogue
        self._dispatch = dispatch
        self._notices = notices
        # What legacy clients set for their session; weakly, because a session's end needs no telling.
        self._log_levels = WeakKeyDictionary[Connection, str]()

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answer one message, or hand it on."""
        if ctx.request_id is None:
            return await call_next(ctx)
        params = dict(ctx.params or {})
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        with logged(ctx.method, params) as served:
            inner = unwrapped(ctx.method, params)
            if inner is not None:
                ctx, params = replace(ctx, params=inner), inner
            route = self._catalogue.route(ctx.method, params)
            if route is not None:
                forwarded = await self._forwarded(ctx, route, params, served, modern=modern)
                return shaped(ctx.method, route, forwarded, modern=modern)
            if ctx.method in LISTS:
                search = self._wants_search(ctx)
                listed: Json = orjson.loads(self._catalogue.listing(ctx.method, params, search=search, modern=modern))
                return listed
            result = await call_next(ctx)
            if ctx.method == "logging/setLevel":
                self._log_levels[ctx.session._connection] = params["level"]  # noqa: SLF001 - see above
            return self._introduced(ctx, result)

    async def _forwarded(
        self, ctx: ServerRequestContext[Any, Any], route: Route, params: Json, served: Served, *, modern: bool
    ) -> Forwarded:
        """Forward one request; a client with a session is asked for what the server wants to know meanwhile."""
        # A legacy client's session; the SDK has no public way to it from here.
        connection = ctx.session._connection  # noqa: SLF001 - see above

        async def pass_on(method: str, note: Json) -> None:
            # Request-scoped: it rides this request's own response stream, in order, under its backpressure.
            # The SDK's typed way would drop members that it does not know.
            await ctx.session._request_outbound.notify(method, note)  # noqa: SLF001 - see above

        async def send(asked: Json) -> Forwarded:
            # Looked up anew, because a user may think for minutes.
            now = self._present(ctx.method, asked, route)
            return await forward(
                self._dispatch, ctx.method, now, asked, pass_on, served=served, session_id=connection.session_id
            )

        params = with_log_level(params, self._log_levels.get(connection))
        return await send(params) if modern else await in_rounds(send, params, asked_client(ctx.session))

    def _present(self, method: str, params: Json, known: Route) -> Route:
        """The route as it is now; the known one when the name is gone, so that dispatch says what that means."""
        with contextlib.suppress(MCPError):
            return self._catalogue.route(method, params) or known
        return known

    def _wants_search(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        request = ctx.request
        return request is not None and self._catalogue.wants_search(request.query_params, request.headers)

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
        card: Json = {"node_id": self._identity.node_id, "name": self._identity.name}
        if self._draining():
            card[DRAINING] = True
        capabilities[slot] = {**(capabilities.get(slot) or {}), MESH_EXTENSION: card}
        # Updates of single resources are not relayed, whatever the SDK makes of its listen handler.
        capabilities["resources"] = {**(capabilities.get("resources") or {}), "subscribe": False}
        if ctx.method == "initialize":
            self._notices.remember(ctx.session._connection)  # noqa: SLF001 - the SDK has no public list of sessions
        return {**raw, "capabilities": capabilities}


def with_log_level(params: Json, level: str | None) -> Json:
    """A session's level as 2026-07-28 says it, with each request; a request's own word wins. None: nothing was set."""
    if level is None:
        return params
    return {**params, "_meta": {LOG_LEVEL_META_KEY: level, **(params.get("_meta") or {})}}
