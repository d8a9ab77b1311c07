"""Which output schemas earlier clients are shown: what their compiler takes beyond doubt, and nothing else."""

from typing import Any

import pytest

from agent.routing.output_schemas import is_javascript_pattern, is_shown_in_sessions

RIGHT: list[Any] = [
    {"type": "object"},
    {"type": "object", "properties": {"a": {"type": ["string", "null"], "format": "date-time"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "array", "items": {}}}},
    {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
    {"type": "object", "properties": {"a/b": {}, "c": {"$ref": "#/properties/a~1b"}}},
    {"type": "object", "anyOf": [{"required": ["a"]}, True], "not": {"const": 1}},
    {"type": "object", "properties": {"a": {"pattern": r"^[a-z]{2,}\d+$", "maxLength": 3, "enum": ["aa1"]}}},
    {"type": "object", "properties": {"id": {"type": "string"}, "$id": {}}, "x-unknown": {"type": "nonsense"}},
    {"type": "object", "dependencies": {"a": ["b"], "c": {"minProperties": 1}}},
    {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": 7},
]
DOUBTED: list[Any] = [
    None,
    True,
    {},
    {"type": "array"},
    {"type": ["object"]},
    {"oneOf": [{"type": "object"}]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/Missing"}}},
    {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema"}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}},
    {"type": "object", "properties": {"a": {"type": "text"}}},
    {"type": "object", "properties": {"a": {"nullable": True}}},
    {"type": "object", "properties": {"a": {"pattern": "["}}},
    {"type": "object", "properties": {"a": {"pattern": r"\Z"}}},
    {"type": "object", "patternProperties": {"(?i)a": {}}},
    {"type": "object", "properties": {"a": {"enum": []}}},
    {"type": "object", "properties": {"a": {"minimum": "1"}}},
    {"type": "object", "properties": {"a": {"exclusiveMinimum": True}}},
    {"type": "object", "required": "a"},
    {"type": "object", "items": [1]},
    {"type": "object", "allOf": {}},
    {"type": "object", "id": "a"},
    {"type": "object", "dependencies": {"a": "b"}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {}, "$id": {"type": "string"}}},
]


@pytest.mark.parametrize("schema", RIGHT)
def test_what_the_compiler_of_earlier_clients_takes_is_shown(schema: Any) -> None:
    assert is_shown_in_sessions(schema)


@pytest.mark.parametrize("schema", DOUBTED)
def test_what_earlier_clients_might_refuse_is_not_shown(schema: Any) -> None:
    assert not is_shown_in_sessions(schema)


@pytest.mark.parametrize(
    ("pattern", "is_right"),
    [
        ("", True),
        (r"^\d{4}-\d{2}$", True),
        (r"^(?:a|b)+?[^a-z\]-]*\.$", True),
        (r"(?=a)b", True),
        (r"(?=a)*", False),
        (r"^*", False),
        (r"a**", False),
        (r"a++", False),
        (r"(a", False),
        (r"a)", False),
        (r"{", False),
        (r"a{1", False),
        (r"]", False),
        (r"[b-a]", False),
        (r"[\w-a]", False),
        (r"\-", False),
        (r"\_", False),
        (r"(?P<n>a)", False),
        (r"(?i:a)", False),
        (r"[a--b]", False),
        (r"\ud800", False),
        (r"\p{L}", False),
    ],
)
def test_a_pattern_counts_as_javascripts_only_beyond_doubt(pattern: str, *, is_right: bool) -> None:
    assert is_javascript_pattern(pattern) is is_right
