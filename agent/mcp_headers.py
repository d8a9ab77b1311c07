"""The values of MCP's HTTP headers, and the tool parameters that headers repeat (MCP 2026-07-28, custom headers). PURE.

Used by the client for what it sends, by the server for what it checks. The SDK has the same functions, behind an import
of a second; tests/unit/server/test_inbound.py holds these against them. The one rule: what one end writes, the
other end reads back as the very same text.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]  # As agent.model has it, which costs a command more than all of this.

# How the headers begin that a tool's schema asks for.
PARAM_HEADER: Final = "Mcp-Param-"
_PARAM_HEADER_LOWER: Final = PARAM_HEADER.lower()
ANNOTATION: Final = "x-mcp-header"
_ENCODED: Final = re.compile(r"^=\?base64\?(?P<payload>.*)\?=$")
_PRINTABLE: Final = re.compile(r"^[\x20-\x7E]*$")
_TOKEN: Final = re.compile(r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")  # RFC 9110, 5.6.2
_DECIMAL: Final = re.compile(r"^-?[0-9]+(\.[0-9]+)?$")
# A number's text is not the same everywhere, so no header repeats one.
_REPEATED_TYPES: Final = frozenset({"string", "integer", "boolean"})
# The keywords of JSON Schema 2020-12 below which schemas stand, by the shape of their value; `properties` apart.
ONE_SCHEMA: Final = frozenset(
    {
        "items",
        "contains",
        "unevaluatedItems",
        "additionalProperties",
        "propertyNames",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    }
)
SCHEMA_LIST: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
SCHEMA_MAP: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})

ParamPath = tuple[str, ...]


def encode_header_value(value: str) -> str:
    """The text as a header has it: in base64 where it would not pass as it is."""
    if _PRINTABLE.fullmatch(value) and value == value.strip() and not _ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="


def decode_header_value(value: str | None) -> str | None:
    """The text that a header's value stands for; None for none, and for what no encoder writes."""
    if value is None or (encoded := _ENCODED.fullmatch(value)) is None:
        return value
    payload = encoded["payload"]
    try:
        data = base64.b64decode(payload, validate=True)
        return data.decode() if base64.b64encode(data).decode("ascii") == payload else None
    except ValueError:  # Neither base64 nor ASCII, or no UTF-8.
        return None


def is_param_header(name: str) -> bool:
    """Whether a header of this name repeats a parameter. Names of headers have no case."""
    return name.lower().startswith(_PARAM_HEADER_LOWER)


def param_header_map(schema: object) -> dict[ParamPath, str]:
    """The header of each parameter that has one, without `Mcp-Param-`, by its path in the arguments.

    Empty where any annotation of the schema is invalid: then none counts.
    """
    found = _annotated(schema)
    return {} if found is None else {path: token for path, (token, _) in found.items()}


def without_invalid_annotations(schema: Json) -> tuple[Json, list[object]]:
    """The schema without annotations that are invalid, and those; the very same object where there are none.

    Of several that name one header, none says which argument it repeats.
    """
    invalid: dict[int, object] = {}
    named: dict[str, list[Json]] = {}
    for path, part in _schemas(schema):
        if ANNOTATION not in part:
            continue
        if _is_valid(path, part):
            named.setdefault(part[ANNOTATION].lower(), []).append(part)
        else:
            invalid[id(part)] = part[ANNOTATION]
    invalid |= {id(part): part[ANNOTATION] for same in named.values() if len(same) > 1 for part in same}
    return (_without(schema, invalid), list(invalid.values())) if invalid else (schema, [])


def param_headers(header_map: Mapping[ParamPath, str], arguments: Json) -> dict[str, str]:
    """The headers that repeat these arguments. What is absent or null has none, nor has what is no text or number."""
    headers: dict[str, str] = {}
    for path, token in header_map.items():
        text = _header_text(_at(arguments, path))
        if text is not None:
            headers[f"{PARAM_HEADER}{token}"] = encode_header_value(text)
    return headers


def param_disagreement(schema: object, arguments: Json, headers: Mapping[str, str]) -> str | None:
    """Where a client's headers do not say what the arguments of its call say; None where all agree.

    `headers` may name one several times, in different cases.
    """
    found = _annotated(schema)
    if not found:
        return None
    received: dict[str, list[str]] = {}
    for name, value in headers.items():
        received.setdefault(name.lower(), []).append(value)
    for path, (token, declared) in found.items():
        problem = _problem(received.get(f"{PARAM_HEADER}{token}".lower(), []), _at(arguments, path), declared, path)
        if problem is not None:
            return f"{PARAM_HEADER}{token} header {problem}"
    return None


def _problem(received: list[str], value: object, declared: object, path: ParamPath) -> str | None:
    """What is wrong with the header of one argument; `declared`: its type in the schema."""
    argument = f"the request body's {'.'.join(path)!r} argument"
    if len(received) > 1:
        return "appears more than once"
    if value is None:
        return f"is present but {argument} is absent" if received else None
    differs = f"does not match {argument}"
    if (text := _header_text(value)) is None:
        return differs if received else None
    if not received:
        return f"is missing but {argument} is present"
    if (told := decode_header_value(received[0])) is None:
        return "carries a malformed base64 sentinel value"
    return None if _says(told, value, text, declared) else differs


def _says(told: str, value: object, text: str, declared: object) -> bool:
    """Whether a header says the value; whole numbers compare as numbers, so that 42.0 is 42."""
    is_whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if declared != "integer" or not is_whole or _DECIMAL.fullmatch(told) is None:
        return told == text
    whole, _, fraction = told.partition(".")
    if fraction.strip("0"):
        return False
    try:
        return int(whole) == value
    except ValueError:  # More digits than Python reads.
        return False


def _header_text(value: object) -> str | None:
    """The text that repeats an argument; None where there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        return None
    try:
        return str(value)
    except ValueError:  # More digits than Python writes.
        return None


def _at(arguments: object, path: ParamPath) -> object:
    """The value at a path of members, None where there is none."""
    for name in path:
        if not isinstance(arguments, dict):
            return None
        arguments = arguments.get(name)
    return arguments


def _annotated(schema: object) -> dict[ParamPath, tuple[str, object]] | None:
    """Header and type of each annotated parameter, by path; None where any annotation is invalid."""
    found: dict[ParamPath, tuple[str, object]] = {}
    for path, part in _schemas(schema):
        if ANNOTATION not in part:
            continue
        if not path or not _is_valid(path, part):
            return None
        found[path] = part[ANNOTATION], part["type"]
    tokens = {token.lower() for token, _ in found.values()}
    return found if len(tokens) == len(found) else None


def _is_valid(path: ParamPath | None, part: Json) -> bool:
    token, declared = part[ANNOTATION], part.get("type")
    is_token = isinstance(token, str) and _TOKEN.fullmatch(token) is not None
    return bool(path) and is_token and isinstance(declared, str) and declared in _REPEATED_TYPES


def _without(value: Any, invalid: Mapping[int, object]) -> Any:
    """A copy without the annotations of these schemas, by their identity."""
    if isinstance(value, list):
        return [_without(item, invalid) for item in value]
    if not isinstance(value, dict):
        return value
    is_invalid = id(value) in invalid
    return {name: _without(item, invalid) for name, item in value.items() if not (is_invalid and name == ANNOTATION)}


def _schemas(root: object) -> Iterator[tuple[ParamPath | None, dict[str, Any]]]:
    """Every schema within a schema, with its path through `properties`; None where another keyword was passed."""
    pending: list[tuple[ParamPath | None, object]] = [((), root)]
    while pending:
        path, schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        yield path, schema
        for keyword, value in schema.items():
            if keyword == "properties" and isinstance(value, dict):
                pending += ((None if path is None else (*path, name), part) for name, part in value.items())
            elif keyword in ONE_SCHEMA:
                pending.append((None, value))
            elif keyword in SCHEMA_LIST and isinstance(value, list):
                pending += ((None, part) for part in value)
            elif keyword in SCHEMA_MAP and isinstance(value, dict):
                pending += ((None, part) for part in value.values())
