"""Whether earlier clients can take a tool's output schema: those from before 2026-07-28, to which sessions belong.

Called by `agent.routing.claims` for every tool, so that large offers are judged beside the event loop. Such a client
knows object schemas only, and the TypeScript SDK 1 compiles each one while it lists: one that its compiler (Ajv 8,
without strict mode) refuses costs the client the whole list. The one rule: a schema is taken only where everything in
it that Ajv reads is known to be right; what is in doubt is not shown, and its tool works without.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from agent.model import Json
from agent.routing.definitions import is_object_schema

_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_Check: TypeAlias = Callable[[Any], bool]


def is_shown_in_sessions(schema: object) -> bool:
    """Whether an output schema is an object's, at its root, and surely compiled by every client."""
    return is_object_schema(schema) and isinstance(schema, dict) and _Compiler(schema).takes(schema)


class _Compiler:
    """One schema with all that its references lead to. Lives for one call."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._seen: set[int] = set()

    def takes(self, schema: Any) -> bool:
        """Whether this part of it is right, and every part below."""
        if isinstance(schema, bool) or id(schema) in self._seen:
            return True
        if not isinstance(schema, dict):
            return False
        self._seen.add(id(schema))
        for name, value in schema.items():
            check, parts = _VALUES.get(name), _PARTS.get(name)
            if (check is not None and not check(value)) or (
                parts is not None and not all(map(self.takes, parts(value)))
            ):
                return False
        return self._refers(schema)

    def _refers(self, schema: Json) -> bool:
        if "$ref" not in schema:
            return True
        passed: set[int] = set()
        while isinstance(schema, dict) and "$ref" in schema:
            if id(schema) in passed:  # It leads round in a circle and never to a schema.
                return False
            passed.add(id(schema))
            schema = self._target(schema["$ref"])
        return self.takes(schema)

    def _target(self, reference: Any) -> Any:
        """What a reference within the schema means; None for any other."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return None
        found: Any = self._root
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
            else:
                found = found.get(name) if isinstance(found, dict) else None
            # Ajv takes a member of that name for an identifier, even among definitions, and then walks another way.
            if isinstance(found, dict) and "$id" in found:
                return None
        return found


# The schemas right below a keyword; a value of the wrong type stands for itself, and is none.


def _named(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else [None]


def _many(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [None]


def _one_or_many(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _needed(value: Any) -> Iterable[Any]:
    return [part for part in _named(value) if not _is_list(part)]


def _one(value: Any) -> Iterable[Any]:
    return [value]


_PARTS: Final[Mapping[str, Callable[[Any], Iterable[Any]]]] = {
    **dict.fromkeys(("additionalItems", "additionalProperties", "contains", "propertyNames"), _one),
    **dict.fromkeys(("not", "if", "then", "else"), _one),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _many),
    **dict.fromkeys(("properties", "patternProperties", "definitions", "$defs"), _named),
    "items": _one_or_many,
    "dependencies": _needed,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_type(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


def _has_patterns(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_javascript_pattern, value))


_NUMBERS: Final = (
    *("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength"),
    *("maxItems", "minItems", "maxProperties", "minProperties"),
)
# Keywords whose value Ajv looks at while it compiles. It ignores every other one.
_VALUES: Final[Mapping[str, _Check]] = {
    "type": _is_type,
    "format": lambda value: isinstance(value, str),
    "pattern": lambda value: isinstance(value, str) and is_javascript_pattern(value),
    "patternProperties": _has_patterns,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "required": _is_list,
    "uniqueItems": lambda value: isinstance(value, bool),
    # They change what a `$ref` means, or are refused; hardly any server's schema has them.
    **dict.fromkeys(("$id", "id", "$anchor", "$dynamicAnchor", "$async", "nullable"), lambda _: False),
    **dict.fromkeys(_NUMBERS, _is_number),
}

_ESCAPED: Final = r"\\(?:[dDwWsStnrfv^$\\.*+?()\[\]{}|/]|x[0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})"
_TOKEN: Final = re.compile(
    rf"(?P<atom>{_ESCAPED}|[^\^$\\.*+?()\[\]{{}}|]|\.|\[\^?(?:{_ESCAPED}|\\-|[^\\\[\]])+\])"
    r"|(?P<edge>\^|\$|\\[bB])"
    r"|(?P<open>\((?:\?:)?(?!\?))"
    r"|(?P<look>\(\?(?:=|!))"
    r"|(?P<close>\))"
    r"|(?P<many>(?:[*+?]|\{\d{1,4}(?:,\d{0,4})?\})\??)"
    r"|(?P<other>\|)",
    re.ASCII | re.DOTALL,
)
# In a set Python may read them as operations to come, and warns.
_SET_OPERATIONS: Final = ("--", "&&", "~~", "||")


def is_javascript_pattern(pattern: str) -> bool:
    """Whether JavaScript surely takes it as a regular expression in its Unicode mode; many right ones are doubted."""
    place, groups, may_repeat = 0, list[bool](), False
    while place < len(pattern):
        found = _TOKEN.match(pattern, place)
        kind = None if found is None else found.lastgroup
        match kind:
            case "open" | "look":
                groups.append(kind == "open")
                may_repeat = False
            case "close" if groups:
                may_repeat = groups.pop()
            case "many" if may_repeat:
                may_repeat = False
            case "atom":
                may_repeat = True
            case "edge" | "other":
                may_repeat = False
            case _:
                return False
        assert found is not None
        place = found.end()
    return not groups and not any(twice in pattern for twice in _SET_OPERATIONS) and _python_takes(pattern)


def _python_takes(pattern: str) -> bool:
    """Ranges in sets, and numbers of repetitions, mean the same to both."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
