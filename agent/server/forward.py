"""Forwards one routed request and fits the outcome to the client: result shape, errors, the line in the log.

Called by the servers of both eras. The one rule: every failure says whether the request may have been executed, and
a backend's own result or error passes unchanged, its bytes too where nothing has to be added or renamed.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from agent.authority.caller import Caller, caller
from agent.client.capabilities import undeclared_features
from agent.client.legacy_notifications import LOG_MESSAGE, asked_level, is_wanted
from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.call import Forwarded
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.next_hop import asked_uri, is_asked_by_node, is_for_nodes, own_error, says_no_more, servers_word
from agent.dispatch.request_state import StateRefused, asks
from agent.dispatch.started_call import StartedCall
from agent.errors import (
    FORBIDDEN,
    NOT_EXECUTED,
    OUTCOME_UNKNOWN,
    CallRefused,
    CallUnanswered,
    MCPError,
    NoLongerOffered,
    RpcError,
    TooManyCalls,
)
from agent.lossless_json.exact import is_deeper_than
from agent.lossless_json.raw import Bytes, exact
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY
from agent.model import AFFINITY_META_KEY, NODE_CLIENT_NAME, POLL_META_KEY, PROBE_META_KEY, Json
from agent.routing.table import Route, RouteKind
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY
from agent.server.apps import is_for_models, page_of, with_page
from agent.server.fleet_calls import FleetCall
from agent.server.lists import ListIndex, is_by_own_name, unknown
from agent.server.written_results import ANSWER_NESTING_MAX
from agent.tasks.ids import TASK_METHODS
from agent.traffic_log import request_line

# A client may send a name of any length; the log keeps its beginning.
NAME_LEN_LOGGED: Final = 128
# Up to here, looking for a word costs less than walking through what was read.
_SCANNED_BYTES_MAX: Final = 4096
REQUEST_ID_LEN_LOGGED: Final = 64
_TRACE_KEY: Final = "traceparent"
_TRACE_PARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.{0,64}")
_DISCOVER: Final = "server/discover"
# What counts towards the limits of a token, and what the record of calls has: all that servers have to work for.
CALLS: Final = TASK_METHODS | {
    "tools/call",
    "prompts/get",
    "resources/read",
    "resources/subscribe",
    "completion/complete",
    "tasks/result",
    "tasks/list",
}


@dataclass(slots=True)
class Served:
    """The backend that served a request, and the outcome, for its line in the log.

    `backend`: the last one tried, None when there was none. `tool_error`: the result has `isError`. `reason`: what
    went wrong, for operators. `public_name`: what the mesh calls it, where the client used its server's own name.
    `by_search`: a model calls a tool in search mode, where no list has told its client of the tool's page.
    `was_delivered`: a large result went out whole before its reader left. `trace`: where it is recorded.
    """

    backend: str | None = "own"
    tool_error: bool = False
    reason: str = ""
    public_name: str | None = None
    by_search: bool = False
    was_delivered: bool = False
    trace: str | None = None

    def delivered(self, is_error: bool) -> None:
        """Note that the caller had the whole result when it left."""
        self.was_delivered, self.tool_error = True, is_error

    def asked(self, backend: str) -> None:
        """Note the backend of an attempt."""
        self.backend = backend

    def traced(self, trace: str) -> None:
        """Note the trace that its attempts are recorded in, which its client may not have begun."""
        self.trace = trace


async def forward(
    dispatch: Dispatch,
    method: str,
    route: Route,
    params: Json,
    on_notification: OnNotification,
    *,
    list_index: ListIndex,
    served: Served,
    session_id: str | None = None,
    sink: ResultStream | None = None,
    param_headers: Mapping[str, str] | None = None,
    present: Callable[[], Route | None] | None = None,
    started: StartedCall | None = None,
) -> Forwarded:
    """Send a request to one of the route's replicas. Raises `MCPError` for everything that is no result.

    `list_index`: the source of the route, which is looked up again before a call that was not executed is given up.
    A large result may go to `sink` while it comes; `AnswerCut` then means that it will never be complete. `present`:
    looks up the route of one node of a fleet. `started`: the call has gone out, and is gone on with.
    """
    if served.by_search and not is_for_models(route.definition):
        raise unknown("tool", params["name"], params)
    if route.fleet is not None and present is None:
        send = partial(forward, dispatch, method, on_notification=on_notification, list_index=list_index, served=served)
        call = FleetCall(method, route, params, on_notification, dispatch.call_timeout_s)
        alone = partial(send, session_id=session_id, sink=sink, param_headers=param_headers)
        return await call.answered(alone, partial(send, served=Served()), partial(list_index.present, method, params))
    names_page = served.by_search and page_of(route.definition) is not None
    served.backend = None
    if is_by_own_name(method, params, route):
        served.public_name = route.public_name
    try:
        begun = partial(dispatch.forward, method, route, params, session_id=session_id, param_headers=param_headers)
        send = partial(begun, present=present or partial(list_index.present, method, params))
        forwarded = await (send if started is None else partial(dispatch.go_on, started))(
            on_notification=_passing_on(on_notification, params),
            on_attempt=served.asked,
            on_delivered=served.delivered,
            on_trace=served.traced,
            sink=None if names_page else sink,
        )
    except RpcError as exc:
        raise _servers_error(exc, method, route, params) from exc
    except StateRefused as exc:
        raise MCPError(code=INVALID_PARAMS, message=str(exc), data={"reason": "invalid_request_state"}) from exc
    except (NoLongerOffered, CallRefused, CallUnanswered) as exc:
        served.reason = str(exc.__cause__ or exc)
        raise _own_refusal(exc, route, params) from exc
    result = forwarded.result
    served.tool_error = result.get("isError") is True
    if method == "tools/call" and not names_page and says_no_more(method, result) and not may_name_uris(forwarded.raw):
        return forwarded
    if asks(result):
        _refuse_undeclared(result, params, route)
    if list_index.task_seal is not None:
        forwarded = list_index.task_seal.with_shown(forwarded)
    named = _named_for_clients(method, route, forwarded, params)
    return Forwarded(with_page(route, named.result), named.replica) if names_page else named


def with_own_affinity(params: Json) -> Json:
    """Params whose key of affinity, if any, is the caller's alone: another token that knows it means another one.

    Nodes, those of other meshes too, name their clients by it.
    """
    meta = params.get("_meta")
    if not isinstance(meta, dict) or AFFINITY_META_KEY not in meta:
        return params
    grant = caller().grant
    if grant.is_of_node or not isinstance(meta[AFFINITY_META_KEY], str):
        return params
    key = f"{grant.realm}\0{meta[AFFINITY_META_KEY]}".encode("utf-8", "surrogatepass")
    own = f"token:{hashlib.blake2b(key, digest_size=16).hexdigest()}"
    return {**params, "_meta": {**meta, AFFINITY_META_KEY: own}}


def _servers_error(failure: RpcError, method: str, route: Route, params: Json) -> MCPError:
    """The server's own error, as its client may read it."""
    said = servers_word(failure.data)
    data = _named_as_asked(said, route, params) if method == "resources/read" else said
    if is_deeper_than(data, ANSWER_NESTING_MAX):
        data = {"outcome": "unknown"}
    return MCPError(code=failure.code, message=failure.message, data=data)


def _passing_on(on_notification: OnNotification, params: Json) -> OnNotification:
    async def pass_on(method: str, note: Json) -> None:
        # One that cannot be serialized must not cost the call its result.
        if _concerns_caller(method, note, params) and not is_deeper_than(note, ANSWER_NESTING_MAX):
            await on_notification(method, note)

    return pass_on


def _concerns_caller(method: str, note: Json, params: Json) -> bool:
    """Whether a notification is passed to the caller of a request with these `params`."""
    if method == LOG_MESSAGE:
        return is_wanted(note, asked_level(params))
    return is_asked_by_node(params) or not is_for_nodes(note)


def _unknown_outcome(exc: CallUnanswered) -> Json:
    wait: Json = {} if exc.retry_after_s is None else {"retry_after_s": exc.retry_after_s}
    return {
        "outcome": "unknown",
        "timed_out": exc.timed_out,
        "replica": exc.backend,
        "bytes_sent": exc.bytes_sent,
        **wait,
    }


def _own_refusal(failure: NoLongerOffered | CallRefused | CallUnanswered, route: Route, params: Json) -> MCPError:
    """Our own error for a request without an answer."""
    match failure:
        case NoLongerOffered():
            kind = str(route.kind) if route.kind in (RouteKind.TOOL, RouteKind.PROMPT) else "resource"
            return unknown(kind, route.public_name, params)
        case CallRefused():
            data: Json = {"outcome": "not_executed", "replica": failure.backend, "bytes_sent": failure.bytes_sent}
            return MCPError(code=NOT_EXECUTED, message=str(failure), data=own_error(params, data))
        case CallUnanswered():
            data = _unknown_outcome(failure)
            code = INTERNAL_ERROR if failure.broken else OUTCOME_UNKNOWN
            return MCPError(code=code, message=f"{route.public_name}: {failure}", data=own_error(params, data))


def _refuse_undeclared(result: Json, params: Json, route: Route) -> None:
    """A server may send only requests that its client declared (MCP 2026-07-28, multi-round-trip requests).

    To the client we are the server, so the error names the capabilities that it would have to declare.
    """
    capabilities = (params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY)
    if needed := undeclared_features(capabilities, result.get("inputRequests")):
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message=f"{route.public_name} asks for what the client did not declare: {', '.join(sorted(needed))}",
            data={"requiredCapabilities": needed},
        )


def may_name_uris(raw: Bytes | None) -> bool:
    """Whether a result may have a member for a URI: by its bytes, which most have not, as all those names end alike."""
    if raw is None or len(raw) > _SCANNED_BYTES_MAX:
        return True
    text = bytes(raw)
    return b'ri"' in text or b"\\" in text


def _named_for_clients(method: str, route: Route, forwarded: Forwarded, params: Json) -> Forwarded:
    """The same with the public URIs of resources, and the requested URI as the client wrote it."""
    codec, replica = route.uris(forwarded.replica), forwarded.replica
    asked = asked_uri(method, params, replica)
    if codec.result(method, forwarded.result, asked) is forwarded.result:
        return forwarded
    # Serialized anew, so its numbers have to be exact; most results never get here.
    return Forwarded(codec.result(method, exact(forwarded.result), asked), replica)


class logged:  # noqa: N801 - read as the verb that it is: `with logged(method, params)`
    """Let a request of the present caller begin, and write one line about it when it is over.

    Raises `TooManyCalls` at its beginning. Not a generator: every call passes here. `of`: another caller; `began_s`:
    on the monotonic clock, of a request that has begun already.
    """

    __slots__ = ("_allowance", "_caller", "_method", "_params", "_request_id", "_served", "_started_s")

    def __init__(
        self,
        method: str,
        params: Json,
        request_id: str | float | None = None,
        *,
        of: Caller | None = None,
        began_s: float | None = None,
    ) -> None:
        self._method, self._params, self._request_id = method, params, request_id
        self._served = Served()
        self._caller = caller() if of is None else of
        self._allowance = self._caller.allowance if method in CALLS else None
        self._started_s = began_s

    def __enter__(self) -> Served:
        if self._started_s is not None:
            return self._served
        self._started_s = time.monotonic()
        if self._allowance is not None and (wait_s := self._allowance.begin(self._started_s)) > 0:
            self._recorder(failure := too_many(self._caller, wait_s))
            raise failure
        return self._served

    def __exit__(self, _kind: object, failure: BaseException | None, _trace: object) -> None:
        assert self._started_s is not None, "it has begun"
        if self._allowance is not None:
            self._allowance.end()
        if self._caller.recorder.records_calls or isinstance(failure, MCPError):
            self._recorder(failure)
        served, name = self._served, self._params.get("name") or self._params.get("uri")
        fields: dict[str, str | float | None] = {
            "method": self._method,
            "mcp_name": name[:NAME_LEN_LOGGED] if isinstance(name, str) else None,
        }
        if served.public_name is not None:
            fields["public_name"] = served.public_name[:NAME_LEN_LOGGED]
        fields["caller"] = self._caller.grant.name
        if self._request_id is not None:
            fields["request_id"] = given if type(given := self._request_id) is int else _short(given)
        if (trace := _trace_of(self._params) or served.trace) is not None:
            fields["trace"] = trace
        fields["backend"] = served.backend
        fields["outcome"] = "ok" if failure is None and not served.tool_error else _outcome(served, failure)
        if served.reason:
            fields["reason"] = served.reason
        fields["ms"] = round((time.monotonic() - self._started_s) * 1000, 2)
        quiet = failure is None and self._is_quiet()
        request_line(logging.DEBUG if quiet else logging.INFO, fields)

    def _is_quiet(self) -> bool:
        """Whether it says nothing about what clients do: another node looks, reads lists or follows them."""
        if self._method in CALLS and "requestState" not in self._params:
            return False
        is_housekeeping = self._method not in CALLS and self._caller.grant.is_another_node
        return is_housekeeping or _only_polls(self._method, self._params)

    def _recorder(self, failure: BaseException | None) -> None:
        """Have calls and refusals recorded: names and outcomes, never arguments."""
        recorder, who = self._caller.recorder, self._caller.grant.name
        name = self._served.public_name or self._params.get("name") or self._params.get("uri")
        shown = name[:NAME_LEN_LOGGED] if isinstance(name, str) else ""
        if isinstance(failure, TooManyCalls) or (isinstance(failure, MCPError) and failure.code == FORBIDDEN):
            recorder.refusal(who, f"{self._method} {shown}", failure.message)
        elif recorder.records_calls and self._method in CALLS:
            recorder.call(who, self._method, shown, _outcome(self._served, failure))


def _short(request_id: str | float) -> str | float:
    return request_id[:REQUEST_ID_LEN_LOGGED] if isinstance(request_id, str) else request_id


def _trace_of(params: Json) -> str | None:
    """The trace that a request belongs to, if its client says so (W3C Trace Context, section 3.2, in `_meta`)."""
    meta = params.get("_meta")
    parent = meta.get(_TRACE_KEY) if isinstance(meta, dict) else None
    found = _TRACE_PARENT.fullmatch(parent) if isinstance(parent, str) else None
    return None if found is None else found[1]


def too_many(who: Caller, wait_s: float) -> TooManyCalls:
    """The error of a caller whose allowance is spent."""
    grant = who.grant
    limits = [] if grant.calls_per_s is None else [f"{grant.calls_per_s:g} calls a second"]
    limits += [] if grant.concurrent_calls is None else [f"{grant.concurrent_calls} at once"]
    return TooManyCalls(f"Token {grant.name!r} may make {' and '.join(limits)}; try again in {wait_s:.1f} s", wait_s)


def _outcome(served: Served, failure: BaseException | None) -> str:
    match failure:
        case asyncio.CancelledError() if not served.was_delivered:
            return "ended by the client"  # Also how a stream of list changes ends.
        case None | asyncio.CancelledError():
            return "tool_error" if served.tool_error else "ok"
        case MCPError():
            return f"error {failure.code}"
        case _:
            return "failed"


def _only_polls(method: str, params: Json) -> bool:
    """Whether a node looks for another, for a sign of life, or whether server requests are still open."""
    if method != _DISCOVER and "requestState" not in params:
        return False
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return False
    if method != _DISCOVER:
        return meta.get(POLL_META_KEY) is True
    client = meta.get(CLIENT_INFO_META_KEY)
    return meta.get(PROBE_META_KEY) is True or (isinstance(client, dict) and client.get("name") == NODE_CLIENT_NAME)


def _named_as_asked(data: object, route: Route, params: Json) -> object:
    """An error about a resource contains its URI (MCP 2026-07-28, resources): the client's, not the backend's."""
    if isinstance(data, dict) and data.get("uri") in [replica.remote_name for replica in route.replicas]:
        return {**data, "uri": params["uri"]}
    return data
