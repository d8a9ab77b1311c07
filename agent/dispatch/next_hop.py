"""The request for the next hop, the meaning of the next hop's refusal, and the error for the caller.

Called by dispatch for each attempt, and by the endpoints for errors. PURE. The one rule: our own members of `_meta` go
to mesh nodes only, and a server's error that imitates a node's is never taken for one.
"""

from typing import Final

from agent.client.affinity import is_of_session
from agent.client.sessions.pending_call import PendingResult
from agent.client.streaming import LargeResult, ResultStream, result_rewriter
from agent.dispatch.retry import Fate, Step, deadline_ms_to_tell, fate_of, is_trusted
from agent.errors import (
    NOT_EXECUTED,
    OUTCOME_UNKNOWN,
    PERHAPS_EXECUTED,
    CallFailed,
    CallNotSent,
    CallOutcomeUnknown,
    CallRefused,
    CallTimedOut,
    CallUnanswered,
    MeshError,
    NoLongerOffered,
    ProtocolBroken,
    RefusedElsewhere,
    RpcError,
)
from agent.lossless_json.rewriter import JsonRewriter
from agent.model import (
    AFFINITY_META_KEY,
    ALTERNATIVES_META_KEY,
    CHANGE_META_KEY,
    DEADLINE_META_KEY,
    IN_SESSION_META_KEY,
    OWN_ERROR_KEY,
    PATH_META_KEY,
    PENDING_META_KEY,
    BackendSpec,
    Era,
    Json,
    LinkView,
    PeerScope,
    PeerSpec,
)
from agent.routing.away import server_words
from agent.routing.table import Replica, Route
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.tasks.ids import TASK_METHODS

# A call may pass at most this many nodes across gateways; more means a loop.
HOPS_MAX: Final = 3

# Added to the failure in the client's error.
_WHY_NOT_AGAIN: Final = {Step.LATE: "; the deadline has passed", Step.SPENT: "; the retry budget is spent"}

_OWN_KEYS: Final = frozenset(
    {
        PATH_META_KEY,
        DEADLINE_META_KEY,
        AFFINITY_META_KEY,
        ALTERNATIVES_META_KEY,
        IN_SESSION_META_KEY,
    }
)
# Of those, what a call says of itself to the node that gets it.
CALL_META_KEYS: Final = frozenset({DEADLINE_META_KEY, AFFINITY_META_KEY, IN_SESSION_META_KEY})


def outgoing(
    method: str,
    params: Json,
    replica: Replica,
    spec: BackendSpec,
    *,
    node_id: str,
    timeout_s: float,
    key: str | None,
    in_session: bool = False,
    alternatives: bool = False,
) -> Json:
    """A copy of `params` for the backend; `timeout_s` is how long we shall wait, `key` the affinity.

    `in_session`: the client has a session, so its server may be called in one as well.
    `alternatives`: another replica may take the call, so the next node need not wait for a server that is away.

    Raises:
        CallNotSent: the request has come round in a circle, or passed too many gateways.
    """
    # Most requests are calls.
    is_call = method == "tools/call"
    named = {**params, "name": replica.remote_name} if is_call else with_name(method, params, replica.remote_name)
    told = named.get("_meta") or {}
    meta = dict(told)
    if not _OWN_KEYS.isdisjoint(told):
        for name in _OWN_KEYS:
            meta.pop(name, None)
    if isinstance(spec, PeerSpec) and replica.node_id is not None:
        meta[DEADLINE_META_KEY] = deadline_ms_to_tell(timeout_s)
        if key is not None:
            meta[AFFINITY_META_KEY] = key
        if in_session:
            meta[IN_SESSION_META_KEY] = True
        if alternatives:
            meta[ALTERNATIVES_META_KEY] = True
    if isinstance(spec, PeerSpec) and spec.scope is PeerScope.MESH:
        meta[PATH_META_KEY] = [*checked_path(told.get(PATH_META_KEY), node_id), node_id]
    named["_meta"] = meta
    return named


def comes_in_session(params: Json, affinity: str | None) -> bool:
    """Whether another node sent the request for a client with a session."""
    return is_of_session(affinity) or (params.get("_meta") or {}).get(IN_SESSION_META_KEY) is True


def asked_uri(method: str, params: Json, replica: Replica) -> tuple[str, str] | None:
    """The URI that `replica` knows, and the one of the client's request; None for methods without one."""
    return (replica.remote_name, params["uri"]) if method == "resources/read" else None


def large_result(sink: ResultStream, method: str, route: Route, params: Json, replica: Replica) -> LargeResult | None:
    """How a large result of `replica` gets to `sink`; None where more than URIs has to be rewritten."""
    if method in TASK_METHODS and not (route.uris(replica).changes_nothing and params["taskId"] == replica.remote_name):
        return None

    def walk() -> JsonRewriter:
        return result_rewriter(route.uris(replica).places(method, asked_uri(method, params, replica)), sink.added)

    return LargeResult(sink, walk)


def says_no_more(method: str, result: Json) -> bool:
    """Whether a result is an answer and nothing else: no task, no question, nothing that one would have to believe."""
    kind = result.get("resultType")
    return (kind is None or kind == "complete") and "_meta" not in result and method not in TASK_METHODS


def believed(result: Json, view: LinkView) -> Json:
    """The same result; only nodes and our own clients may mark a server's call as pending.

    A stateless server that marks one would be polled for ever, with requests that are for nodes.
    """
    meta = result.get("_meta")
    if (
        isinstance(result, PendingResult)
        or view.identity is not None
        or not isinstance(meta, dict)
        or PENDING_META_KEY not in meta
        or view.era is Era.LEGACY
    ):
        return result
    return {**result, "_meta": {name: value for name, value in meta.items() if name != PENDING_META_KEY}}


def received_failure(
    error: RpcError, route: Route, replica: Replica, spec: BackendSpec
) -> CallFailed | ProtocolBroken | None:
    """The failure that another mesh node reports by its error; None when the error is the server's own."""
    data = error.data
    if not (isinstance(spec, PeerSpec) and is_trusted(route, replica) and isinstance(data, dict)):
        return None
    if data.get(OWN_ERROR_KEY) is not True:
        return None
    said = error.message.removeprefix(replica.remote_name)  # Its name for it; ours may be another.
    message = said.removeprefix(PERHAPS_EXECUTED).removeprefix(": ")  # As older nodes have it; we add ours.
    match error.code, data.get("outcome"):
        case int(code), Fate.NOT_EXECUTED if code == NOT_EXECUTED:
            return RefusedElsewhere(error.message if said == error.message else f"{route.public_name}{said}")
        case int(code), None if code == INVALID_PARAMS:
            return NoLongerOffered.about(replica.backend_key, NoLongerOffered.what)
        case int(code), Fate.UNKNOWN if code == OUTCOME_UNKNOWN:
            kind = CallTimedOut if data.get("timed_out") is True else CallOutcomeUnknown
            return kind.for_clients(message, retry_after_s=_seconds(data.get("retry_after_s")))
        case int(code), Fate.UNKNOWN if code == INTERNAL_ERROR:
            return ProtocolBroken.for_clients(message)  # Its server's answer was no MCP.
        case _:
            return None


def ended(route: Route, replica: Replica, failure: MeshError, step: Step) -> CallRefused | CallUnanswered:
    """The one clear error of a call without an answer, as clients may read it; `step`: why it was not sent again."""
    text = f"{failure.words(server_words(route, replica))}{_WHY_NOT_AGAIN.get(step, '')}"
    if fate_of(failure) is Fate.NOT_EXECUTED:
        if not isinstance(failure, RefusedElsewhere):  # The other node's message already begins so.
            text = f"{route.public_name} was not executed: {text}"
        return CallRefused(text, backend=replica.backend_key, bytes_sent=not isinstance(failure, CallNotSent))
    timed_out = isinstance(failure, CallTimedOut)
    broken = not isinstance(failure, CallOutcomeUnknown)
    wait_s = failure.retry_after_s if isinstance(failure, CallOutcomeUnknown) else None
    return CallUnanswered(text, backend=replica.backend_key, timed_out=timed_out, broken=broken, retry_after_s=wait_s)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def own_error(params: Json, data: Json) -> Json:
    """The data of an error of our own that answers `params`, marked as ours where another node is the caller."""
    return {**data, OWN_ERROR_KEY: True} if is_asked_by_node(params) else data


def is_asked_by_node(params: Json) -> bool:
    """Whether another node sent a request with these parameters."""
    meta = params.get("_meta")
    return isinstance(meta, dict) and DEADLINE_META_KEY in meta


def is_for_nodes(note: Json) -> bool:
    """Whether a notification is meant for nodes alone and goes to no client."""
    meta = note.get("_meta")
    return isinstance(meta, dict) and CHANGE_META_KEY in meta


def servers_word(data: object) -> object:
    """The data of a server's error without the mark of ours."""
    if isinstance(data, dict) and OWN_ERROR_KEY in data:
        return {key: value for key, value in data.items() if key != OWN_ERROR_KEY}
    return data


def with_name(method: str, params: Json, remote_name: str) -> Json:
    """A shallow copy of `params` with the backend's own name of the tool, prompt, resource or task."""
    match method:
        case "tools/call" | "prompts/get":
            return {**params, "name": remote_name}
        case "resources/read":
            return {**params, "uri": remote_name}
        case "tasks/get" | "tasks/update" | "tasks/cancel":
            return {**params, "taskId": remote_name}
        case "completion/complete":
            ref = dict(params["ref"])
            ref["name" if ref.get("type") == "ref/prompt" else "uri"] = remote_name
            return {**params, "ref": ref}
        case _:
            raise AssertionError(method)


def checked_path(path: object, node_id: str) -> list[str]:
    """The node IDs that a request has passed; refuses loops. Only requests across gateways carry any."""
    passed = [entry for entry in path if isinstance(entry, str)] if isinstance(path, list) else []
    if node_id in passed:
        raise CallNotSent.for_clients("the request has passed this node before: two gateways import each other")
    if len(passed) >= HOPS_MAX:
        raise CallNotSent.for_clients(f"the request has passed {HOPS_MAX} gateways, which is the limit")
    return passed
