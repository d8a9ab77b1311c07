"""The short way of stateless requests: from aiohttp's body to the backend's client, past ASGI and the SDK's server.

The endpoint routes every request through `handle`. What is regular (2026-07-28, a list or something routed, envelope
and headers that agree) is answered here; everything else goes to the bridge, whose answers are the reference. The one
rule: this way answers nothing that the other way would answer differently.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from multidict import CIMultiDictProxy

from agent.dispatch.client_events import UpstreamEvents
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.param_headers import headers_agree, received_headers
from agent.errors import AnswerCut, MeshError
from agent.lossless_json.exact import read_json
from agent.model import CLIENT_METHOD, Json
from agent.routing.table import Route
from agent.server.asgi_bridge import AsgiBridge
from agent.server.forward import Served, added, forward, logged, written
from agent.server.lists import LISTS, ListIndex
from agent.server.request import BODY_BYTES_MAX, read_body, speaks_json
from agent.server.response import Answer, SlowAnswers
from agent.server.search import unwrapped
from agent.server.sessions.client_events import as_mcp_error
from agent.server.task_requests import check_task_header
from agent.tasks.ids import TASK_METHODS

log = logging.getLogger(__name__)

_ROUTED: Final = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"}) | TASK_METHODS
_ANSWERED: Final = _ROUTED | {CLIENT_METHOD}


class StatelessServer:
    """The handler of one endpoint."""

    def __init__(
        self,
        *,
        list_index: ListIndex,
        dispatch: Dispatch,
        bridge: AsgiBridge,
        events: UpstreamEvents,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._body_bytes_max = body_bytes_max
        self._list_index = list_index
        self._dispatch = dispatch
        self._bridge = bridge
        self._events = events
        self._slow = SlowAnswers(bridge.start_task)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one HTTP request."""
        method = request.headers.get("Mcp-Method", "")
        is_list = method in LISTS
        if request.method != "POST" or not (is_list or method in _ANSWERED) or not speaks_json(request):
            return await self._bridge.handle(request)
        body = await read_body(request, self._body_bytes_max)
        if isinstance(body, web.Response):
            return body
        headers = {name.lower(): value for name, value in request.headers.items()}
        message = _regular(body, headers, request)
        if message is None:
            return await self._bridge.handle(request, body)
        params: Json = message["params"]
        answer = Answer(request, message["id"])
        try:
            with logged(method, params) as served:
                if method == CLIENT_METHOD:
                    return await answer.result(await _heard(self._events, params))
                check_task_header(method, params, request.headers)
                # Such a call carries the headers of call_tool, not those that the inner tool asks for.
                inner = unwrapped(method, params)
                params = inner or params
                route = self._list_index.route(method, params)
                if is_list:
                    search = self._list_index.wants_search(request.query, request.headers)
                    return await answer.result(self._list_index.listing(method, params, search=search, modern=True))
                if route is None or not (inner or self._param_headers_agree(method, params, headers)):
                    served.handed_on = True
                    return await self._bridge.handle(request, body)
                told = received_headers(headers.items())
                return await self._forwarded(method, route, params, answer, served, told=told)
        except MCPError as exc:
            return await answer.error(exc)
        except AnswerCut as exc:
            log.warning("MCP answer broke off", extra={"reason": str(exc)})
            await answer.cut()

    async def _forwarded(
        self, method: str, route: Route, params: Json, answer: Answer, served: Served, *, told: Mapping[str, str]
    ) -> web.StreamResponse:
        with self._slow.kept_alive(answer.ping):
            forwarded = await forward(
                self._dispatch,
                method,
                route,
                params,
                answer.notify,
                list_index=self._list_index,
                served=served,
                sink=answer.sink(added(method)),
                param_headers=told,
            )
        if answer.begun is not None:
            return answer.begun
        parts = written(method, route, forwarded, modern=True)
        del forwarded  # While a client reads its bytes, a large result need not lie here as objects too.
        return await answer.result(*parts)

    def _param_headers_agree(self, method: str, params: Json, headers: Mapping[str, str]) -> bool:
        if method != "tools/call":
            return True
        schema = self._list_index.input_schema(params["name"])
        # Of a schema that asks for no header, none is judged.
        if schema is None or not self._list_index.has_param_headers(schema):
            return True
        return headers_agree(schema, params, headers)


async def _heard(events: UpstreamEvents, params: Json) -> bytes:
    """What another node hears when it told of a client of its own."""
    try:
        return orjson.dumps(await events.hear(params))
    except MeshError as exc:
        raise as_mcp_error(exc) from exc


def _is_ambiguous(headers: CIMultiDictProxy[str]) -> bool:
    """Whether one of the headers that repeat something stands there twice, so that two readers may differ."""
    if any(len(headers.getall(name)) > 1 for name in received_headers(headers.items())):
        return True
    return find_duplicated_routing_header(headers.items()) is not None


def _regular(body: bytes, headers: Mapping[str, str], request: web.Request) -> Json | None:
    """The message, if it is a request of the stateless era whose headers and envelope agree; else None.

    `headers`: the request's, by names in lower case.
    """
    try:
        message: Any = read_json(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return None
    request_id = message.get("id")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        return None
    if len(headers) < len(request.headers) and _is_ambiguous(request.headers):
        return None
    verdict = classify_inbound_request(message, headers=headers)
    if not isinstance(verdict, InboundModernRoute) or verdict.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return None
    return message
