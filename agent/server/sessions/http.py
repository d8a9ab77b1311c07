"""The HTTP side of sessions: what clients from before 2026-07-28 send to an endpoint, and how it is answered.

The endpoint passes every request here that names no version, or one of that era. POST carries one message, or in a
session of 2025-03-26 a batch; GET opens the standing stream, or takes up that of a call; DELETE ends the session. The
one rule: a dropped connection cancels nothing; a client cancels with `notifications/cancelled`, or ends its session.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import orjson
from aiohttp import web

from agent.authority.caller import Caller
from agent.dispatch.call import Forwarded
from agent.errors import AnswerCut, MCPError
from agent.harmless_text import one_line
from agent.lossless_json.exact import read_json
from agent.lossless_json.raw import Bytes
from agent.lossless_json.unread import Unread
from agent.mcp_terms import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from agent.model import Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from agent.server.fast_path.connection import Connection, FastRequest, Handler
from agent.server.fast_path.heads import Beginning
from agent.server.lists import LISTS
from agent.server.preferences import Preferences
from agent.server.request import accepts_events, body_at_hand, read_body, refuse, speaks_json
from agent.server.response import Answer, SlowAnswers, error_message
from agent.server.sessions.batch import BATCH_LEN_MAX, BatchedCall, Refusal, answer_batch, result_message
from agent.server.sessions.batch import VERSION as BATCH_VERSION
from agent.server.sessions.client_events import SessionNotifications
from agent.server.sessions.requests import ROUTED, ReplyChannel, SessionRequests, outliving
from agent.server.sessions.resumption import LAST_EVENT_HEADER, CallStream, NamedCall, begins_with, lost, named_call
from agent.server.sessions.session import Outcome, RunningCall, ServerSession
from agent.server.sessions.started import SessionStarts, StartedInSession
from agent.server.sessions.table import NoRoom, Sessions
from agent.server.sessions.tasks import CAPABILITY as TASKS_CAPABILITY
from agent.server.started import METHOD, StartedCalls, StartedRequest
from agent.server.validation import is_initialize

log = logging.getLogger(__name__)

SESSION_HEADER: Final = "Mcp-Session-Id"
VERSION_HEADER: Final = "MCP-Protocol-Version"
_SESSION_KEY, _VERSION_KEY = SESSION_HEADER.lower(), VERSION_HEADER.lower()
# A client may send icons of itself along, which are not kept.
INITIALIZE_BYTES_MAX: Final = 64 << 10
# A client's capabilities are kept as long as its session; the largest honest ones are a few hundred bytes.
DECLARED_BYTES_MAX: Final = 8 << 10
_RETRY_AFTER_S: Final = 30
_OBJECT_IF_ANY: Final = (dict, type(None))
# Why a call has no answer.
_BROKE: Final = "The connection of this call broke, and its answer is lost"
_STOPPED: Final = "The node of this call stopped before its server had answered"


class _Refused(Exception):
    """The request is no message of a session of ours: an HTTP status, and a JSON-RPC error that names no ID."""

    def __init__(self, status: int, message: str, code: int = INVALID_REQUEST, **headers: str) -> None:
        super().__init__(message)
        self.response = refuse(status, message, code, headers=headers)


def is_legacy(request: web.Request) -> bool:
    """Whether a request belongs to this era: by its version header alone, as in the SDK."""
    version = request.headers.get(VERSION_HEADER)
    return version is None or version in HANDSHAKE_PROTOCOL_VERSIONS


class SessionServer:
    """The handler of one endpoint. `initialize_result` gives the present result of `initialize` but for its version.

    Long because each method and each refusal of the transport is a branch of the one handler.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        requests: SessionRequests,
        starts: SessionStarts,
        changes: SessionNotifications,
        initialize_result: Callable[[], Json],
    ) -> None:
        self._sessions = sessions
        self._changes = changes
        self._slow = SlowAnswers(sessions.start_task)
        self.started_calls = StartedCalls()
        self._requests, self._starts = requests, starts
        self._initialize_result = initialize_result

    async def handle(self, request: web.Request, preferences: Preferences) -> web.StreamResponse:
        """Serve one HTTP request."""
        if not self._sessions.is_open:
            return refuse(503, "This node is starting or shutting down; try again")
        try:
            match request.method:
                case "POST":
                    return await self._post(request, preferences)
                case "GET":
                    return await self._listen(request, preferences)
                case "DELETE":
                    await self._sessions.end_by_client(self._session(request, preferences))
                    return _nothing(200)
                case _:
                    allowed = {"Allow": "GET, POST, DELETE"}
                    return refuse(405, "This endpoint knows GET, POST and DELETE", headers=allowed)
        except _Refused as exc:
            return exc.response
        except NoRoom:
            return refuse(503, "All sessions are in use", INTERNAL_ERROR, headers={"Retry-After": str(_RETRY_AFTER_S)})

    def start(
        self, connection: Connection, beginning: Beginning, body: bytes, caller: Caller, *, preferences: Preferences
    ) -> StartedRequest | None:
        """Serve a call without a task, if it may go as most do: `agent.server.fast_path.connection.Start`."""
        by_name, binding = beginning.head.by_name, caller.grant.binding
        session = self._sessions.present(by_name.get(_SESSION_KEY, ""), binding, notices=preferences.notices)
        if (
            session is None
            or not self._sessions.is_open
            or by_name.get(_VERSION_KEY, session.version) != session.version
        ):
            return None
        message = _call_in(body)
        if message is None or session.is_taken(message["id"]):
            return None
        return self._starts.start(
            session, self, connection, beginning, body, caller=caller, message=message, preferences=preferences
        )

    def go_on(self, request: FastRequest, started: StartedRequest) -> Handler:
        """As `StartsCalls.go_on`: the call has a task at once, so that it can be cancelled by its ID."""
        assert isinstance(started, StartedInSession), "it was started here"
        session, request_id, preferences = started.session, started.request_id, started.preferences
        session.unwaited.pop(request_id, None)
        answer = Answer(request, request_id, beginning=partial(begins_with, session.version, request_id, METHOD))
        stream = CallStream(answer)
        channel = ReplyChannel(session, stream.tell, outliving(stream.sink()), request_id)
        work = self._ended_as(partial(self._requests.go_on, channel, started))
        task = self._sessions.start_task(work, f"session's {METHOD}")
        call = session.add_call(request_id, task, stream)

        async def wait_for_it(_request: web.Request) -> web.StreamResponse:
            return await self._waited_for(answer, call, METHOD, preferences)

        return wait_for_it

    def written(self, started: StartedRequest, forwarded: Forwarded) -> tuple[Bytes, ...]:
        """As `StartsCalls.written`."""
        assert isinstance(started, StartedInSession), "it was started here"
        started.session.unwaited.pop(started.request_id, None)
        return self._starts.ended(started, forwarded)

    async def _listen(self, request: web.Request, preferences: Preferences) -> web.StreamResponse:
        session = self._session(request, preferences)
        if not accepts_events(request):
            raise _Refused(406, "Accept: text/event-stream is needed")
        if (named := named_call(request.headers.get(LAST_EVENT_HEADER))) is not None:
            return await self._take_up(request, session, named, preferences)
        return await self._sessions.stream(session, request)

    async def _take_up(
        self, request: web.Request, session: ServerSession, named: NamedCall, preferences: Preferences
    ) -> web.StreamResponse:
        """Answer a call whose connection broke: with what follows where it is under way, or that its answer is lost."""
        beginning = partial(begins_with, session.version, named.request_id, named.method)
        answer = Answer(request, named.request_id, beginning=beginning)
        call = session.open_call(named.request_id)
        goes_on = call is not None and call.stream is not None and call.stream.moves_to(answer)
        log.info("MCP call taken up again", extra={"method": one_line(named.method, 64), "goes_on": goes_on})
        await answer.ping()  # The client expects a stream.
        if call is None or not goes_on:
            return await _ended(answer, _preferred(named.method, lost(_BROKE), preferences))
        return await self._waited_for(answer, call, named.method, preferences)

    async def _post(self, request: web.Request, preferences: Preferences) -> web.StreamResponse:
        is_of_session = SESSION_HEADER in request.headers
        session = self._session(request, preferences) if is_of_session else None  # Refuses before the body is read.
        _check_media(request)
        has_batches = session is not None and session.version == BATCH_VERSION
        body = body_at_hand(request) or await read_body(request, batch_len_max=BATCH_LEN_MAX if has_batches else 0)
        if isinstance(body, web.Response):
            return body
        # Once more, as a session may end while a body comes, and nothing may be done in one that has ended.
        if is_of_session and not isinstance(request, FastRequest):
            session = self._session(request, preferences)
        read = _read(body)
        if isinstance(read, list) and session is not None and session.version == BATCH_VERSION:
            return await self._batch(request, session, read, preferences)
        message = _checked(read)
        method, params = message.get("method"), message.get("params") or {}
        if method == "initialize" and "id" in message:
            if session is not None:
                raise _Refused(400, f"The session is initialized; leave out {SESSION_HEADER} to begin another one")
            if not isinstance(body, bytes) or len(body) > INITIALIZE_BYTES_MAX:  # A message is of a large one.
                raise _Refused(413, f"initialize has more than {INITIALIZE_BYTES_MAX} bytes")
            return await self._initialize(request, message["id"], params, preferences)
        if session is None:
            session = self._session(request, preferences)  # Refuses: there is none.
        if method is None:
            session.take_answer(message)
        elif "id" in message:
            return await self._answer(request, session, message["id"], method, params, preferences=preferences)
        else:
            self._take_note(session, method, params)
        return _nothing(202)

    def _take_note(self, session: ServerSession, method: str, params: Json) -> None:
        match method:
            case "notifications/cancelled":
                session.cancel_call(params.get("requestId"))
            case "notifications/roots/list_changed":
                self._changes.roots_changed(session, self._sessions.start_task)

    def _session(self, request: web.Request, preferences: Preferences) -> ServerSession:
        session_id = request.headers.get(SESSION_HEADER)
        if session_id is None:
            raise _Refused(400, f"{SESSION_HEADER} is missing; a session begins with initialize")
        session = self._sessions.find(session_id, notices=preferences.notices)
        if session is None:
            raise _Refused(404, "Session not found: it has ended, or belongs to another endpoint. Initialize a new one")
        version = request.headers.get(VERSION_HEADER, session.version)
        if version != session.version:
            raise _Refused(400, f"{VERSION_HEADER} is {version}, but the session was opened with {session.version}")
        return session

    async def _initialize(
        self, request: web.Request, request_id: str | int, params: Json, preferences: Preferences
    ) -> web.StreamResponse:
        answer = Answer(request, request_id, at_once=False)
        try:
            is_valid = await is_initialize(params)
            declared = orjson.dumps(preferences.declared(params["capabilities"])) if is_valid else None
        except orjson.JSONEncodeError:  # Nested too deeply to be passed to any server.
            declared = None
        if declared is None:
            return await answer.error(MCPError(code=INVALID_PARAMS, message="Invalid request parameters"), 200)
        if len(declared) > DECLARED_BYTES_MAX:
            raise _Refused(413, f"capabilities have more than {DECLARED_BYTES_MAX} bytes")
        wanted = params["protocolVersion"]
        version = wanted if wanted in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION
        opened = self._sessions.open(version, declared)
        opened.notices = preferences.notices
        log.info(
            "MCP session opened", extra={"version": version, "client_name": str(params["clientInfo"]["name"])[:64]}
        )
        initialize_result = {**preferences.promised(self._initialize_result()), "protocolVersion": version}
        if self._requests.has_tasks(version):
            initialize_result["capabilities"] = {**initialize_result["capabilities"], "tasks": TASKS_CAPABILITY}
        response = await answer.result(orjson.dumps(initialize_result))
        response.headers[SESSION_HEADER] = opened.id
        return response

    async def _answer(
        self,
        request: web.Request,
        session: ServerSession,
        request_id: str | int,
        method: str,
        params: Json,
        *,
        preferences: Preferences,
    ) -> web.StreamResponse:
        answer = Answer(request, request_id, beginning=partial(begins_with, session.version, request_id, method))
        try:
            if method not in ROUTED:
                if method in LISTS:
                    await self._requests.fresh_lists(session)
                query, headers = request.query, request.headers
                return await answer.result(
                    self._requests.at_once(session, method, params, query, headers, request_id=request_id)
                )
            session.check_call(request_id)
        except MCPError as exc:
            return await answer.error(exc, 200)
        stream = CallStream(answer)
        channel = ReplyChannel(session, stream.tell, outliving(stream.sink()), request_id)
        call = self._begun(channel, request_id, method, params, stream)
        return await self._waited_for(answer, call, method, preferences)

    async def _waited_for(
        self, answer: Answer, call: RunningCall, method: str, preferences: Preferences
    ) -> web.StreamResponse:
        """Answer a call when it ends, on the connection of `answer`, unless its client takes it up on another one."""
        try:
            with self._slow.kept_alive(answer.ping):
                await call.ended.wait()
        except asyncio.CancelledError:
            answer.client_gone()
            raise
        if call.stream is not None and call.stream.answer is not answer:
            return await answer.nothing()
        return await _ended(answer, _preferred(method, _outcome(call, answer), preferences))

    async def _batch(
        self, request: web.Request, session: ServerSession, batch: list[Any], preferences: Preferences
    ) -> web.StreamResponse:
        if not 0 < len(batch) <= BATCH_LEN_MAX:
            raise _Refused(413 if batch else 400, f"A batch has 1 to {BATCH_LEN_MAX} messages")
        answer = Answer(request, None)
        members = [self._taken(request, session, answer, member) for member in batch]
        return await answer_batch(members, answer, self._slow, preferences)

    def _taken(
        self, request: web.Request, session: ServerSession, answer: Answer, member: Any
    ) -> BatchedCall | bytes | Refusal | None:
        """Let a member of a batch take effect. A request that is no call is answered at once."""
        try:
            message = _checked(member)
        except _Refused as exc:
            return Refusal(str(exc))
        method, params = message.get("method"), message.get("params") or {}
        if method is None:
            session.take_answer(message)
            return None
        if "id" not in message:
            self._take_note(session, method, params)
            return None
        if method == "initialize":
            return Refusal("initialize may not be part of a batch", message["id"])
        try:
            if method in ROUTED:
                session.check_call(message["id"])
                channel = ReplyChannel(session, answer.tell, None, message["id"])
                return BatchedCall(message, self._begun(channel, message["id"], method, params).task)
            query, headers = request.query, request.headers
            result = self._requests.at_once(session, method, params, query, headers, request_id=message["id"])
            return result_message(message["id"], result)
        except MCPError as exc:
            return error_message(orjson.dumps(message["id"]), exc)

    def _begun(
        self,
        channel: ReplyChannel,
        request_id: str | int,
        method: str,
        params: Json,
        stream: CallStream | None = None,
    ) -> RunningCall:
        work = self._ended_as(partial(self._requests.routed, channel, method, params))
        task = self._sessions.start_task(work, f"session's {method}")
        return channel.session.add_call(request_id, task, stream)

    async def _ended_as(self, call: Callable[[], Coroutine[Any, Any, tuple[Bytes, ...]]]) -> Outcome:
        """How a call ends, which is served in a task of its own and outlives the HTTP request."""
        try:
            return await call()
        except (MCPError, AnswerCut) as exc:
            return exc
        except Exception:  # one request's failure must not take the group, and so the node, down
            log.exception("MCP request failed")
            return MCPError(code=INTERNAL_ERROR, message="Something went wrong in this node; its log says what")


def _outcome(call: RunningCall, answer: Answer) -> Outcome | None:
    """How a call has ended; None: its client has cancelled it, or can only be shown a broken connection."""
    if not call.task.cancelled():
        return call.task.result()
    return lost(_STOPPED) if call.stream is not None and call.stream.is_lost and answer.begun is None else None


def _preferred(method: str, outcome: Outcome | None, preferences: Preferences) -> Outcome | None:
    """An outcome as its client wants to read it."""
    if not isinstance(outcome, MCPError) or (result := preferences.as_result(method, outcome)) is None:
        return outcome
    return (orjson.dumps(result),)


async def _ended(answer: Answer, outcome: Outcome | None) -> web.StreamResponse:
    """End the answer to a call; None: its client has cancelled it."""
    if isinstance(outcome, AnswerCut):
        log.warning("MCP answer broke off", extra={"reason": str(outcome)})
        await answer.cut()
    if isinstance(outcome, MCPError):
        return await answer.error(outcome, 200)
    if outcome is None:
        return await answer.nothing() if answer.begun is None else await answer.cut()
    return await answer.result(*outcome) if answer.begun is None else answer.begun


def _check_media(request: web.Request) -> None:
    if speaks_json(request):
        return
    if request.content_type != "application/json":
        raise _Refused(415, "Content-Type: application/json is needed")
    raise _Refused(406, "Accept: application/json, text/event-stream is needed")


def _call_in(body: bytes) -> Json | None:
    """The message of a call with an ID; None for any other, and for what has to be refused."""
    try:
        message = read_json(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or message.get("method") != METHOD:
        return None
    is_call = type(message.get("id")) in (str, int) and isinstance(message.get("params"), _OBJECT_IF_ANY)
    return message if is_call else None


def _nothing(status: int) -> web.Response:
    return web.Response(status=status, content_type="application/json")


def _read(body: bytes | Json | list[Any]) -> Any:
    """A body as JSON, if it is not yet read. Raises `_Refused`."""
    try:
        return read_json(body) if isinstance(body, bytes) else body
    except orjson.JSONDecodeError as exc:
        raise _Refused(400, f"Parse error: {exc}", PARSE_ERROR) from exc


def _checked(message: Any) -> Json:
    """One JSON-RPC message. Raises `_Refused` for everything else; batches belong to 2025-03-26 alone."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise _Refused(400, "The body must be one JSON-RPC 2.0 message")
    if "method" in message:
        has_id = "id" not in message or type(message["id"]) in (str, int)
        has_params = isinstance(message.get("params"), _OBJECT_IF_ANY)
        if not (has_id and has_params and isinstance(message["method"], str)):
            raise _Refused(
                400, "A request has a text as method, an object as params, and a text or a whole number as id"
            )
    elif not isinstance(message.get("result"), dict | Unread) and not isinstance(message.get("error"), dict):
        raise _Refused(400, "A message has a method, a result or an error")
    return message
