"""Mends a tool, prompt, resource or template so that every strict client can read it, or says why none could.

Called by `agent.routing.claims` for each entry of an offer: many clients refuse a whole list, the lists of all other
servers in it, for one member of a wrong type. Null in an optional place means that nothing is there; a hint of a wrong
type says nothing either; a schema that leaves out what it must say gets it. The one rule: mending changes no meaning,
so what has another meaning without the part that cannot be read is left out as a whole, and said.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import orjson

from agent.lossless_json.exact import is_deeper_than
from agent.mcp_headers import ANNOTATION, without_invalid_annotations
from agent.model import Json
from agent.routing.output_schemas import is_object_schema, why_refused
from agent.routing.schema_nulls import without_nulls
from agent.routing.table import RouteKind

# Far deeper than honest schemas. The Python SDK's client reads 200 levels, in which a list and its envelope count.
NESTING_MAX: Final = 64
# Python reads no integer with more digits (`sys.get_int_max_str_digits`); its client refuses the list then.
DIGITS_MAX: Final = 4_300
# Beyond it a float that stands for an integer may stand for another one, and strict clients refuse some.
_FLOAT_AS_INTEGER_MAX: Final = 2.0**53

_SHOWN_LEN: Final = 60
_OUTPUT: Final = "outputSchema"
# MCP says ISO 8601; what the TypeScript SDK reads is this (RFC 3339, with seconds and a zone, in capitals).
_TIMESTAMP: Final = re.compile(
    r"\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-9]))"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_LEAP_DAY: Final = "02-29"
_HALF_PAIR_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")
_LONG_NUMBER: Final = re.compile(rb"[0-9]{%d}" % (DIGITS_MAX + 1))

# Gives the value as it may stay (the very same object where it is right), or `_ABSENT`; raises `LeftOut`.
_Mend: TypeAlias = Callable[[Any], Any]
_ABSENT: Final = object()


class LeftOut(ValueError):
    """No strict client could read the entry; the message says why."""


def mended(kind: RouteKind, definition: Json, say: Callable[[str], None] = lambda _: None) -> Json:
    """The definition as every strict client can read it, the very same object where nothing had to change.

    Of `_meta` only texts and numbers count, and how deep it is. `say` gets each part that was left out though it said
    something, and why. Raises `LeftOut`.
    """
    if is_deeper_than(definition, NESTING_MAX):
        raise LeftOut(f"nested more than {NESTING_MAX} levels deep")
    readable, text = _readable(definition)
    for member, source in _NEEDED[kind]:
        if not isinstance(readable.get(member), str):
            readable = {**readable, member: readable[source]}
    if kind is RouteKind.TOOL:
        if b"null" in text:
            readable = _mended_object(readable, dict.fromkeys(("inputSchema", _OUTPUT), _without_nulls))
        schema, invalid = _input_schema(readable.get("inputSchema")), list[object]()
        if ANNOTATION.encode() in text:
            schema, invalid = without_invalid_annotations(schema)
        if invalid:
            named = _shown(invalid[0]) if len(invalid) == 1 else f"{_shown(invalid[0])} and {len(invalid) - 1} more"
            say(f"{ANNOTATION} {named}, which is no header of one plain argument; the tool works without")
        readable = _with(readable, "inputSchema", schema)
        if _OUTPUT in readable:
            readable = _with_output_schema(readable, say)
    return _mended_object(readable, _MEMBERS[kind])


def _readable(definition: Json) -> tuple[Json, bytes]:
    """The same without halves of surrogate pairs, and as JSON.

    Each half is replaced (U+FFFD), as the Unicode standard advises.
    """
    try:
        text = orjson.dumps(definition)
    except TypeError as exc:  # orjson.JSONEncodeError is one
        raise LeftOut(f"no JSON: {exc}") from exc
    if len(text) > DIGITS_MAX and _LONG_NUMBER.search(text) is not None and _has_long_number(definition):
        raise LeftOut(f"a number with more than {DIGITS_MAX} digits")
    if _HALF_PAIR_ESCAPE.search(text) is None:
        return definition, text
    whole: Json = _without_half_pairs(definition)
    return whole, text


def _has_long_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_long_number, value.values()))
    if isinstance(value, list):
        return any(map(_has_long_number, value))
    return isinstance(value, orjson.Fragment) and _LONG_NUMBER.match(orjson.dumps(value).lstrip(b"-")) is not None


def _without_half_pairs(value: Any) -> Any:
    """Only such texts are `orjson.Fragment`s with a quote (`agent.lossless_json.exact`)."""
    if isinstance(value, dict):
        return {name: _without_half_pairs(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_half_pairs(item) for item in value]
    if isinstance(value, orjson.Fragment) and (text := orjson.dumps(value)).startswith(b'"'):
        return _HALF_PAIR.sub("\ufffd", json.loads(text))
    return value


def _mended_object(value: Json, members: Mapping[str, _Mend]) -> Json:
    changed = {}
    for member, mend in members.items():
        if member in value and (now := mend(value[member])) is not value[member]:
            changed[member] = now
    if not changed:
        return value
    # A new object, whose bytes are not those that its server wrote.
    kept = ((member, changed.get(member, present)) for member, present in value.items())
    return {member: present for member, present in kept if present is not _ABSENT}


def _with(value: Json, member: str, present: Any) -> Json:
    return value if member in value and value[member] is present else {**value, member: present}


# Members that say something beside the meaning: what cannot be read is not there.


def _if(check: Callable[[Any], bool]) -> _Mend:
    return lambda value: value if check(value) else _ABSENT


def _object(members: Mapping[str, _Mend]) -> _Mend:
    return lambda value: _mended_object(value, members) if isinstance(value, dict) else _ABSENT


def _each(mend: _Mend) -> _Mend:
    """A list without the items that cannot be read."""

    def mend_all(value: Any) -> Any:
        if not isinstance(value, list):
            return _ABSENT
        items = [mend(item) for item in value]
        if all(now is before for now, before in zip(items, value, strict=True)):
            return value
        return [item for item in items if item is not _ABSENT]

    return mend_all


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_priority(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_timestamp(value: Any) -> bool:
    if not isinstance(value, str) or _TIMESTAMP.fullmatch(value) is None:
        return False
    year = int(value[:4])
    return value[5:10] != _LEAP_DAY or (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))


def _size(value: Any) -> Any:
    """Some languages write each number as a float; other readers take only an integer for one."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _FLOAT_AS_INTEGER_MAX:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else _ABSENT


_TEXT: Final = _if(lambda value: isinstance(value, str))
_FLAG: Final = _if(lambda value: isinstance(value, bool))


def _icon(value: Any) -> Any:
    return _mended_object(value, _ICON) if isinstance(value, dict) and isinstance(value.get("src"), str) else _ABSENT


_ICON: Final[dict[str, _Mend]] = {
    "mimeType": _TEXT,
    "sizes": _if(_all_texts),
    "theme": _if(_one_of("dark", "light")),
}
_ANNOTATIONS: Final = _object(
    {
        "audience": _if(lambda value: isinstance(value, list) and all(map(_one_of("user", "assistant"), value))),
        "priority": _if(_is_priority),
        "lastModified": _if(_is_timestamp),
    }
)
_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_TOOL_ANNOTATIONS: Final = _object({"title": _TEXT, **dict.fromkeys(_HINTS, _FLAG)})
_EXECUTION: Final = _object({"taskSupport": _if(_one_of("forbidden", "optional", "required"))})
_ARGUMENT: Final[dict[str, _Mend]] = {"title": _TEXT, "description": _TEXT, "required": _FLAG}


# Members that are the meaning.


def _arguments(value: Any) -> Any:
    """A prompt's arguments: one without a name could not be given."""
    if value is None:
        return _ABSENT
    if value == {}:
        return []  # What PHP writes for an empty list depends on where it comes from; so below.
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise LeftOut("arguments is no list of objects")
    if not all(isinstance(item.get("name"), str) for item in value):
        raise LeftOut("an argument without a name")
    return _each(_object(_ARGUMENT))(value)


def _input_schema(value: Any) -> Any:
    """An object's schema: a tool's arguments are an object whatever its schema says or leaves out."""
    if value is None or value is True or value == []:
        return {"type": "object"}
    if value is False:
        return {"type": "object", "not": {}}
    if not isinstance(value, dict):
        raise LeftOut(f"inputSchema is no schema, but {_shown(value)}")
    kinds = value.get("type")
    if kinds is None or (isinstance(kinds, list) and "object" in kinds):
        value = {**value, "type": "object"}
    elif kinds != "object":
        raise LeftOut(f"inputSchema is not an object's, its type is {_shown(kinds)}")
    return _object_schema(value)


def _with_output_schema(tool: Json, say: Callable[[str], None]) -> Json:
    """The tool with an output schema that is written as an object and that clients compile, or without."""
    written = tool[_OUTPUT]
    schema = _output_schema(written)
    why = f"{_shown(written)} is no schema" if schema is _ABSENT else why_refused(schema)
    if not why:
        return _with(tool, _OUTPUT, schema)
    if written is not None:
        say(f"its outputSchema, which not every client can read ({why}); the tool works without")
    return {member: value for member, value in tool.items() if member != _OUTPUT}


def _output_schema(value: Any) -> Any:
    """Any schema at all since 2026-07-28, though clients take only one that is written as an object."""
    match value:
        case True:
            return {}
        case False:
            return {"not": {}}
        case dict():
            try:
                return _object_schema(value) if is_object_schema(value) else _mended_object(value, _ANY_SCHEMA)
            except LeftOut:
                return _ABSENT  # The tool works without.
        case _:
            return _ABSENT


def _without_nulls(value: Any) -> Any:
    return without_nulls(value) if isinstance(value, dict) else value


def _object_schema(value: Json) -> Json:
    return _mended_object(value, {**_ANY_SCHEMA, "properties": _properties, "required": _required})


def _properties(value: Any) -> Any:
    """Schemas by name, each written as an object: the TypeScript SDK 1 takes no boolean, Python's no list."""
    if value is None:
        return _ABSENT
    if value == []:
        return {}
    if not isinstance(value, dict):
        raise LeftOut(f"properties of a schema are no object, but {_shown(value)}")
    return _mended_object(value, dict.fromkeys(value, _property))


def _property(value: Any) -> Any:
    if value is None or value is True:
        return {}
    if value is False:
        return {"not": {}}
    if not isinstance(value, dict):
        raise LeftOut(f"a property's schema is none, but {_shown(value)}")
    return value


def _required(value: Any) -> Any:
    if not isinstance(value, list):
        return _ABSENT
    return value if _all_texts(value) else [name for name in value if isinstance(name, str)]


def _shown(value: Any) -> str:
    return orjson.dumps(value).decode("utf-8", "replace")[:_SHOWN_LEN]


_ANY_SCHEMA: Final[dict[str, _Mend]] = {"$schema": _TEXT}
_COMMON: Final[dict[str, _Mend]] = {"title": _TEXT, "description": _TEXT, "icons": _each(_icon)}
_CONTENT: Final[dict[str, _Mend]] = {**_COMMON, "mimeType": _TEXT, "annotations": _ANNOTATIONS}
_MEMBERS: Final[Mapping[RouteKind, Mapping[str, _Mend]]] = {
    RouteKind.TOOL: {
        **_COMMON,
        "annotations": _TOOL_ANNOTATIONS,
        "execution": _EXECUTION,
    },
    RouteKind.PROMPT: {**_COMMON, "arguments": _arguments},
    RouteKind.RESOURCE: {**_CONTENT, "size": _size},
    RouteKind.TEMPLATE: _CONTENT,
    RouteKind.SERVER: {},
}
# A member that must be a text, and the one that stands in for it: a resource without a name is known by its URI.
_NEEDED: Final[Mapping[RouteKind, tuple[tuple[str, str], ...]]] = {
    RouteKind.TOOL: (),
    RouteKind.PROMPT: (),
    RouteKind.RESOURCE: (("name", "uri"),),
    RouteKind.TEMPLATE: (("name", "uriTemplate"),),
    RouteKind.SERVER: (("name", "uri"),),
}
