"""Which clients can take a tool's output schema: all, none, or only those of 2026-07-28.

Called for every tool by `agent.routing.definitions`, so that large offers are judged beside the event loop. Clients
compile it: the TypeScript SDK 1 while it lists, where one that its compiler (Ajv 8, without strict mode) refuses costs
the whole list; the TypeScript SDK 2 and Python's SDK 2 with the result of a call, which is lost then. Clients with
sessions know object schemas only. The one rule: a schema is taken only where everything in it that a compiler reads is
known to be right; what is in doubt is not shown, and its tool works without.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import orjson

from agent.model import Json

_SHOWN_LEN: Final = 60
_LATEST_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"  # Of a schema that names none (MCP 2026-07-28).
_SCHEME: Final = re.compile(r"\Ahttps?://")
_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_Check: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a compiler reads: whether a keyword's value is right, and the schemas right below a keyword."""

    values: Mapping[str, _Check]
    parts: Mapping[str, Callable[[Any], Iterable[Any]]]


def is_object_schema(schema: object) -> bool:
    """Whether an output schema is one that MCP knew before 2026-07-28: an object's, at its root."""
    return isinstance(schema, dict) and schema.get("type") == "object"


def is_shown_in_sessions(schema: object) -> bool:
    """Whether an output schema is an object's, at its root, and surely compiled by every earlier client."""
    if not isinstance(schema, dict) or not is_object_schema(schema):
        return False
    compiler = _Compiler(_without_identifier(schema), _EARLIER)
    return compiler.takes(compiler.root)


def why_refused(schema: Json) -> str:
    """Why some client of 2026-07-28 might not compile the schema; empty where each surely does."""
    dialect = schema.get("$schema", _LATEST_DIALECT)
    rules = _DIALECTS.get(_SCHEME.sub("", dialect).removesuffix("#")) if isinstance(dialect, str) else None
    if rules is None:
        return f"$schema: {_shown(dialect)} is no dialect that all clients know"
    compiler = _Compiler(_without_identifier(schema), rules)
    return "" if compiler.takes(compiler.root) else compiler.fault


def _without_identifier(schema: Json) -> Json:
    """The schema without a name of its own that means nothing for what is in it."""
    identifier = schema.get("$id")
    if not isinstance(identifier, str) or "#" in identifier:
        return schema
    return {keyword: value for keyword, value in schema.items() if keyword != "$id"}


class _Compiler:
    """One schema with all that its references lead to. Lives for one call. `fault`: what was refused first."""

    def __init__(self, root: Json, rules: "_Rules") -> None:
        self.root = root
        self.fault = ""
        self._rules = rules
        self._seen: set[int] = set()

    def takes(self, schema: Any) -> bool:
        """Whether this part of it is right, and every part below."""
        if isinstance(schema, bool) or id(schema) in self._seen:
            return True
        if not isinstance(schema, dict):
            return self._refuse(f"{_shown(schema)} is no schema")
        self._seen.add(id(schema))
        for name, value in schema.items():
            check, parts = self._rules.values.get(name), self._rules.parts.get(name)
            if check is not None and not check(value):
                return self._refuse(f"{name}: {_shown(value)}")
            if parts is not None and not all(map(self.takes, parts(value))):
                return False
        if "nullable" in schema and not _may_be_nullable(schema):
            return self._refuse(f"nullable: {_shown(schema['nullable'])}, which does not fit its type")
        return self._refers(schema)

    def _refuse(self, fault: str) -> bool:
        self.fault = self.fault or fault
        return False

    def _refers(self, schema: Json) -> bool:
        if "$ref" not in schema:
            return True
        passed: set[int] = set()
        found: Any = schema
        while isinstance(found, dict) and "$ref" in found:
            if id(found) in passed:
                return self._refuse(f"$ref: {_shown(found['$ref'])} leads round in a circle")
            passed.add(id(found))
            found = self._target(found["$ref"])
        return self.takes(found) if found is not None else self._refuse(f"$ref: {_shown(schema['$ref'])}")

    def _target(self, reference: Any) -> Any:
        """What a reference within the schema means; None for any other."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return None
        found: Any = self.root
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


def _shown(value: Any) -> str:
    return orjson.dumps(value).decode("utf-8", "replace")[:_SHOWN_LEN]


def _may_be_nullable(schema: Json) -> bool:
    """OpenAPI's keyword, which Ajv knows: only beside a type, and not denied where the type itself has null."""
    kinds, allows = schema.get("type", ""), schema["nullable"]
    return bool(kinds) and isinstance(allows, bool) and (allows or "null" not in kinds)


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
    **dict.fromkeys(("$id", "id", "$anchor", "$dynamicAnchor", "$async"), lambda _: False),
    **dict.fromkeys(_NUMBERS, _is_number),
}

# Beside what Ajv compiles, the metaschemas that Python's `jsonschema` holds a schema against (JSON Schema 2020-12).


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and float(value).is_integer()


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _filled(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


_EARLIER: Final = _Rules(_VALUES, _PARTS)
_COUNTS: Final = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")
_STRICT_VALUES: Final[Mapping[str, _Check]] = {
    **_VALUES,
    **dict.fromkeys(("$comment", "title", "description", "contentEncoding", "contentMediaType"), _is_text),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly"), _is_flag),
    **dict.fromkeys((*_COUNTS, "maxContains", "minContains"), _is_count),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _filled),
    "dependencies": lambda value: (
        isinstance(value, dict) and all(_are_names(of) for of in value.values() if _is_list(of))
    ),
    "examples": _is_list,
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "required": _are_names,
    "type": lambda value: _is_type(value) and (isinstance(value, str) or len(set(value)) == len(value)),
}
_DRAFT_7: Final = _Rules(_STRICT_VALUES, _PARTS)
_LATEST: Final = _Rules(
    {
        **_STRICT_VALUES,
        "prefixItems": _filled,
        "dependentRequired": lambda value: isinstance(value, dict) and all(map(_are_names, value.values())),
    },
    {
        **_PARTS,
        **dict.fromkeys(("items", "unevaluatedItems", "unevaluatedProperties", "contentSchema"), _one),
        "prefixItems": _many,
        "dependentSchemas": _named,
    },
)
# By `$schema` without its beginning and end.
_DIALECTS: Final = {
    **dict.fromkeys(("json-schema.org/draft/2020-12/schema", "json-schema.org/draft/2019-09/schema"), _LATEST),
    **dict.fromkeys(("json-schema.org/draft-07/schema", "json-schema.org/draft-06/schema"), _DRAFT_7),
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
