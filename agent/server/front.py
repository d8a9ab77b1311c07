"""The MCP front of one endpoint: answers lists from the route table and forwards what is routed.

It stands first in the SDK's middleware chain of the endpoint's FastMCP server, so raw params come in and raw results go
out: definitions and results pass as their servers wrote them. Only irregular stateless requests get here; regular ones
are answered before (`agent.server.stateless`), and sessions elsewhere (`agent.server.sessions.http`). The one rule:
what is not routed falls through to the management server, and nothing is ever answered with an empty success.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.param_headers import received_headers
from agent.lossless_json.exact import with_own_numbers
from agent.model import Json, NodeIdentity
from agent.server.forward import forward, logged, shaped
from agent.server.lists import LISTS, ListIndex
from agent.server.own_tools import with_card
from agent.server.search import unwrapped
from agent.server.task_requests import check_task_header


class MeshFront:
    """SDK server middleware of one endpoint. Reads the route table anew for each request."""

    def __init__(
        self, *, identity: NodeIdentity, list_index: ListIndex, dispatch: Dispatch, draining: Callable[[], bool]
    ) -> None:
        self._identity = identity
        self._draining = draining
        self._list_index = list_index
        self._dispatch = dispatch

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answer one message, or hand it on."""
        if ctx.request_id is None:
            return await call_next(ctx)
        params = dict(ctx.params or {})
        with logged(ctx.method, params) as served:
            inner = unwrapped(ctx.method, params)
            if inner is not None:
                ctx, params = replace(ctx, params=inner), inner
            check_task_header(ctx.method, params, ctx.request.headers if ctx.request is not None else {})
            route = self._list_index.route(ctx.method, params)
            if route is not None:

                async def pass_on(method: str, note: Json) -> None:
                    # Request-scoped: it rides this request's own response stream, in order, under its backpressure.
                    # The SDK's typed way would drop members that it does not know.
                    await ctx.session._request_outbound.notify(method, with_own_numbers(note))  # noqa: SLF001 - see above

                told = received_headers(ctx.request.headers.items()) if ctx.request is not None else {}
                try:
                    forwarded = await forward(
                        self._dispatch,
                        ctx.method,
                        route,
                        params,
                        pass_on,
                        list_index=self._list_index,
                        served=served,
                        param_headers=told,
                    )
                except MCPError as exc:
                    exc.error.data = with_own_numbers(exc.error.data)
                    raise
                result: Json = with_own_numbers(shaped(ctx.method, route, forwarded))
                return result
            if ctx.method in LISTS:
                search = self._wants_search(ctx)
                listed: Json = json.loads(self._list_index.listing(ctx.method, params, search=search, modern=True))
                return listed
            answered = await call_next(ctx)
            return self._introduced(answered) if ctx.method == "server/discover" else answered

    def _wants_search(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        request = ctx.request
        return request is not None and self._list_index.wants_search(request.query_params, request.headers)

    def _introduced(self, result: HandlerResult) -> HandlerResult:
        raw = (
            result.model_dump(by_alias=True, mode="json", exclude_none=True)
            if isinstance(result, BaseModel)
            else dict(result or {})
        )
        draining, has_tasks = self._draining(), self._list_index.has_tasks()
        return with_card(raw, self._identity, "extensions", draining=draining, has_tasks=has_tasks)
