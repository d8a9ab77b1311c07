"""Null in a JSON Schema: where it stands for nothing it goes, where it is a value it stays."""

from typing import Any

import pytest

from agent.routing.schema_nulls import without_nulls

STAYS: list[dict[str, Any]] = [
    {"default": None, "const": None, "enum": ["a", None], "examples": [None], "x-unknown": None},
    {"properties": {"type": {"type": "string"}, "title": {"default": {"type": None}}}},
    {"anyOf": [None, {"type": "null"}], "dependencies": {"a": ["b"]}, "items": False, "const": {"description": None}},
]


@pytest.mark.parametrize("schema", STAYS)
def test_null_that_is_a_value_stays_and_so_does_the_very_object(schema: dict[str, Any]) -> None:
    assert without_nulls(schema) is schema


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": None, "description": None, "$ref": None, "format": None, "required": None}, {}),
        ({"properties": {"title": None, "b": {"title": None}}}, {"properties": {"title": {}, "b": {}}}),
        ({"$defs": {"a": {"enum": None}, "b": None}}, {"$defs": {"a": {}, "b": {}}}),
        ({"items": {"items": None}, "anyOf": [{"not": None}]}, {"items": {}, "anyOf": [{}]}),
        ({"items": [{"type": None}], "prefixItems": [{"type": None}]}, {"items": [{}], "prefixItems": [{}]}),
        ({"dependencies": {"a": {"type": None}, "b": ["c"]}}, {"dependencies": {"a": {}, "b": ["c"]}}),
        ({"properties": None, "additionalProperties": None, "x-mcp-header": None}, {}),
    ],
)
def test_null_in_place_of_a_keyword_goes_at_any_depth(schema: dict[str, Any], kept: dict[str, Any]) -> None:
    assert without_nulls(schema) == kept
