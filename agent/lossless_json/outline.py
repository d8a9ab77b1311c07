"""Reads a large message by its outline: what a node looks at is read, all else stays as it came.

Called by `agent.lossless_json.envelope` for what is no large call with little beside its arguments: large params or
`_meta`, other methods, halves of surrogate pairs. The one rule: what a node looks at stands in `PARAMS` or
`META_NAMES`, which a test holds; of all other members none has an effect here, and each goes on as it is.
"""

from collections.abc import Generator
from typing import Final, TypeAlias

from agent.lossless_json.exact import read_json
from agent.lossless_json.members import Members, Place, TooMany, members_of, without
from agent.lossless_json.unread import (
    ARGUMENTS,
    BESIDE,
    LOOKED_AT_BYTES_MAX,
    LOOKED_AT_VALUES_MAX,
    META,
    Unread,
)
from agent.lossless_json.values import holds_more_values
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
# What a node looks at only to hand it to a server of an earlier version, or to answer for a fleet.
_SELDOM: Final = frozenset({ARGUMENTS, "inputResponses", "argument"})
# What a subscription names has limits of its own, with an error of its own: 512 KiB each of resources, tasks, sessions.
_SUBSCRIPTIONS: Final = "subscriptions/listen"
_SUBSCRIPTION_BYTES_MAX: Final = 3 * LOOKED_AT_BYTES_MAX
_METHOD, _PARAMS = "method", "params"
_TOP: Final = frozenset({"jsonrpc", "id", _METHOD, _PARAMS})
# A member of those that may stay unread is read up to here.
_READ_BYTES_MAX: Final = 64 << 10
# What another node has read it may have written anew, `9e15` as 9000000000000000.0, and added to.
_FROM_NODE_TIMES: Final = 5
_ADDED_VALUES_MAX: Final = 8_192


Steps: TypeAlias = Generator[None, None, Json | str | None]


class _TooMuch(Exception):
    """What a node would have to read takes too much memory."""


def read_outline(body: bytes, *, from_node: bool = False) -> Steps:
    """The steps to the message, or to why it is refused; None where it has to be read whole.

    `body` is one JSON object, and no deeper than orjson writes. `from_node`: another node sent it.
    """
    try:
        return (yield from _message(body, _Looked(from_node=from_node)))
    except (TooMany, _TooMuch) as exc:
        return f"The body cannot be read: {exc}"


class _Looked:
    """What is read of a message, within limits. `from_node`: see `_FROM_NODE_TIMES`."""

    def __init__(self, *, from_node: bool) -> None:
        self.from_node = from_node
        self._bytes_max = LOOKED_AT_BYTES_MAX * (_FROM_NODE_TIMES if from_node else 1)
        self._values_max = LOOKED_AT_VALUES_MAX + (_ADDED_VALUES_MAX if from_node else 0)
        self._bytes_len = 0
        self._texts: list[tuple[str, Json, str, bytes]] = []

    def at(self, field: str, members: Json, place: Place, body: bytes) -> None:
        """Have a member read, into `members`. Raises `_TooMuch`."""
        self._bytes_len += place.value_end - place.value
        if self._bytes_len > self._bytes_max:
            raise _TooMuch(f"{field}: a node has to look at more than {self._bytes_max} bytes")
        self._texts.append((field, members, place.name, body[place.value : place.value_end]))

    def may_be_larger(self) -> None:
        """Let there be as many bytes as a subscription may name."""
        self._bytes_max = max(self._bytes_max, _SUBSCRIPTION_BYTES_MAX)

    def read(self) -> None:
        """Read it all. Raises `_TooMuch`."""
        if holds_more_values(b",".join(text for *_, text in self._texts), self._values_max):
            field, *_ = max(self._texts, key=lambda one: len(one[-1]))
            raise _TooMuch(f"{field}: a node has to look at more than {self._values_max} values")
        for _, members, name, text in self._texts:
            members[name] = read_json(text)
        self._texts.clear()


def _message(body: bytes, looked: _Looked) -> Generator[None, None, Json | None]:
    top = (yield from members_of(body, 0, _TOP)).last()
    message: Json = {}
    for name, place in top.items():
        if name != _PARAMS:
            looked.at(name, message, place, body)
    looked.read()
    method = message.get(_METHOD)
    if _METHOD not in top or (method == CLIENT_METHOD and looked.from_node):
        return None
    if method == _SUBSCRIPTIONS:
        looked.may_be_larger()
    if _PARAMS in top:
        place = top[_PARAMS]
        is_object = body[place.value : place.value + 1] == b"{"
        if is_object and isinstance(method, str):
            message[_PARAMS] = yield from _params(body, place.value, method, looked)
        elif is_object or body[place.value : place.value + 1] == b"[":
            message[_PARAMS] = {} if is_object else []  # Which is refused, whatever it holds.
        else:
            looked.at(_PARAMS, message, place, body)
    looked.read()
    return message


def _params(body: bytes, at: int, method: str, looked: _Looked) -> Generator[None, None, Json]:
    members = yield from members_of(body, at, PARAMS | {ARGUMENTS} if method in CALLS else PARAMS)
    params: Json = {}
    for name, place in members.last().items():
        size, is_object = place.value_end - place.value, body[place.value : place.value + 1] == b"{"
        if name in _SELDOM and size > _READ_BYTES_MAX:
            view = memoryview(body)[place.value : place.value_end]
            params[name] = Unread(view) if is_object or name != ARGUMENTS else []
        elif name == META and is_object and size > _READ_BYTES_MAX:
            params[META] = yield from _meta(body, place.value, looked)
        else:
            looked.at(f"params.{name}", params, place, body)
    _keep_others(params, body, members)
    return params


def _meta(body: bytes, at: int, looked: _Looked) -> Generator[None, None, Json]:
    members = yield from members_of(body, at, META_NAMES)
    meta: Json = {}
    for name, place in members.last().items():
        looked.at(f"params.{META}.{name}", meta, place, body)
    _keep_others(meta, body, members)
    return meta


def _keep_others(known: Json, body: bytes, members: Members) -> None:
    """Have members that no node looks at go on with the others."""
    if others := without(body, members, members.places):
        known[BESIDE] = Unread(*others)
