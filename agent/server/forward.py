"""Forwards one routed request and fits the outcome to the client: result shape, errors, the line in the log.

Called by the servers of both eras. The one rule: every failure says whether the request may have been executed, and
a backend's own result or error passes unchanged, its bytes too where nothing has to be added or renamed.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from agent.authority.caller import caller
from agent.client.capabilities import undeclared_features
from agent.client.legacy_notifications import LOG_MESSAGE, asked_level, is_wanted
from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.call import Forwarded
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.next_hop import asked_uri, is_asked_by_node, is_for_nodes, own_error, says_no_more, servers_word
from agent.dispatch.param_headers import looked_into
from agent.dispatch.request_state import StateRefused, asks
from agent.dispatch.started_call import StartedCall
from agent.errors import (
    NOT_EXECUTED,
    OUTCOME_UNKNOWN,
    PERHAPS_EXECUTED,
    CallRefused,
    CallUnanswered,
    MCPError,
    NoLongerOffered,
    RpcError,
)
from agent.lossless_json.exact import is_deeper_than
from agent.lossless_json.raw import Bytes, RawObject, exact
from agent.lossless_json.unread import Unread
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import AFFINITY_META_KEY, Json
from agent.routing.table import Replica, Route, RouteKind
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY
from agent.server.apps import is_for_models, page_of, with_page
from agent.server.fleet_calls import FleetCall
from agent.server.lists import ListIndex, is_by_own_name, unknown
from agent.server.request_log import Served
from agent.server.written_results import ANSWER_NESTING_MAX
from agent.turns import in_slices

# Up to here, looking for a word costs less than walking through what was read.
_SCANNED_BYTES_MAX: Final = 4096
_BACKSLASH: Final = ord("\\")


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
    if type(arguments := params.get("arguments")) is Unread:
        await in_slices(looked_into(route.definition.get("inputSchema"), arguments))
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
    if method == "tools/call" and not names_page and says_no_more(method, result) and not _may_name_uris(forwarded.raw):
        return forwarded
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
            return MCPError(
                code=code, message=f"{route.public_name}{PERHAPS_EXECUTED}{failure}", data=own_error(params, data)
            )


def _refuse_undeclared(result: Json, params: Json, route: Route) -> None:
    """A server may send only requests that its client declared (MCP 2026-07-28, multi-round-trip requests).

    To the client we are the server, so the error names the capabilities that it would have to declare.
    """
    if not asks(result):
        return
    capabilities = (params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY)
    if needed := undeclared_features(capabilities, result.get("inputRequests")):
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message=f"{route.public_name} asks for what the client did not declare: {', '.join(sorted(needed))}",
            data={"requiredCapabilities": needed},
        )


def is_as_clients_see_it(route: Route, result: RawObject, replica: Replica) -> bool:
    """Whether the result of a tool has no URI that clients know by another name."""
    return not _may_name_uris(result.raw) or route.uris(replica).result("tools/call", result, None) is result


def _may_name_uris(raw: Bytes | None) -> bool:
    """Whether a result may have a member for a URI: by its bytes, which most have not, as all those names end alike."""
    if raw is None or len(raw) > _SCANNED_BYTES_MAX:
        return True
    text = bytes(raw)
    return text.find(b'ri"') >= 0 or _BACKSLASH in text  # Bytes take twice as long with `in`, a number a tenth.


def _named_for_clients(method: str, route: Route, forwarded: Forwarded, params: Json) -> Forwarded:
    """The same with the public URIs of resources, and the requested URI as the client wrote it."""
    codec, replica = route.uris(forwarded.replica), forwarded.replica
    asked = asked_uri(method, params, replica)
    if codec.result(method, forwarded.result, asked) is forwarded.result:
        return forwarded
    # Serialized anew, so its numbers have to be exact; most results never get here.
    return Forwarded(codec.result(method, exact(forwarded.result), asked), replica)


def _named_as_asked(data: object, route: Route, params: Json) -> object:
    """An error about a resource contains its URI (MCP 2026-07-28, resources): the client's, not the backend's."""
    if isinstance(data, dict) and data.get("uri") in [replica.remote_name for replica in route.replicas]:
        return {**data, "uri": params["uri"]}
    return data
