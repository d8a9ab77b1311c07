"""Reads a large message by its outline: what a node looks at is read, all else stays as it came.

Called by `agent.lossless_json.envelope` for each large body, and for all messages of a batch. The one rule: what a node
looks at stands in `PARAMS` or `META_NAMES`, which a test holds; of all other members none has an effect here, and each
goes on as it is.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final

from agent.lossless_json.ends import Text
from agent.lossless_json.exact import read_json
from agent.lossless_json.members import Members, Place, TooMany, Tree, items_of, members_of, without
from agent.lossless_json.unread import (
    ARGUMENTS,
    BESIDE,
    LOOKED_AT_BYTES_MAX,
    LOOKED_AT_VALUES_MAX,
    META,
    Unread,
)
from agent.lossless_json.values import values_in
from agent.mcp_terms import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from agent.model import (
    AFFINITY_META_KEY,
    ALTERNATIVES_META_KEY,
    CLIENT_METHOD,
    DEADLINE_META_KEY,
    FOR_NODE_META_KEY,
    IN_SESSION_META_KEY,
    PATH_META_KEY,
    POLL_META_KEY,
    PROBE_META_KEY,
    REFUSED_META_KEY,
    Json,
)
from agent.rpc_codes import INVALID_REQUEST

_NONE: Final[Tree] = {}
# Their arguments may stay unread.
CALLS: Final = frozenset({"tools/call", "prompts/get"})
# The members of a request that any part of a node looks at.
PARAMS: Final = frozenset(
    {
        *("name", "uri", "ref", "argument", "cursor", "level", "requestId", "taskId", "task"),
        *("requestState", "inputResponses", "notifications", META),
    }
)
META_NAMES: Final = frozenset(
    {
        *("progressToken", "traceparent", PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY),
        *(CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY, AFFINITY_META_KEY, ALTERNATIVES_META_KEY),
        *(DEADLINE_META_KEY, FOR_NODE_META_KEY, IN_SESSION_META_KEY, PATH_META_KEY, POLL_META_KEY, PROBE_META_KEY),
        REFUSED_META_KEY,
    }
)
_MORE_PARAMS: Final = {
    **dict.fromkeys(CALLS, frozenset({ARGUMENTS})),
    CLIENT_METHOD: frozenset({"event", "server", "sessions", "canBeAsked"}),
}
# What a node looks at only to hand it to a server of an earlier version, or to answer for a fleet.
_SELDOM: Final = frozenset({ARGUMENTS, "inputResponses", "argument"})
# What a subscription names has limits of its own, with an error of its own: 512 KiB each of resources, tasks, sessions.
_SUBSCRIPTIONS: Final = "subscriptions/listen"
_SUBSCRIPTION_BYTES_MAX: Final = 3 * LOOKED_AT_BYTES_MAX
_METHOD, _PARAMS, _RESULT = "method", "params", "result"
_ANSWER: Final = frozenset({_RESULT, "error"})
_CONTENT: Final = _ANSWER | {_PARAMS}
_TOP: Final = _CONTENT | {"jsonrpc", "id", _METHOD}
# What is looked for in one scan, whatever the method is.
_TREE: Final[Tree] = dict.fromkeys(_TOP, _NONE) | {
    _PARAMS: dict.fromkeys(PARAMS.union(*_MORE_PARAMS.values()), _NONE) | {META: dict.fromkeys(META_NAMES, _NONE)}
}
_BRACKETS: Final = (b"{", b"[")
_BRACE: Final = ord("{")
# A member of those that may stay unread is read up to here; in a batch, whose messages share what may be read.
_READ_BYTES_MAX: Final = 64 << 10
_READ_IN_BATCH_BYTES_MAX: Final = 512
# What another node has read it may have written anew, `9e15` as 9000000000000000.0, and added to.
_FROM_NODE_TIMES: Final = 5
_ADDED_VALUES_MAX: Final = 8_192


class BodyRefused(ValueError):
    """A body is no JSON, or a node would have to read more of it than it may: an HTTP status, and a JSON-RPC error."""

    def __init__(self, status: int, message: str, code: int = INVALID_REQUEST) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def read_outline(body: Text, *, from_node: bool = False) -> Generator[None, None, Json]:
    """The steps to the message of a body. Raises `BodyRefused`.

    `body` is one JSON object, and no deeper than orjson writes. `from_node`: another node sent it.
    """
    try:
        return (yield from _message(body, _Looked(from_node=from_node)))
    except TooMany as exc:
        raise _too_much(exc) from exc


def read_batch(body: bytes, len_max: int) -> Generator[None, None, list[Any]]:
    """The steps to the messages of a batch, null for what is no object. Raises `BodyRefused`. `body` is a JSON list."""
    items = yield from items_of(body, len_max + 1)
    if len(items) > len_max:
        raise BodyRefused(413, f"A batch has 1 to {len_max} messages")
    looked, messages = _Looked(read_bytes_max=_READ_IN_BATCH_BYTES_MAX), list[Any]()
    try:
        for number, item in enumerate(items):
            looked.where = f"message {number}: "
            messages.append((yield from _message(item, looked)) if item[0] == _BRACE else None)
    except TooMany as exc:
        raise _too_much(f"{looked.where}{exc}") from exc
    return messages


def _too_much(what: object) -> BodyRefused:
    return BodyRefused(413, f"The body cannot be read: {what}")


class _Looked:
    """What is read of a body, within limits. `from_node`: see `_FROM_NODE_TIMES`. `where`: the message in a batch.

    `read_bytes_max`: up to here a member is read that may stay unread.
    """

    def __init__(self, *, from_node: bool = False, read_bytes_max: int = 0) -> None:
        self.where = ""
        self.read_bytes_max = read_bytes_max or _READ_BYTES_MAX
        self._bytes_max = LOOKED_AT_BYTES_MAX * (_FROM_NODE_TIMES if from_node else 1)
        self._values_max = LOOKED_AT_VALUES_MAX + (_ADDED_VALUES_MAX if from_node else 0)
        self._bytes_len = self._values_len = 0
        self._texts: list[tuple[str, Json, str, bytes]] = []

    def at(self, field: str, members: Json, place: Place, body: Text) -> None:
        """Have a member read, into `members`. Raises `BodyRefused`."""
        self._bytes_len += place.value_end - place.value
        if self._bytes_len > self._bytes_max:
            raise _too_much(f"{self.where}{field}: a node has to look at more than {self._bytes_max} bytes")
        self._texts.append((field, members, place.name, bytes(body[place.value : place.value_end])))

    def may_be_larger(self) -> None:
        """Let there be as many bytes as a subscription may name."""
        self._bytes_max = max(self._bytes_max, _SUBSCRIPTION_BYTES_MAX)

    def read(self) -> None:
        """Read it all. Raises `BodyRefused`."""
        values_max = self._values_max
        self._values_len += values_in(b",".join(text for *_, text in self._texts), values_max - self._values_len)
        if self._values_len > values_max:
            field, *_ = max(self._texts, key=lambda one: len(one[-1]))
            raise _too_much(f"{self.where}{field}: a node has to look at more than {values_max} values")
        for _, members, name, text in self._texts:
            members[name] = read_json(text)
        self._texts.clear()


def _message(body: Text, looked: _Looked) -> Generator[None, None, Json]:
    top = (yield from members_of(body, 0, _TREE, _TREE)).last()
    message: Json = {}
    for name in top.keys() - _CONTENT:
        looked.at(name, message, top[name], body)
    looked.read()
    method = message.get(_METHOD)
    for name in top.keys() & ({_PARAMS} if _METHOD in top else _ANSWER):
        place = top[name]
        size, begin = place.value_end - place.value, body[place.value : place.value + 1]
        if place.inner is not None and isinstance(method, str):
            message[_PARAMS] = _params(body, place.inner, method, looked)
        elif name == _RESULT and begin == b"{" and size > looked.read_bytes_max:
            message[_RESULT] = Unread(memoryview(body)[place.value : place.value_end])
        elif name == _PARAMS and begin in _BRACKETS:
            message[_PARAMS] = {} if begin == b"{" else []  # Which is refused, whatever it holds.
        else:
            looked.at(name, message, place, body)
    looked.read()
    return message


def _params(body: Text, members: Members, method: str, looked: _Looked) -> Json:
    if method == _SUBSCRIPTIONS:
        looked.may_be_larger()
    members = _only(members, PARAMS | _MORE_PARAMS.get(method, frozenset()))
    params: Json = {}
    for name, place in members.last().items():
        size, is_object = place.value_end - place.value, body[place.value : place.value + 1] == b"{"
        if name in _SELDOM and size > looked.read_bytes_max:
            view = memoryview(body)[place.value : place.value_end]
            params[name] = Unread(view) if is_object or name != ARGUMENTS else []
        elif name == META and place.inner is not None and size > looked.read_bytes_max:
            params[META] = _meta(body, place.inner, method, looked)
        else:
            looked.at(f"params.{name}", params, place, body)
    _keep_others(params, body, members, method)
    return params


def _meta(body: Text, members: Members, method: str, looked: _Looked) -> Json:
    meta: Json = {}
    for name, place in members.last().items():
        looked.at(f"params.{META}.{name}", meta, place, body)
    _keep_others(meta, body, members, method)
    return meta


def _only(members: Members, names: frozenset[str]) -> Members:
    return replace(members, places=tuple(place for place in members.places if place.name in names))


def _keep_others(known: Json, body: Text, members: Members, method: str) -> None:
    """Have members that no node looks at go on with the others; of a subscription, which stays, nothing goes on."""
    if method != _SUBSCRIPTIONS and (others := without(body, members, members.places)):
        known[BESIDE] = Unread(*others)
