"""Whether a definition has the shape that MCP gives it, so that each client can read the list that it stands in.

Called by `agent.core.candidates` for every entry of an offer. The one rule: clients check a list as a whole, so what a
client of any era would refuse never gets into one; members that MCP does not define may hold anything.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from agent.core.nesting import is_deeper_than
from agent.core.route_table import RouteKind
from agent.model import Json

# faults.md: far deeper than honest schemas, far less than the 254 levels that a list can be written with.
NESTING_MAX: Final = 64

_Check: TypeAlias = Callable[[Any], bool]


def check_definition(kind: RouteKind, definition: Json) -> None:
    """Raise ValueError for what is no tool, prompt, resource or template. Of `_meta`, only the nesting counts."""
    for member, check in _MEMBERS[kind]:
        if not check(definition.get(member)):
            raise ValueError(f"{member} is not what MCP defines")
    if is_deeper_than(definition, NESTING_MAX):
        raise ValueError(f"nested more than {NESTING_MAX} levels deep")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _size(value: Any) -> bool:
    # Some languages write each number as a float.
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _priority(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _one_of(*words: str) -> _Check:
    return lambda value: isinstance(value, str) and value in words


def _optional(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _object(members: Mapping[str, _Check]) -> _Check:
    checks = tuple(members.items())
    return lambda value: isinstance(value, dict) and all(check(value.get(member)) for member, check in checks)


def _properties(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(schema, (dict, bool)) for schema in value.values())


_OPTIONAL_TEXT: Final = _optional(_text)
_OPTIONAL_FLAG: Final = _optional(_flag)
# Up to 2025-11-25 the root of an output schema, too, must be an object's; clients of that time read the same list.
_SCHEMA: Final = _object(
    {
        "type": _one_of("object"),
        "$schema": _OPTIONAL_TEXT,
        "properties": _optional(_properties),
        "required": _optional(_list_of(_text)),
    }
)
_ICON: Final = _object(
    {
        "src": _text,
        "mimeType": _OPTIONAL_TEXT,
        "sizes": _optional(_list_of(_text)),
        "theme": _optional(_one_of("dark", "light")),
    }
)
_ANNOTATIONS: Final = _object(
    {
        "audience": _optional(_list_of(_one_of("user", "assistant"))),
        "priority": _optional(_priority),
        "lastModified": _OPTIONAL_TEXT,
    }
)
_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_TOOL_ANNOTATIONS: Final = _object({"title": _OPTIONAL_TEXT, **dict.fromkeys(_HINTS, _OPTIONAL_FLAG)})
_EXECUTION: Final = _object({"taskSupport": _optional(_one_of("forbidden", "optional", "required"))})
_ARGUMENT: Final = _object(
    {"name": _text, "title": _OPTIONAL_TEXT, "description": _OPTIONAL_TEXT, "required": _OPTIONAL_FLAG}
)

_COMMON: Final[dict[str, _Check]] = {
    "name": _text,
    "title": _OPTIONAL_TEXT,
    "description": _OPTIONAL_TEXT,
    "icons": _optional(_list_of(_ICON)),
}
_CONTENT: Final[dict[str, _Check]] = {
    **_COMMON,
    "mimeType": _OPTIONAL_TEXT,
    "annotations": _optional(_ANNOTATIONS),
}
_TOOL: Final[dict[str, _Check]] = {
    **_COMMON,
    "inputSchema": _SCHEMA,
    "outputSchema": _optional(_SCHEMA),
    "annotations": _optional(_TOOL_ANNOTATIONS),
    "execution": _optional(_EXECUTION),
}
_MEMBERS: Final[Mapping[RouteKind, tuple[tuple[str, _Check], ...]]] = {
    RouteKind.TOOL: tuple(_TOOL.items()),
    RouteKind.PROMPT: (*_COMMON.items(), ("arguments", _optional(_list_of(_ARGUMENT)))),
    RouteKind.RESOURCE: (*_CONTENT.items(), ("uri", _text), ("size", _optional(_size))),
    RouteKind.TEMPLATE: (*_CONTENT.items(), ("uriTemplate", _text)),
}
