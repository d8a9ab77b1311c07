"""The server of stateless requests (2026-07-28 and later): routed ones are forwarded, others answered by the node.

The endpoint passes every request here whose version is not one with sessions (`agent.server.sessions.http`). Lists come
from the list index, routed names and task methods are forwarded, and the rest is answered by the node itself. The one
rule: every stateless request passes here, so every refusal is made here.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final, TypeAlias

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy

from agent.authority.caller import Caller
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.server_info import OnNotification
from agent.dispatch.call import Forwarded
from agent.dispatch.client_events import UpstreamEvents
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.ended_sessions import AT_ONCE_MAX
from agent.dispatch.param_headers import disagreement, looked_into
from agent.dispatch.started_call import StartedCall
from agent.errors import AnswerCut, MCPError, MeshError, RpcError
from agent.links.session_offers import ANY_OWN_LISTS, OWN_LISTS
from agent.lossless_json.raw import Bytes
from agent.lossless_json.unread import Unread
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY
from agent.model import AFFINITY_META_KEY, CLIENT_METHOD, ClientEvent, Json
from agent.routing.table import Route
from agent.rpc_codes import HEADER_MISMATCH, INVALID_PARAMS
from agent.server.caller_views import CallerViews
from agent.server.fast_path.connection import Connection, Handler
from agent.server.fast_path.heads import Beginning
from agent.server.forward import forward, with_own_affinity
from agent.server.limits import check_is_node
from agent.server.listen import ListenStreams
from agent.server.lists import LISTS, ListIndex
from agent.server.one_server import OneServer
from agent.server.own_tools import OwnTools, plain
from agent.server.preferences import Preferences
from agent.server.request import BODY_BYTES_MAX, body_at_hand, headers_by_name, param_headers, read_body
from agent.server.request_log import Served, logged
from agent.server.response import Answer, SlowAnswers, StartTask
from agent.server.search import CALL_TOOL
from agent.server.sessions.client_events import as_mcp_error
from agent.server.sessions.sealed_id import LIFETIME_S
from agent.server.started import METHOD, StartedCalls, StartedRequest, startable
from agent.server.task_requests import check_task_header
from agent.server.validation import read_message, refused_by_head, shaped, unknown_method
from agent.server.view_tools import ViewTools
from agent.server.written_results import added, written
from agent.turns import in_slices

log = logging.getLogger(__name__)

# Takes sessions that have ended: their IDs, and until when those are valid (seconds since 1970).
HearEnded: TypeAlias = Callable[[Iterable[tuple[str, int]]], Awaitable[None]]

_OWN: Final = frozenset({"tools/call", "resources/read"})


class StatelessServer:
    """The handler of one endpoint. Reads the route table anew for each request.

    Long because every kind of stateless request is a branch of the one handler.
    """

    def __init__(
        self,
        *,
        views: CallerViews,
        dispatch: Dispatch,
        own: OwnTools | OneServer | ViewTools,
        streams: ListenStreams,
        discover: Callable[[], Json],
        events: UpstreamEvents,
        start_task: StartTask,
        body_bytes_max: int = BODY_BYTES_MAX,
        hear_ended: HearEnded | None = None,
    ) -> None:
        """`discover` gives the result of `server/discover` as of now.

        `hear_ended` takes what sessions clients ended at another node; None where no node says so.
        """
        self._hear_ended = hear_ended
        self._body_bytes_max = body_bytes_max
        self._views = views
        self._dispatch = dispatch
        self._own = own
        self._streams = streams
        self._discover = discover
        self._events = events
        self._slow = SlowAnswers(start_task)
        self.started_calls = StartedCalls()

    async def handle(self, request: web.Request, preferences: Preferences) -> web.StreamResponse:
        """Serve one HTTP request."""
        if (refusal := refused_by_head(request)) is not None:
            return refusal
        body = body_at_hand(request) or await read_body(request, self._body_bytes_max)
        if isinstance(body, web.Response):
            return body
        headers = request.headers
        by_name = headers_by_name(request)
        message = read_message(body, headers, by_name)
        if not isinstance(message, dict):
            return message
        del body  # Of a large one, its call need not hold what is in no argument.
        method, params = message["method"], with_own_affinity(message["params"])
        answer = Answer(request, message["id"])
        try:
            with logged(method, params, message["id"]) as served:
                if method == CLIENT_METHOD:
                    check_is_node(method)
                    return await answer.result(await self._heard(params))
                check_task_header(method, params, headers)
                # Such a call carries the headers of call_tool, not those that the inner tool asks for.
                inner = await self._views.index.unwrapped(method, params) if params.get("name") == CALL_TOOL else None
                params, served.by_search = inner or params, inner is not None
                index, route = await self._found(method, params)
                if method in LISTS:
                    search = index.wants_search(request.query, headers)
                    declared = preferences.declared(params["_meta"].get(CLIENT_CAPABILITIES_META_KEY))
                    listed = index.listing(method, params, search=search, modern=True, capabilities=declared)
                    return await answer.result(listed)
                if route is None:
                    return await self._answered_here(method, params, answer, message["id"], preferences, served=served)
                if method == "tools/call" and inner is None:
                    await _check_param_headers(index, route, params, headers)
                received = param_headers(request, by_name)
                notify = answer.notify if preferences.notices else partial(_but_list_changes, answer.notify)
                return await self._forwarded(
                    method, route, params, answer, served, notify=notify, index=index, received=received
                )
        except MCPError as exc:
            return await _failed(answer, exc, preferences.as_result(method, exc))
        except AnswerCut as exc:
            log.warning("MCP answer broke off", extra={"reason": str(exc)})
            await answer.cut()

    def start(
        self, connection: Connection, beginning: Beginning, body: bytes, caller: Caller, *, preferences: Preferences
    ) -> StartedRequest | None:
        """Serve a call without a task, if it may go as most do: `agent.server.fast_path.connection.Start`."""
        head = beginning.head
        message = read_message(body, head.message.headers, head.by_name)
        if not isinstance(message, dict) or message["method"] != METHOD:
            return None
        params = message["params"]
        route = startable(self._views, caller, params)
        if route is None or (AFFINITY_META_KEY in params["_meta"] and not caller.grant.is_of_node):
            return None
        index = self._views.index
        schema = route.definition.get("inputSchema")
        if isinstance(schema, dict) and index.has_param_headers(schema):
            return None
        started = StartedRequest(
            self, connection, beginning, body, caller, message["id"], params, index, route, preferences
        )
        return started.start(self._dispatch)

    def written(self, started: StartedRequest, forwarded: Forwarded) -> tuple[Bytes, ...]:
        """As `StartsCalls.written`."""
        return written(METHOD, started.route, forwarded, modern=True)

    def go_on(self, _request: web.Request, started: StartedRequest) -> Handler:
        """As `StartsCalls.go_on`."""
        return partial(self._go_on, started=started)

    async def _go_on(self, request: web.Request, *, started: StartedRequest) -> web.StreamResponse:
        answer, preferences = Answer(request, started.request_id), started.preferences
        notify = answer.notify if preferences.notices else partial(_but_list_changes, answer.notify)
        try:
            with started.line() as served:
                return await self._forwarded(
                    METHOD,
                    started.route,
                    started.params,
                    answer,
                    served,
                    notify=notify,
                    index=started.index,
                    received={},
                    started=started.call,
                )
        except MCPError as exc:
            return await _failed(answer, exc, preferences.as_result(METHOD, exc))
        except AnswerCut as exc:
            log.warning("MCP answer broke off", extra={"reason": str(exc)})
            await answer.cut()

    async def _heard(self, params: Json) -> bytes:
        """The result of a client event that another node reported."""
        try:
            if params.get("event") == ClientEvent.DELETED:
                await self._heard_ended(params.get("sessions"))
                return orjson.dumps({"resultType": "complete"})
            if params.get("event") == ClientEvent.LISTS:
                await self._views.read(params)
                own = self._views.index_of(params) is not self._views.index
                any_own = bool(self._views.offers)
                return orjson.dumps({"resultType": "complete", OWN_LISTS: own, ANY_OWN_LISTS: any_own})
            if params.get("event") in (ClientEvent.SUBSCRIBED, ClientEvent.UNSUBSCRIBED):
                route = self._views.index_of(params).present("resources/read", {"uri": params.get("uri")})
                params = {**params, "uri": None if route is None else route.replicas[0].remote_name}
            return orjson.dumps(await self._events.hear(params))
        except MeshError as exc:
            raise as_mcp_error(exc) from exc

    async def _heard_ended(self, sessions: object) -> None:
        if self._hear_ended is None or not isinstance(sessions, list) or len(sessions) > AT_ONCE_MAX:
            raise RpcError(INVALID_PARAMS, "Ended sessions are for the endpoint of nodes, in a list of limited length")
        latest_s = int(time.time()) + LIFETIME_S
        ended = [one for one in sessions if isinstance(one, list) and [*map(type, one)] == [str, int]]
        await self._hear_ended((session_id, min(until_s, latest_s)) for session_id, until_s in ended)

    async def _found(self, method: str, params: Json) -> tuple[ListIndex, Route | None]:
        """The route of a request, in the index of the caller that another node names. Raises `MCPError`."""
        views = self._views
        if method in LISTS:
            await views.read(params)
        index = views.index_of(params)
        try:
            return index, index.route(method, params)
        except MCPError:  # The name may be of something that a session gained a moment ago.
            if not await views.read(params):
                raise
        index = views.index_of(params)
        return index, index.route(method, params)

    async def _forwarded(
        self,
        method: str,
        route: Route,
        params: Json,
        answer: Answer,
        served: Served,
        *,
        notify: OnNotification,
        index: ListIndex,
        received: Mapping[str, str],
        started: StartedCall | None = None,
    ) -> web.StreamResponse:
        with self._slow.kept_alive(answer.ping):
            forwarded = await forward(
                self._dispatch,
                method,
                route,
                params,
                notify,
                list_index=index,
                served=served,
                sink=answer.sink(added(method)),
                param_headers=received,
                started=started,
            )
        if answer.begun is not None:
            return answer.begun
        parts = written(method, route, forwarded, modern=True)
        del forwarded  # While a client reads its bytes, a large result need not be held as objects too.
        return await answer.result(*parts)

    async def _answered_here(
        self,
        method: str,
        params: Json,
        answer: Answer,
        request_id: object,
        preferences: Preferences,
        *,
        served: Served,
    ) -> web.StreamResponse:
        """Answer a request that is not routed, with an error for unknown methods."""
        params = await shaped(method, plain(params))
        with self._slow.kept_alive(answer.ping):
            if method == "subscriptions/listen":
                return await self._streams.serve(answer, request_id, params, notices=preferences.notices)
            if method == "server/discover":
                result = preferences.promised(self._discover())
            elif method in _OWN:
                version = params["_meta"][PROTOCOL_VERSION_META_KEY]
                result = await self._own.answer(method, params, version)
                served.tool_error = result.get("isError") is True
            else:
                raise unknown_method(method)
        return await answer.result(orjson.dumps(result))


async def _check_param_headers(index: ListIndex, route: Route, params: Json, headers: CIMultiDictProxy[str]) -> None:
    """Refuse a call whose headers contradict its arguments. Raises `MCPError`."""
    name = params["name"]
    schema = route.definition.get("inputSchema") if name == route.public_name else index.input_schema(name)
    # A schema without header parameters needs no check.
    if not isinstance(schema, dict) or not index.has_param_headers(schema):
        return
    if type(arguments := params.get("arguments")) is Unread:
        await in_slices(looked_into(schema, arguments))
    differs = disagreement(schema, params, headers)
    if differs is not None:
        raise MCPError(code=HEADER_MISMATCH, message=differs)


async def _but_list_changes(notify: OnNotification, method: str, params: Json) -> None:
    """For a client that wants no list changes: what a server notifies of during a call, without these."""
    if method not in LIST_CHANGES:
        await notify(method, params)


async def _failed(answer: Answer, failure: MCPError, result: Json | None) -> web.StreamResponse:
    if result is None:
        return await answer.error(failure)
    return await answer.result(orjson.dumps({"resultType": "complete", **result}))
