"""What servers list that strict clients refuse: each fault in an entry of its own, beside one good entry of each kind.

`PAGES` are the results of the list methods as bytes, since some of it no JSON writer would write. `LISTED` is what a
client has to see of it, `LEFT_OUT` what it must not.
"""

import json
import random
from typing import Any

_OBJECT = {"type": "object"}


def _nested(levels: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(levels):
        value = {"type": "array", "items": value}
    return value


def _tool(**members: Any) -> dict[str, Any]:
    return {"inputSchema": _OBJECT, **members}


MENDED_TOOLS: dict[str, Any] = {
    "good": _tool(description="Good.", outputSchema={"type": "object", "properties": {"a": {"type": "string"}}}),
    "null-members": _tool(
        description=None, title=None, annotations=None, outputSchema=None, icons=None, execution=None, _meta=None
    ),
    "null-hints": _tool(annotations={"title": None, "readOnlyHint": None}, execution={"taskSupport": None}),
    "wrong-hints": _tool(annotations={"readOnlyHint": "yes", "title": 7}, icons=[{"src": None}, 1], title=[]),
    "null-in-schema": {"inputSchema": {"type": "object", "properties": None, "required": None}},
    "empty-schema": {"inputSchema": {}},
    "no-schema": {},
    "true-schema": {"inputSchema": True},
    "reference": {"inputSchema": {"$ref": "#/$defs/a", "$defs": {"a": _OBJECT}}},
    "list-for-object": {"inputSchema": {"type": "object", "properties": []}},
    "boolean-property": {"inputSchema": {"type": "object", "properties": {"a": True, "b": False}}},
    "array-output": _tool(outputSchema={"type": "array", "items": {}}),
    "choice-output": _tool(outputSchema={"oneOf": [_OBJECT, {"type": "array"}]}),
    "reference-output": _tool(outputSchema={"$ref": "#/$defs/a", "$defs": {"a": _OBJECT}}),
    "boolean-output": _tool(outputSchema=True),
    "null-in-a-property": {
        "inputSchema": {"type": "object", "properties": {"a": {"description": None, "default": None}, "b": None}}
    },
    "null-in-output": _tool(outputSchema={"type": "object", "properties": {"a": {"enum": None, "title": None}}}),
}
# Of these a part is left out, and said.
PARTED_TOOLS: dict[str, Any] = {
    "text-output": _tool(outputSchema="x"),
    "lost-reference": _tool(outputSchema={"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}),
    "python-pattern": _tool(outputSchema={"type": "object", "properties": {"a": {"pattern": r"(?P<a>x)\Z"}}}),
    "unknown-type": _tool(outputSchema={"type": "object", "properties": {"a": {"type": "any"}}}),
    "array-of-unknown-type": _tool(outputSchema={"type": "array", "items": {"type": "any"}}),
    "unknown-dialect": _tool(outputSchema={"type": "object", "$schema": "https://example.com/dialect"}),
    "no-header": {"inputSchema": {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "a b"}}}},
    "header-twice": {
        "inputSchema": {
            "type": "object",
            "properties": {name: {"type": "string", "x-mcp-header": "Same"} for name in ("a", "b")},
        }
    },
}
LEFT_OUT_TOOLS: dict[str, Any] = {
    "deep": {"inputSchema": {"type": "object", "properties": {"a": _nested(250)}}},
    "very-deep": {"inputSchema": {"type": "object", "properties": {"a": _nested(440)}}},
    "array-schema": {"inputSchema": {"type": "array"}},
    "list-schema": {"inputSchema": [1]},
    "text-schema": {"inputSchema": "object"},
    "number-property": {"inputSchema": {"type": "object", "properties": {"a": 1}}},
}
MENDED_PROMPTS: dict[str, Any] = {
    "good": {"arguments": [{"name": "a", "required": True}]},
    "null-members": {"arguments": None, "description": None, "title": None},
    "null-argument": {"arguments": [{"name": "a", "description": None, "required": None}]},
}
LEFT_OUT_PROMPTS: dict[str, Any] = {"nameless": {"arguments": [{"description": "a"}]}, "odd": {"arguments": "a"}}
MENDED_RESOURCES: dict[str, Any] = {
    "n://good": {"name": "good", "size": 1},
    "n://null-members": {"name": "a", "mimeType": None, "size": None, "annotations": None, "description": None},
    "n://null-name": {"name": None},
    "n://huge": {"name": "a", "size": 1e300},
    "n://no-zone": {"name": "a", "annotations": {"lastModified": "2026-01-01T10:00:00", "priority": 7}},
    "n://date": {"name": "a", "annotations": {"lastModified": "2026-01-01", "audience": ["all"]}},
}
# Whose entries are no objects, or have no name: they are left out by their number.
STRAY: list[Any] = [None, 7, "tool", [], {}, {"name": None}]
# Halves of surrogate pairs and a number that Python cannot read.
_RAW_TOOLS = (
    rb'{"name":"half-pair","description":"a\ud83d","inputSchema":{"type":"object","title":"\udc00"}}',
    b'{"name":"long-number","inputSchema":{"type":"object","maximum":%b}}' % (b"7" * 5_000),
)


def _named(entries: dict[str, Any], member: str) -> list[bytes]:
    return [json.dumps({member: name, **entry}).encode() for name, entry in entries.items()]


def _page(key: str, *entries: bytes) -> bytes:
    return b'{"resultType":"complete","%b":[%b]}' % (key.encode(), b",".join(entries))


_STRAY = [json.dumps(entry).encode() for entry in STRAY]
PAGES = {
    "tools/list": _page(
        "tools",
        *_STRAY,
        *_named(LEFT_OUT_TOOLS, "name"),
        *_RAW_TOOLS,
        *_named(PARTED_TOOLS, "name"),
        *_named(MENDED_TOOLS, "name"),
    ),
    "prompts/list": _page("prompts", *_STRAY, *_named(LEFT_OUT_PROMPTS, "name"), *_named(MENDED_PROMPTS, "name")),
    "resources/list": _page("resources", *_STRAY, *_named(MENDED_RESOURCES, "uri")),
}
LISTED = {
    "tools": {*MENDED_TOOLS, *PARTED_TOOLS, "half-pair"},
    "prompts": {*MENDED_PROMPTS},
    "resources": {*MENDED_RESOURCES},
}
LEFT_OUT = {*LEFT_OUT_TOOLS, *LEFT_OUT_PROMPTS, "long-number"}


# Random faults: right definitions with something odd in one or two places.

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": ["string", "null"], "pattern": "^a+$", "format": "date", "maxLength": 3},
        "b": {"$ref": "#/$defs/B"},
        "c": {"type": "array", "items": {"enum": [1, "x"]}, "minItems": 1, "uniqueItems": True},
        "d": {"anyOf": [{"const": 1}, {"not": {"type": "null"}}], "default": 1},
    },
    "patternProperties": {"^x-": {"type": "number", "exclusiveMinimum": 0}},
    "required": ["a"],
    "additionalProperties": False,
    "dependencies": {"a": ["b"]},
    "$defs": {"B": {"type": "object", "properties": {"again": {"$ref": "#"}}}},
    "$schema": "https://json-schema.org/draft/2020-12/schema",
}
_ICONS = [{"src": "data:,", "sizes": ["any"], "theme": "dark", "mimeType": "image/png"}]
_RIGHT: dict[str, dict[str, Any]] = {
    "tools": {
        "title": "T",
        "description": "d",
        "inputSchema": _SCHEMA,
        "outputSchema": _SCHEMA,
        "annotations": {"title": "T", "readOnlyHint": True, "later": 1},
        "icons": _ICONS,
        "execution": {"taskSupport": "optional"},
        "_meta": {"a": [1]},
    },
    "prompts": {
        "title": "P",
        "icons": _ICONS,
        "arguments": [{"name": "a", "title": "A", "description": "d", "required": True}],
    },
    "resources": {
        "name": "r",
        "mimeType": "text/plain",
        "size": 3,
        "annotations": {"audience": ["user"], "priority": 1, "lastModified": "2026-01-01T00:00:00Z"},
    },
}
_ODD: list[Any] = [
    *(None, True, False, 0, -1, 2.0, 2.5, 1e300, 2**53, "", "x", "object", "user", "dark", "#", "#/x", "(?P<a>b)", "["),
    *([], {}, [None], ["x"], [[]], {"a": None}, {"a": 1}, {"type": "object"}, {"type": "x"}, {"$ref": "#/none"}),
    *({"$id": "x"}, {"nullable": True}, {"enum": []}, {"items": 1}, {"src": None}, {"name": 1}, {"pattern": "\\Z"}),
]


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with something odd at one place, or nothing there."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not keys or rng.random() < 0.2:
        return rng.choice(_ODD)
    key = rng.choice(keys)
    if isinstance(value, list):
        return [_changed(item, rng) if place == key else item for place, item in enumerate(value)]
    if rng.random() < 0.1:
        return {name: item for name, item in value.items() if name != key}
    if rng.random() < 0.1:
        return {**value, rng.choice(["$id", "id", "nullable", "type", "$ref", "items", "required"]): rng.choice(_ODD)}
    return {**value, key: _changed(value[key], rng)}


def random_pages(seed: int, count: int) -> dict[str, bytes]:
    """The results of the list methods with `count` entries each, all under names that may be listed."""
    rng = random.Random(seed)
    pages = {}
    for key, right in _RIGHT.items():
        member = "uri" if key == "resources" else "name"
        entries = []
        for number in range(count):
            entry = _changed(_changed(right, rng), rng)
            named = {member: f"n://{number}" if key == "resources" else f"t{number}"}
            entries.append(json.dumps(entry | named if isinstance(entry, dict) else entry).encode())
        pages[f"{key}/list"] = _page(key, *entries)
    return pages
