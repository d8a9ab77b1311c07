"""JSON-RPC messages as bytes and back: building requests, telling answers apart, swapping progress tokens.

Called by both clients for every message. PURE. The one rule: what the caller or the server wrote inside params, results
and errors passes unchanged; only the envelope and the progress token are ours.
"""

import re
from typing import Any, Final

import orjson

from agent.errors import AnswerUnreadable, ProtocolBroken, RpcError
from agent.lossless_json.ends import Text
from agent.lossless_json.exact import read_json
from agent.lossless_json.raw import END_BYTES_MAX, answered_id, read_response
from agent.lossless_json.rewriter import JsonRewriter, Place, RewriteBroken
from agent.lossless_json.unread import ARGUMENTS, LOOKED_AT_VALUES_MAX, Unread, has_unread, written
from agent.lossless_json.values import values_in
from agent.model import Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND

LIST_CHANGES: Final = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
}
PROGRESS_METHOD: Final = "notifications/progress"
CANCELLED_METHOD: Final = "notifications/cancelled"
# Our own questions, whose answers cost a server nothing: they are awaited or dropped, never called off. A server on the
# Python SDK 1 may end at the cancellation of what it is just answering (mcp 1.30.0).
NEVER_CANCELLED: Final = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        *(f"{kind}/list" for kind in ("tools", "prompts", "resources", "resources/templates")),
    }
)

# The largest single notification, and so the largest SSE event; progress and log lines are far smaller.
NOTIFICATION_BYTES_MAX: Final = 1024 * 1024
# As all SDKs write one.
_NOTIFICATION: Final = re.compile(
    rb'[ \t\r\n]*+\{[ \t]*+(?:"jsonrpc"[ \t]*+:[ \t]*+"2\.0"[ \t]*+,[ \t]*+)?+"method"[ \t]*+:[ \t]*+"notifications/'
)

# A server's question, which a node reads whole: a text of some megabytes costs a few times that, as many values more.
ASKED_BYTES_MAX: Final = 256 * 1024
ASKED_VALUES_MAX: Final = LOOKED_AT_VALUES_MAX
_QUESTION: Final = re.compile(
    rb'[ \t\r\n]*+\{[ \t]*+(?:"jsonrpc"[ \t]*+:[ \t]*+"2\.0"[ \t]*+,[ \t]*+)?+'
    rb'(?:"id"[ \t]*+:[ \t]*+(?P<id>[0-9]++|"[^"\\\x00-\x1f]*+")[ \t]*+,[ \t]*+)?+'
    rb'"method"[ \t]*+:[ \t]*+(?P<method>"[a-z]++/[A-Za-z/]++")'
)
_ID_LAST: Final = re.compile(rb',[ \t]*+"id"[ \t]*+:[ \t]*+(?P<id>[0-9]++|"[^"\\\x00-\x1f]*+")[ \t]*+\}[ \t\r\n]*+\Z')

# A result asks for input by its type, or as a task by its status; deeper within, these words mean nothing.
_ASKS: Final = b"input_required"
_SAYS_WHETHER_IT_ASKS: Final = ("resultType", "status", "inputRequests")
_RESULT: Final = Place({"result": Place({name: Place(note=name) for name in _SAYS_WHETHER_IT_ASKS})})
_STEP_BYTES: Final = 64 * 1024

_ID_TYPES: Final = frozenset({int, str, float, type(None)})

# The text of a number as JSON writes it. SDKs read such an ID as the number, so servers that write it are in use.
_NUMBER_AS_TEXT: Final = re.compile("0|[1-9][0-9]{0,17}", re.ASCII)

# What Python and JavaScript name where JSON has no number; orjson stops at it, or behind its sign.
_NO_NUMBER: Final = re.compile("-?(?:NaN|Infinity)")

# Our own member of a response that cannot be parsed: the reason. A server that sends it itself gains nothing.
_UNREADABLE: Final = "unreadable"
# The same: the bytes of a large response that its request reads, or hands on.
UNREAD: Final = "unread"
_NO_JSON: Final = "gave an answer that is not JSON"

NO_TOKEN: Final = object()  # "The caller requested no progress", which a null token does not mean.


def encode_request(request_id: int | str, method: str, params: Json | None) -> bytes:
    """A request's bytes. Raises `RpcError` (invalid params) for what JSON cannot carry, before anything is sent."""
    message: Json = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        if type(params.get(ARGUMENTS)) is Unread:
            return b"".join(_with_unread(message, "params", params))
        message["params"] = params
    try:
        return orjson.dumps(message)
    except TypeError as exc:
        if params is not None and has_unread(params):
            del message["params"]
            return b"".join(_with_unread(message, "params", params))
        raise _unwritable(exc) from exc


def encode_parts(request_id: int | str, method: str, params: Json | None) -> tuple[Text, ...]:
    """As `encode_request`, in consecutive parts, so that large arguments need not be copied to be written."""
    if params is None or type(params.get(ARGUMENTS)) is not Unread:
        return (encode_request(request_id, method, params),)
    return _with_unread({"jsonrpc": "2.0", "id": request_id, "method": method}, "params", params)


def encode_notification(method: str, params: Json | None = None) -> bytes:
    """A notification's bytes."""
    message: Json = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return _encode(message)


def encode_cancelled(request_id: int | str, reason: str) -> bytes:
    """A notification that `request_id` is cancelled."""
    return encode_notification(CANCELLED_METHOD, {"requestId": request_id, "reason": reason})


def encode_reply(request: Json) -> bytes:
    """Our reply to a server request: a ping is answered, every other method is refused."""
    reply: Json = {"jsonrpc": "2.0", "id": request.get("id")}
    if request.get("method") == "ping":
        reply["result"] = {}
    else:
        reply["error"] = {"code": METHOD_NOT_FOUND, "message": "This client offers no features to servers"}
    return _encode(reply)


def encode_result(request_id: Any, result: Json) -> bytes:
    """The result of a server request, perhaps with unread members. Raises `RpcError` as `encode_request`."""
    message: Json = {"jsonrpc": "2.0", "id": request_id}
    if has_unread(result):
        return b"".join(_with_unread(message, "result", result))
    return _encode({**message, "result": result})


def encode_error(request_id: Any, code: int, message: str, data: Any = None) -> bytes:
    """An error in reply to a server request."""
    error: Json = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encode({"jsonrpc": "2.0", "id": request_id, "error": error})


def decode(data: bytes | bytearray | memoryview) -> Json:
    """One JSON object whose method and ID have the types of JSON-RPC.

    The result of a response comes as a `RawObject` where the message is laid out as usual. A response that is no JSON
    (Python writes NaN, and orjson refuses more than 1,024 levels) still carries its ID, so that its request ends;
    `result_of` refuses it. So does one that asks for input with more values than are read; a request with as many has
    another method, which none knows. Raises `AnswerUnreadable` for other bytes, `ProtocolBroken` for other JSON.
    """
    if len(data) > ASKED_BYTES_MAX and (refused := _refused_question(bytes(data))) is not None:
        return refused
    if (response := read_response(bytes(data))) is not None:
        return response
    try:
        message = read_json(data)
    except orjson.JSONDecodeError as exc:
        if (request_id := answered_id(bytes(data))) is not None:
            return unreadable(request_id, "the server", _NO_JSON, f": {_fault(exc)}")
        raise AnswerUnreadable.about("the server", _NO_JSON, f": {_fault(exc)}") from exc
    if not isinstance(message, dict):
        raise ProtocolBroken.about("the server", "gave an answer that is JSON, but not a JSON-RPC message")
    # By exact type: true equals 1 as a key, and would match the ID of an open request.
    if type(message.get("id")) not in _ID_TYPES or not isinstance(message.get("method", ""), str):
        what = "gave an answer whose id or method no JSON-RPC message has"
        raise ProtocolBroken.about("the server", what)
    return message


def _refused_question(data: bytes) -> Json | None:
    """What stands for a question of a server that holds too many values; None for all else, and for few."""
    question = _QUESTION.match(data)
    if question is None and not (b'"inputRequests"' in data and b'"%s"' % _ASKS in data):
        return None
    if values_in(data, ASKED_VALUES_MAX) <= ASKED_VALUES_MAX:
        return None
    if question is None and not _asks(data):
        return None
    more = f"of more than {ASKED_VALUES_MAX} values"
    if question is None:
        request_id = answered_id(data)
        return None if request_id is None else unreadable(request_id, "the server", f"asked for input {more}")
    written_id = question["id"] or ((end := _ID_LAST.search(data, len(data) - END_BYTES_MAX)) and end["id"])
    if written_id is None:
        return None
    method = orjson.loads(question["method"])
    return {"jsonrpc": "2.0", "id": orjson.loads(written_id), "method": f"{method} {more}"}


def _asks(response: bytes) -> bool:
    """Whether its result asks for input; false for what is no JSON, which is refused where it is read."""
    rewriter = JsonRewriter(_RESULT)
    try:
        for at in range(0, len(response), _STEP_BYTES):
            if rewriter.rest is None:
                rewriter.feed(response[at : at + _STEP_BYTES])
    except RewriteBroken:
        return False
    noted = rewriter.noted
    return "inputRequests" in noted and _ASKS.decode() in (noted.get("resultType"), noted.get("status"))


def _fault(exc: orjson.JSONDecodeError) -> str:
    """What is wrong, in words where it is a number that only some programs write."""
    found = _NO_NUMBER.search(exc.doc[max(0, exc.pos - 1) : exc.pos + 8])
    return f"{exc}" if found is None else f"{found[0]} is no JSON: line {exc.lineno} column {exc.colno}"


def unreadable(request_id: int, subject: str, what: str, detail: str = "") -> Json:
    """Stands for a response that could not be read; `result_of` raises that as `AnswerUnreadable.about`."""
    return {"jsonrpc": "2.0", "id": request_id, _UNREADABLE: (subject, what, detail[:200])}


def is_too_large(message: bytes) -> bool:
    """Whether it is a notification of more bytes than are read, told by its beginning."""
    return len(message) > NOTIFICATION_BYTES_MAX and _NOTIFICATION.match(message) is not None


def is_request(message: Json) -> bool:
    """Whether it is a request."""
    return "method" in message and message.get("id") is not None


def is_notification(message: Json) -> bool:
    """Whether it is a notification."""
    return "method" in message and message.get("id") is None


def answered(message: Json) -> Any:
    """The ID of the request that a response answers: ours are numbers, which some servers write back as texts."""
    request_id = message.get("id")
    if isinstance(request_id, str) and _NUMBER_AS_TEXT.fullmatch(request_id) is not None:
        return int(request_id)
    return request_id


def params_of(message: Json) -> Json:
    """A message's params, an empty object where there are none."""
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def result_of(message: Json) -> Json:
    """The result object of a response. Raises `RpcError` as the server said it, `ProtocolBroken` for neither.

    Raises `AnswerUnreadable` for what `unreadable` made.
    """
    result = message.get("result")
    if isinstance(result, dict):
        return result
    error = message.get("error")
    if isinstance(error, dict):
        raise error_of(error)
    if isinstance(reason := message.get(_UNREADABLE), tuple):
        raise AnswerUnreadable.about(*reason)
    raise ProtocolBroken.about("the server", "gave an answer with neither a result object nor an error object")


def error_of(error: Json) -> RpcError:
    """The server's error object as an exception; a code or a message of the wrong type is replaced, not refused."""
    code, message = error.get("code"), error.get("message")
    return RpcError(
        code if isinstance(code, int) else INTERNAL_ERROR,
        message if isinstance(message, str) else "The server answered with an error that has no message",
        error.get("data"),
    )


def swap_progress_token(params: Json | None, ours: int | str) -> tuple[Json | None, Any]:
    """Copy `params` with `ours` in place of the caller's progress token, and the caller's (or `NO_TOKEN`).

    Two callers that share one session or one child may have chosen the same token.
    """
    meta = params.get("_meta") if params is not None else None
    if params is None or not isinstance(meta, dict) or "progressToken" not in meta:
        return params, NO_TOKEN
    return {**params, "_meta": {**meta, "progressToken": ours}}, meta["progressToken"]


def restore_progress_token(params: Json, theirs: Any) -> Json:
    """Params of a progress notification with the caller's own token put back."""
    return {**params, "progressToken": theirs} if theirs is not NO_TOKEN else params


def _with_unread(message: Json, name: str, content: Json) -> tuple[Text, ...]:
    """The message with what is unread at its end: by hand, as orjson would hold that twice, and its output larger."""
    try:
        first, *more, last = written(content)
    except TypeError as exc:
        raise _unwritable(exc) from exc
    return b"".join((_encode(message)[:-1], b',"%s":' % name.encode(), first)), *more, bytes(last) + b"}"


def _encode(message: Json) -> bytes:
    try:
        return orjson.dumps(message)
    except TypeError as exc:
        raise _unwritable(exc) from exc


def _unwritable(exc: TypeError) -> RpcError:
    return RpcError(INVALID_PARAMS, f"The parameters cannot be sent as JSON: {exc}")
