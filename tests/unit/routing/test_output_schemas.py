"""Which output schemas earlier clients are shown: what their compiler takes beyond doubt, and nothing else."""

from typing import Any

import pytest

from agent.routing.output_schemas import is_javascript_pattern, is_object_schema, is_shown_in_sessions, why_refused

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


# What the TypeScript SDK 2.4 and Python's SDK 2.3 said of them in a call of 2026-07-28.
COMPILED: list[Any] = [
    {},
    {"type": "array", "items": True},
    {"oneOf": [{"type": "object"}, {"type": "array"}]},
    {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object"}}},
    {"type": ["object", "null"]},
    {"type": "object", "$id": "https://example.com/one", "properties": {"a": {"$ref": "#"}}},
    {"properties": {"a": {"type": "string", "nullable": True}, "b": {"default": None, "const": None}}},
    {"properties": {"a": {"prefixItems": [{"type": "string"}], "minContains": 1, "maxItems": 5.0}}},
    {"unevaluatedProperties": False, "dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {}}},
    {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"b": {"items": [{"type": "string"}]}}},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T", "examples": [1], "readOnly": True},
]
NOT_COMPILED: list[Any] = [
    {"properties": {"a": {"type": "strin"}}},
    {"type": "array", "items": {"type": []}},
    {"properties": {"a": {"type": ["string", "string"]}}},
    {"properties": {"a": {"$ref": "#/$defs/none"}}},
    {"properties": {"a": {"$ref": "https://example.com/x.json"}}},
    {"properties": {"a": {"items": [{"type": "string"}]}}},
    {"properties": {"a": {"description": None}}},
    {"properties": {"a": {"nullable": True}}},
    {"properties": {"a": {"type": ["string", "null"], "nullable": False}}},
    {"properties": {"a": {"minLength": -1}}},
    {"properties": {"a": {"minLength": 1.5}}},
    {"properties": {"a": {"multipleOf": 0}}},
    {"properties": {"a": {"deprecated": "yes"}}},
    {"properties": {"a": {"contentSchema": {"type": "strin"}}}},
    {"unevaluatedProperties": {"type": "strin"}},
    {"dependentRequired": {"a": 5}},
    {"dependentSchemas": {"a": 5}},
    {"dependencies": {"a": [-1]}},
    {"required": ["a", "a"]},
    {"anyOf": []},
    {"title": 5},
    {"examples": {}},
    {"$id": "https://example.com/one#part"},
    {"$defs": {"x": {"$ref": "#/$defs/x"}}},
    {"$schema": "http://json-schema.org/draft-04/schema#"},
    {"$schema": "https://example.com/dialect"},
]


@pytest.mark.parametrize("schema", COMPILED)
def test_what_clients_of_the_latest_version_compile_is_shown(schema: Any) -> None:
    assert why_refused(schema) == ""


@pytest.mark.parametrize("schema", [*COMPILED, *RIGHT])
def test_what_clients_of_the_latest_version_compile_earlier_ones_do_where_they_know_its_kind(schema: Any) -> None:
    if why_refused(schema) == "":
        assert is_shown_in_sessions(schema) is is_object_schema(schema)


@pytest.mark.parametrize("schema", NOT_COMPILED)
def test_what_a_client_of_the_latest_version_refuses_in_a_call_has_its_reason(schema: Any) -> None:
    assert why_refused(schema)


def test_the_reason_names_the_keyword_and_shows_its_value() -> None:
    assert why_refused({"properties": {"a": {"type": "strin"}}}) == 'type: "strin"'
    assert why_refused({"$ref": "#/$defs/none"}) == '$ref: "#/$defs/none"'


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
