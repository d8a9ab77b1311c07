"""Serves the requests of sessions: from the same lists, routes and servers as stateless requests.

Called by `agent.server.sessions.http` for each request. The one rule: a client from before 2026-07-28 sees one ordinary
call, whatever the era of the server: server requests go to it on the stream of the call, and members that it does not
know stay out of its results.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from agent import clock
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.streaming import ResultStream
from agent.dispatch.call import Forwarded
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.started_call import StartedCall
from agent.errors import MCPError, RpcError
from agent.lossless_json.raw import Bytes, exact
from agent.lossless_json.unread import Unread
from agent.mcp_terms import LOG_LEVEL_META_KEY, LOG_LEVELS
from agent.model import Json, Offer
from agent.routing.table import Route
from agent.rpc_codes import CONNECTION_CLOSED, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY
from agent.server.caller_views import CallerViews
from agent.server.earlier_clients import hides_structure
from agent.server.forward import forward, with_own_affinity
from agent.server.lists import LISTS, ListIndex
from agent.server.one_server import OneServer
from agent.server.own_tools import OwnTools, plain
from agent.server.request_log import Served, logged
from agent.server.search import CALL_TOOL
from agent.server.sessions.elicitation import AskedClient, in_rounds
from agent.server.sessions.session import ServerSession, Tell
from agent.server.sessions.tasks import (
    TASK_REQUESTS,
    AskedTask,
    HeldResults,
    created,
    listed,
    may_be_task,
    with_extension,
)
from agent.server.sessions.tasks import VERSION as TASKS_VERSION
from agent.server.sessions.upstream import UpstreamSessions
from agent.server.started import METHOD, StartedRequest
from agent.server.view_tools import ViewTools
from agent.server.written_results import written
from agent.subscriptions.registry import Subscriber
from agent.subscriptions.resources import ResourceNews
from agent.tasks.ids import TAKES_TASKS, is_task
from agent.tasks.versions import task_support, with_related_task

# Requests that may take time; every other one is answered at once.
ROUTED: Final = (
    frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete", "resources/subscribe"})
    | TASK_REQUESTS
)
# The level of most servers for a client that sets none.
UNSET_LOG_LEVEL: Final = "info"


@dataclass(slots=True, eq=False)
class ReplyChannel:
    """The channel back to the client of one call: `tell` sends a JSON-RPC message ahead of the answer.

    `sink` takes a large result while it comes; None where results are only taken whole. `request_id`: of the call.
    """

    session: ServerSession
    tell: Tell
    sink: ResultStream | None
    request_id: str | int | None = None

    async def notify(self, method: str, params: Json) -> None:
        """Send a notification, unless the client has gone, or wants none of this kind."""
        if method in LIST_CHANGES and not self.session.notices:
            return
        with contextlib.suppress(ConnectionError):
            await self.tell(orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    async def ask(self, method: str, params: Json) -> Json | Unread:
        """Send a server request to the client. Raises `MCPError`: its refusal, or it has gone."""
        try:
            return await self.session.ask(self.tell, method, params)
        except ConnectionError as exc:
            raise MCPError(code=CONNECTION_CLOSED, message="the client has gone") from exc


class SessionRequests:
    """The requests of one endpoint's sessions. Reads the route table anew for each.

    Long because each method that a client may call goes through the same routes and to the same tasks.
    """

    def __init__(
        self,
        *,
        views: CallerViews,
        dispatch: Dispatch,
        own: OwnTools | OneServer | ViewTools,
        subscriber: Callable[..., Subscriber[ResourceNews]],
        upstream: UpstreamSessions,
    ) -> None:
        self._list_index = views.index
        self._views = views
        self._dispatch = dispatch
        self._own = own
        self._subscriber = subscriber
        self._upstream = upstream
        self._held = HeldResults()

    def has_tasks(self, version: str) -> bool:
        """Whether tasks are announced to a session of this version, so that it may make calls as tasks."""
        return version == TASKS_VERSION and self._list_index.has_tasks()

    def at_once(
        self,
        session: ServerSession,
        method: str,
        params: Json,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        *,
        request_id: str | int | None = None,
    ) -> bytes:
        """The result, as JSON, that this node gives at once. Raises `MCPError`, for unknown methods too."""
        with logged(method, params, request_id):
            if method in LISTS:
                index = self._views.index_of({}, session.id)
                search = index.wants_search(query, headers)
                declared = session.capabilities
                return index.listing(method, params, search=search, modern=False, capabilities=declared)
            match method:
                case "ping":
                    return b"{}"
                case "logging/setLevel":
                    level = params.get("level")
                    if level not in LOG_LEVELS:
                        raise MCPError(code=INVALID_PARAMS, message=f"level: one of {', '.join(LOG_LEVELS)}")
                    session.log_level = level
                    if session.leveled is not None:
                        session.leveled()
                    return b"{}"
                case "resources/unsubscribe":
                    if session.subscriber is not None:
                        uri = _uri(params)
                        self._upstream.unsubscribe(session, self._resource_route(session, uri), uri)
                        session.subscriber.remove([uri])
                    return b"{}"
                case _:
                    raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)

    async def routed(self, channel: ReplyChannel, method: str, params: Json) -> tuple[Bytes, ...]:
        """The result, as JSON in parts, of a request that may go to a server.

        A result that went to the channel's sink is not in them. Raises `MCPError`, `AnswerCut`.
        """
        params = with_own_affinity(params)
        with logged(method, params, channel.request_id) as served:
            if method == "resources/subscribe":
                await self._subscribe(channel.session, _uri(params))
                return (b"{}",)
            if method in TASK_REQUESTS:
                return await self._about_task(channel, method, params, served)
            inner = await self._list_index.unwrapped(method, params) if params.get("name") == CALL_TOOL else None
            served.by_search = inner is not None
            params, as_task = self._task_requested(channel.session, method, inner or params)
            index, route = await self._found(channel.session, method, params)
            if as_task and (route is None or not may_be_task(route, has_tasks=index.makes_tasks(route))):
                raise MCPError(code=METHOD_NOT_FOUND, message=f"{params['name']} cannot be called as a task")
            if route is None:
                result = await self._own.answer(method, plain(params), channel.session.version)
                served.tool_error = result.get("isError") is True
                return (orjson.dumps(result),)
            return await self._result(channel, method, route, params, served, index=index, as_task=as_task)

    async def _result(
        self,
        channel: ReplyChannel,
        method: str,
        route: Route,
        params: Json,
        served: Served,
        *,
        index: ListIndex,
        as_task: bool = False,
        started: StartedCall | None = None,
    ) -> tuple[Bytes, ...]:
        """As `routed`, of a request for a server; it may have gone out."""
        try:
            before = self._views.offers_of(channel.session.id)
            forwarded = await self._forwarded(
                channel, method, route, params, served, index=index, as_task=as_task, started=started
            )
            await self._tell_of_lists(channel, before)
        except MCPError as exc:
            if exc.code != MISSING_REQUIRED_CLIENT_CAPABILITY or task_support(route.definition) != "required":
                raise
            raise MCPError(code=METHOD_NOT_FOUND, message=exc.message) from exc  # The code of that era.
        return written(
            method, route, self._as_task(channel.session, route, forwarded) if as_task else forwarded, modern=False
        )

    async def go_on(self, channel: ReplyChannel, started: StartedRequest) -> tuple[Bytes, ...]:
        """As `routed`, of a call that was started."""
        route, params, index = started.route, started.params, started.index
        with started.line() as served:
            return await self._result(channel, METHOD, route, params, served, index=index, started=started.call)

    def _task_requested(self, session: ServerSession, method: str, params: Json) -> tuple[Json, bool]:
        """Params, and whether the call is to be a task; without tasks, `task` has to be ignored (MCP 2025-11-25)."""
        if method != "tools/call" or "task" not in params:
            return params, False
        if self.has_tasks(session.version) and isinstance(params["task"], dict):
            return params, True
        return {name: value for name, value in params.items() if name != "task"}, False

    async def fresh_lists(self, session: ServerSession) -> None:
        """Read what calls may have changed for this client alone, before it is shown a list."""
        await self._upstream.recall(session)
        await self._views.read({}, session.id)

    async def _found(self, session: ServerSession, method: str, params: Json) -> tuple[ListIndex, Route | None]:
        """The route of a request, in the index of its session. Raises `MCPError`."""
        index = self._views.index_of({}, session.id)
        try:
            return index, index.route(method, params)
        except MCPError:  # The name may be of something that the session gained a moment ago, or at another node.
            recalled = await self._upstream.recall(session)
            if not await self._views.read({}, session.id) and not recalled:
                raise
        index = self._views.index_of({}, session.id)
        return index, index.route(method, params)

    async def _tell_of_lists(self, channel: ReplyChannel, before: Mapping[str, Offer]) -> None:
        """Tell the client, ahead of the result, which lists a call has changed for it alone."""
        after = self._views.offers_of(channel.session.id)
        if after is not before and channel.session.notices:
            for kind in self._views.changed_lists(before, after):
                await channel.notify(f"notifications/{kind}/list_changed", {})

    def _as_task(self, session: ServerSession, route: Route, forwarded: Forwarded) -> Forwarded:
        """The result of a call that its client made as a task; where its server made none, we do."""
        result = exact(forwarded.result)
        if is_task(result):
            made = created(result)
            session.task_talks.made(made["task"])
            self._upstream.follow_task(session, made["task"]["taskId"])
            return Forwarded(made, forwarded.replica)
        task_id = self._held.new_id()
        whole = Forwarded(with_related_task(result, task_id), forwarded.replica)
        kept = b"".join(written("tools/call", route, whole, modern=False))
        now_s, failed = clock.now_s(), result.get("isError") is True
        task = self._held.keep(task_id, kept, session.id, now_s, failed=failed)
        session.task_talks.made(task)
        return Forwarded({"task": task}, forwarded.replica)

    async def _about_task(self, channel: ReplyChannel, method: str, params: Json, served: Served) -> tuple[Bytes, ...]:
        """Answer a request about a task; `tasks/result` when the task has ended."""
        session = channel.session
        if not self.has_tasks(session.version):
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)
        if method == "tasks/list":

            async def now(task_id: str) -> Json:
                return self._held_task(session, task_id) or await self._asked_task(channel, task_id, served).get()

            return (orjson.dumps(await listed(session.task_talks, params.get("cursor"), now)),)
        task_id = params.get("taskId")
        if not isinstance(task_id, str):
            raise MCPError(code=INVALID_PARAMS, message="taskId: a string is required")
        held = self._held.find(task_id, session.id, clock.now_s())
        if held is not None:
            if method == "tasks/cancel":
                raise MCPError(code=INVALID_PARAMS, message="The task has ended, and cannot be cancelled")
            return (held.result if method == "tasks/result" else orjson.dumps(held.task),)
        task = self._asked_task(channel, task_id, served)
        match method:
            case "tasks/get":
                return (orjson.dumps(await task.get()),)
            case "tasks/cancel":
                return (orjson.dumps(await task.cancel()),)
            case _:
                forwarded = await task.result()
                route = self._list_index.route("tasks/get", {"taskId": task_id, "_meta": TAKES_TASKS})
                assert route is not None, "it has just answered"
                return written("tools/call", route, forwarded, modern=False)

    def _held_task(self, session: ServerSession, task_id: str) -> Json | None:
        held = self._held.find(task_id, session.id, clock.now_s())
        return None if held is None else held.task

    def _asked_task(self, channel: ReplyChannel, task_id: str, served: Served) -> AskedTask:
        """One request about a task of a server."""
        session = channel.session

        async def send(task_method: str, task_params: Json) -> Forwarded:
            route = self._list_index.route(task_method, task_params)
            assert route is not None, "a task is never our own"
            return await forward(
                self._dispatch,
                task_method,
                route,
                task_params,
                channel.notify,
                list_index=self._list_index,
                served=served,
            )

        return AskedTask(task_id, send, AskedClient(session.declared_to_servers, channel.ask), session.task_talks)

    async def _subscribe(self, session: ServerSession, uri: str) -> None:
        if session.subscriber is None:
            session.subscriber = self._subscriber(session.updated, client=self._upstream.client_of(session))
        try:
            refusals = await session.subscriber.add([uri])
        except RpcError as exc:
            raise MCPError(code=exc.code, message=exc.message, data=exc.data) from exc
        if (refusal := refusals.get(uri)) is not None:
            raise MCPError(code=refusal.code, message=refusal.message, data=refusal.data)
        await self._upstream.subscribe(session, self._resource_route(session, uri), uri)

    def _resource_route(self, session: ServerSession, uri: str) -> Route | None:
        return self._views.index_of({}, session.id).present("resources/read", {"uri": uri})

    async def _forwarded(
        self,
        channel: ReplyChannel,
        method: str,
        route: Route,
        params: Json,
        served: Served,
        *,
        index: ListIndex,
        as_task: bool,
        started: StartedCall | None,
    ) -> Forwarded:
        """Forward a request, in rounds while there are server requests. A result that may be a task is not streamed."""
        session = channel.session
        now: Route | None = route
        begun = started

        async def send(asked: Json) -> Forwarded:
            # In later rounds looked up anew, because a user may think for minutes. When the name is gone, the route
            # from before is used, and dispatch raises the error.
            nonlocal now, begun
            now, present = None, now or index.present(method, asked) or route
            begun, gone_out = None, begun
            try:
                return await forward(
                    self._dispatch,
                    method,
                    present,
                    asked,
                    channel.notify,
                    list_index=index,
                    served=served,
                    session_id=session.id,
                    sink=None if as_task or hides_structure(route.definition) else channel.sink,
                    started=gone_out,
                )
            finally:
                if served.backend is not None:
                    self._upstream.follow(session, session.called(served.backend, present.owner))

        declared = session.declared_to_servers
        asked = AskedClient(with_extension(declared) if as_task else declared, channel.ask)
        return await in_rounds(send, with_log_level(params, session.log_level), asked)


def outliving(sink: ResultStream) -> ResultStream:
    """The sink of a call that outlives its connection: parts after the client has gone are dropped."""
    lost = False

    async def kept(step: Awaitable[object]) -> None:
        nonlocal lost
        try:
            await step
        except ConnectionError:
            lost = True

    async def begin() -> bool:
        await kept(sink.begin())
        return True

    async def part(part: Bytes) -> None:
        if not lost:
            await kept(sink.part(part))

    async def end() -> None:
        if not lost:
            await kept(sink.end())

    return ResultStream(begin, part, end, sink.added)


def _uri(params: Json) -> str:
    uri = params.get("uri")
    if not isinstance(uri, str):
        raise MCPError(code=INVALID_PARAMS, message="uri: a string is required")
    return uri


def with_log_level(params: Json, level: str | None) -> Json:
    """Add a session's log level to a request, as 2026-07-28 has it; a level of the request itself wins.

    None: the client has set none, which leaves it to the server (MCP 2025-11-25, logging).
    """
    level = level or UNSET_LOG_LEVEL
    return {**params, "_meta": {LOG_LEVEL_META_KEY: level, **(params.get("_meta") or {})}}
