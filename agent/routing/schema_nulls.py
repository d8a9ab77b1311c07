"""Takes null out of a JSON Schema where it stands for a keyword that is not there. PURE.

Called by `agent.routing.definitions` for the schemas of a tool: serializers write null for what was left out, and what
reads a schema strictly (the SDK of a model's API, a compiler) refuses the tool, or the whole list. The one rule: null
that is a value of its own (`default`, `const`, an item of `enum`, any keyword that JSON Schema does not know) stays.
"""

from typing import Any, Final

from agent.mcp_headers import ANNOTATION, ONE_SCHEMA, SCHEMA_LIST, SCHEMA_MAP
from agent.model import Json

_PROPERTIES: Final = "properties"
_NAMED: Final = SCHEMA_MAP | {_PROPERTIES, "dependencies"}
_SINGLE: Final = ONE_SCHEMA | {"additionalItems"}
# Of every draft since 4, with OpenAPI's `nullable`. No `default` and no `const`: their value may be null.
_KEYWORDS: Final = (
    _NAMED
    | _SINGLE
    | SCHEMA_LIST
    | {
        ANNOTATION,
        "$schema",
        "$id",
        "id",
        "$ref",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$comment",
        "$vocabulary",
    }
    | {"title", "description", "examples", "deprecated", "readOnly", "writeOnly", "type", "enum", "format", "pattern"}
    | {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength"}
    | {"maxItems", "minItems", "uniqueItems", "maxContains", "minContains", "maxProperties", "minProperties"}
    | {"required", "dependentRequired", "contentEncoding", "contentMediaType", "nullable"}
)


def without_nulls(schema: Json) -> Json:
    """The schema without such members, at any depth; the very same object where there are none.

    A property whose schema is null stays, as one that allows everything.
    """
    kept = {}
    for keyword, value in schema.items():
        if value is None and keyword in _KEYWORDS:
            continue
        kept[keyword] = _mended(keyword, value)
    same = len(kept) == len(schema) and all(kept[keyword] is schema[keyword] for keyword in schema)
    return schema if same else kept


def _mended(keyword: str, value: Any) -> Any:
    if isinstance(value, dict):
        if keyword in _SINGLE:
            return without_nulls(value)
        if keyword in _NAMED:
            parts = {name: {} if part is None else _part(part) for name, part in value.items()}
            return value if all(parts[name] is value[name] for name in value) else parts
    elif isinstance(value, list) and (keyword in SCHEMA_LIST or keyword == "items"):
        items = [_part(part) for part in value]
        return value if all(now is before for now, before in zip(items, value, strict=True)) else items
    return value


def _part(value: Any) -> Any:
    return without_nulls(value) if isinstance(value, dict) else value
