"""A backend's result as JSON, in the shape of its client's era: its own bytes, as far as they may stay as they are.

Called by the servers of both eras with what `agent.server.forward` has got. The one rule: what has to be added or taken
away is; all else is what the server wrote.
"""

from typing import Final

import orjson

from agent.dispatch.call import Forwarded
from agent.dispatch.request_state import asks
from agent.errors import MCPError
from agent.lossless_json.raw import Bytes, exact
from agent.model import Json
from agent.routing.away import server_words
from agent.routing.table import Route
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.server.earlier_clients import without_later_structure
from agent.server.lists import LIST_HINTS

# Results that must carry cache hints at 2026-07-28; a legacy backend does not know them.
_CACHEABLE: Final = frozenset({"resources/read"})
_COMPLETE: Final[Json] = {"resultType": "complete"}
_COMPLETE_WITH_HINTS: Final[Json] = {**_COMPLETE, **LIST_HINTS}
# Members of 2026-07-28 that earlier clients do not know.
_MODERN_KEYS: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
# A result can be read 1,024 levels deep, and passes as bytes then; one that is serialized anew may be only 254 deep,
# and its envelope takes a few levels.
ANSWER_NESTING_MAX: Final = 250
# Up to here, looking for a word costs less than writing all of it anew.
_SCANNED_BYTES_MAX: Final = 4096
_RESULT_TYPE: Final = b'"resultType"'
_LAST_MEMBER: Final = b',"resultType":"complete"}'
_FIRST_MEMBER: Final = b'{"resultType":"complete",'


def written(method: str, route: Route, forwarded: Forwarded, *, modern: bool) -> tuple[Bytes, ...]:
    """The result as JSON, in consecutive parts, in the shape of the client's era.

    Raises `MCPError` for server requests that this client cannot get, and for a result too deep to be serialized anew.
    """
    result, raw = forwarded.result, forwarded.raw
    if modern and raw is not None and method == "tools/call" and "resultType" in result:
        return (raw,)
    if raw is None:
        return (_dumped(_fit(method, route, result, modern=modern), route, forwarded),)
    if not modern:
        if _is_of_both_eras(result) and (short := _without_result_type(raw)) is not None:
            return (short,)
        fit = _fit(method, route, result, modern=False)
        return (raw,) if len(fit) == len(result) else (_dumped(fit, route, forwarded),)
    missing = {member: value for member, value in added(method).items() if member not in result}
    if not missing:
        return (raw,)
    head = orjson.dumps(missing)
    return (head[:-1] + b",", raw[1:]) if result else (head,)


def _is_of_both_eras(result: Json) -> bool:
    """Whether all that earlier clients do not know of a result is that it says to be complete."""
    is_plain = "structuredContent" not in result and "ttlMs" not in result and "cacheScope" not in result
    return is_plain and result.get("resultType") == "complete"


def _without_result_type(raw: Bytes) -> Bytes | None:
    """A result's bytes without that member, if it stands last or first, as servers write it; None: nowhere certain.

    There, no text can end or begin within these bytes: the quote of one would have to be escaped.
    """
    text = bytes(raw) if len(raw) <= _SCANNED_BYTES_MAX else b""
    if text.count(_RESULT_TYPE) != 1:
        return None
    if text.endswith(_LAST_MEMBER):
        return text[: -len(_LAST_MEMBER)] + b"}"
    return b"{" + text[len(_FIRST_MEMBER) :] if text.startswith(_FIRST_MEMBER) else None


def _fit(method: str, route: Route, result: Json, *, modern: bool) -> Json:
    """A backend's result in the shape of the client's era; content is never touched."""
    result = exact(result)
    if modern:
        return {**added(method), **result}
    if asks(result):
        raise MCPError(
            code=INVALID_PARAMS,
            message="The server asks for client input that no client can be asked for",
        )
    if method == "tools/call":
        result = without_later_structure(route.definition, result)
    return {key: value for key, value in result.items() if key not in _MODERN_KEYS}


def added(method: str) -> Json:
    """The members that a result must have at 2026-07-28, if it lacks them."""
    return _COMPLETE_WITH_HINTS if method in _CACHEABLE else _COMPLETE


def _dumped(result: Json, route: Route, forwarded: Forwarded) -> bytes:
    try:
        return orjson.dumps([[[[result]]]])[
            4:-4
        ]  # As deep as in an answer's envelope, which leaves `ANSWER_NESTING_MAX`.
    except orjson.JSONEncodeError as exc:
        raise _unwritable(route, forwarded) from exc


def _unwritable(route: Route, forwarded: Forwarded) -> MCPError:
    backend, server = forwarded.replica.backend_key, server_words(route, forwarded.replica)
    return MCPError(
        code=INTERNAL_ERROR,
        message=f"{route.public_name}: {server} answered with more than {ANSWER_NESTING_MAX} levels of nesting",
        data={"outcome": "unknown", "timed_out": False, "replica": backend, "bytes_sent": True},
    )
