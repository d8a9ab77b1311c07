"""Params that surely have the protocol's shape, for the requests that a node answers itself. PURE.

Called before the SDK's validation, which is exact and says what is wrong, but costs a second and 40 MB when it is first
used. What every client sends is recognised here, and what is not, the SDK judges. The one rule: what passes here passes
there too; tests/unit/server/test_shapes.py holds that.
"""

from collections.abc import Callable, Mapping
from typing import Final

from agent.mcp_terms import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    LOG_LEVELS,
    PROTOCOL_VERSION_META_KEY,
)
from agent.model import SESSIONS_MEMBER, Json

# Every SDK's objects are far shallower; a deeper one is judged by the SDK, as everything else that is unusual.
_LEVELS_MAX: Final = 16
_INT_MAX: Final = 2**53

_Check = Callable[[object], bool]


def _no_other(_: object) -> bool:
    return False


def surely_initialize(params: Json) -> bool:
    """Whether these are surely the params of `initialize`, of any version with sessions."""
    return _members(params, {**_INITIALIZE, "_meta": _is_plain_meta}, ("protocolVersion", "capabilities", "clientInfo"))


def surely_request(method: str, params: Json) -> bool:
    """Whether these are surely the params of a request of 2026-07-28. False for methods that a node forwards."""
    known = _REQUESTS.get(method)
    if known is None:
        return False
    return _members(params, {**known, "_meta": _is_envelope}, ("_meta", *_REQUIRED.get(method, ())))


def _members(
    value: object, known: Mapping[str, _Check], required: tuple[str, ...] = (), *, others: _Check = _no_other
) -> bool:
    """Whether each member of an object is right, or null and not required. `others`: which further names may be."""
    return (
        isinstance(value, dict)
        and all(value.get(name) is not None for name in required)
        and all(
            (member is None or known[name](member)) if name in known else others(name) for name, member in value.items()
        )
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or _is_writable(value))


def _is_writable(text: str) -> bool:
    """Whether UTF-8 can hold it: half a surrogate pair, as JSON may name it, is no text to the SDK."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_prefix(name: object) -> bool:
    return isinstance(name, str) and "/" in name and _is_text(name)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_token(value: object) -> bool:
    return _is_text(value) or (type(value) is int and abs(value) < _INT_MAX)


def _is_json(value: object, levels: int = _LEVELS_MAX) -> bool:
    if value is None or isinstance(value, bool | float) or _is_token(value):
        return True
    if levels == 0:
        return False
    if isinstance(value, list):
        return all(_is_json(item, levels - 1) for item in value)
    return isinstance(value, dict) and all(
        _is_text(name) and _is_json(member, levels - 1) for name, member in value.items()
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and _is_json(value)


def _is_object_of_objects(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(name) and _is_object(member) for name, member in value.items())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_level(value: object) -> bool:
    return value in LOG_LEVELS


_ROOTS: Final[Mapping[str, _Check]] = {"listChanged": _is_bool}
_SAMPLING: Final[Mapping[str, _Check]] = {"context": _is_object, "tools": _is_object}
_ELICITATION: Final[Mapping[str, _Check]] = {"form": _is_object, "url": _is_object}
_TASK_REQUESTS: Final[Mapping[str, _Check]] = {"elicitation": _is_object_of_objects, "sampling": _is_object_of_objects}
_TASKS: Final[Mapping[str, _Check]] = {
    "list": _is_object,
    "cancel": _is_object,
    "requests": lambda value: _members(value, _TASK_REQUESTS, others=_is_text),
}
_ICON: Final[Mapping[str, _Check]] = {"src": _is_text, "mimeType": _is_text, "sizes": _are_texts}
_IMPLEMENTATION: Final[Mapping[str, _Check]] = {
    **dict.fromkeys(("name", "version", "title", "description", "websiteUrl"), _is_text),
    "icons": lambda value: isinstance(value, list) and all(map(_is_icon, value)),
}
# Those of both eras, for the other one ignores what one has; what neither has, both ignore.
_CAPABILITIES: Final[Mapping[str, _Check]] = {
    "roots": lambda value: _members(value, _ROOTS, others=_is_text),
    "sampling": lambda value: _members(value, _SAMPLING, others=_is_text),
    "elicitation": lambda value: _members(value, _ELICITATION, others=_is_text),
    "experimental": _is_object_of_objects,
    "extensions": _is_object_of_objects,
    "tasks": lambda value: _members(value, _TASKS, others=_is_text),
}


def _is_icon(value: object) -> bool:
    return _members(value, _ICON, ("src",))


def _is_implementation(value: object) -> bool:
    return _members(value, _IMPLEMENTATION, ("name", "version"), others=_is_text)


def _are_capabilities(value: object) -> bool:
    return _members(value, _CAPABILITIES, others=_is_text)


def _is_plain_meta(value: object) -> bool:
    return _members(value, {"progressToken": _is_token}, others=_has_prefix)


_ENVELOPE: Final[Mapping[str, _Check]] = {
    PROTOCOL_VERSION_META_KEY: _is_text,
    CLIENT_CAPABILITIES_META_KEY: _are_capabilities,
    CLIENT_INFO_META_KEY: _is_implementation,
    LOG_LEVEL_META_KEY: _is_level,
    "progressToken": _is_token,
}


def _is_envelope(value: object) -> bool:
    """Whether it is `_meta` with its envelope; names with a prefix are free, and those of other nodes have one."""
    required = (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY)
    # Unlike every other member, a token may not be null, which is for the SDK to say.
    has_token = not isinstance(value, dict) or value.get("progressToken", "") is not None
    return has_token and _members(value, _ENVELOPE, required, others=_has_prefix)


_INITIALIZE: Final[Mapping[str, _Check]] = {
    "protocolVersion": _is_text,
    "capabilities": _are_capabilities,
    "clientInfo": _is_implementation,
}
_FILTER: Final[Mapping[str, _Check]] = {
    "toolsListChanged": _is_bool,
    "promptsListChanged": _is_bool,
    "resourcesListChanged": _is_bool,
    "resourceSubscriptions": _are_texts,
    SESSIONS_MEMBER: _is_json,  # Between nodes.
    "taskIds": _is_json,  # Of the extension for tasks, which its own room checks.
}
# The requests that a node answers itself, and their members beside `_meta`.
_REQUESTS: Final[Mapping[str, Mapping[str, _Check]]] = {
    "server/discover": {},
    "subscriptions/listen": {"notifications": lambda value: _members(value, _FILTER)},
    "tools/call": {"name": _is_text, "arguments": _is_object},
    "resources/read": {"uri": _is_text},
}
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "subscriptions/listen": ("notifications",),
    "tools/call": ("name",),
    "resources/read": ("uri",),
}
