"""Definitions as clients will read them: what no client could read is refused, alone, and nothing else is."""

from typing import Any

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types.methods import parse_server_result

from agent.lossless_json.exact import is_deeper_than
from agent.model import Json, NodeIdentity, Offer, ServerScope
from agent.routing.claims import NESTING_MAX, check_definition, read_contribution
from agent.routing.table import ConflictReason, Contribution, ContributionKind, RouteKind

OWN = NodeIdentity("0a" * 16, "home")
LISTS = {
    RouteKind.TOOL: ("tools/list", "tools", mcp_types.Tool),
    RouteKind.PROMPT: ("prompts/list", "prompts", mcp_types.Prompt),
    RouteKind.RESOURCE: ("resources/list", "resources", mcp_types.Resource),
    RouteKind.TEMPLATE: ("resources/templates/list", "resourceTemplates", mcp_types.ResourceTemplate),
}
GOOD: dict[RouteKind, Json] = {
    RouteKind.TOOL: {
        "name": "t",
        "title": "T",
        "description": None,
        "inputSchema": {"type": "object", "properties": {"a": True, "b": {"type": "string"}}, "required": ["a"]},
        "outputSchema": {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema"},
        "annotations": {"title": "T", "readOnlyHint": True, "later": 1},
        "icons": [{"src": "data:,", "sizes": ["any"], "theme": "dark", "mimeType": "image/png"}],
        "execution": {"taskSupport": "optional"},
        "x-unknown": [1.5],
    },
    RouteKind.PROMPT: {"name": "p", "arguments": [{"name": "a", "title": "A", "description": "d", "required": True}]},
    RouteKind.RESOURCE: {
        "uri": "n://a",
        "name": "",
        "mimeType": "text/plain",
        "size": 3.0,
        "annotations": {"audience": ["user"], "priority": 1, "lastModified": "2026-01-01T00:00:00Z"},
    },
    RouteKind.TEMPLATE: {"uriTemplate": "n://{a}", "name": "n", "annotations": {"priority": 0.5}},
}
# What may stand in a member by mistake, and what is nearly right.
ODD: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, 0, 1, -1, 2.0, 2.5, "", "x", "object", "user", "dark", "optional", "2", "true"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "src", "type", "title", "a"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def _with_one_change(value: Any, draw: Any) -> Any:
    """The value, with something odd at one place, or nothing there."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or draw(st.integers(0, 3)) == 0:
        return draw(ODD)
    key = draw(st.sampled_from(keys))
    if isinstance(value, list):
        return [_with_one_change(inner, draw) if place == key else inner for place, inner in enumerate(value)]
    if draw(st.integers(0, 3)) == 0:
        return {member: inner for member, inner in value.items() if member != key}
    return {**value, key: _with_one_change(value[key], draw)}


@st.composite
def _nearly_right(draw: Any) -> tuple[RouteKind, Any]:
    kind = draw(st.sampled_from(list(GOOD)))
    return kind, _with_one_change(_with_one_change(GOOD[kind], draw), draw)


def _is_taken(kind: RouteKind, definition: Json) -> bool:
    try:
        check_definition(kind, definition)
    except ValueError:
        return False
    return True


def _read_by_clients(kind: RouteKind, definition: Json) -> None:
    method, member, model = LISTS[kind]
    model.model_validate(definition, by_name=False)
    for version in ("2024-11-05", "2025-11-25"):
        parse_server_result(method, version, {member: [definition]})
    modern = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", member: [definition]}
    parse_server_result(method, "2026-07-28", modern)


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_right_definition_is_taken_and_read(kind: RouteKind) -> None:
    check_definition(kind, GOOD[kind])
    _read_by_clients(kind, GOOD[kind])


@given(_nearly_right())
def test_what_is_taken_can_be_read_by_clients_of_each_era(found: tuple[RouteKind, Any]) -> None:
    kind, definition = found
    if isinstance(definition, dict) and _is_taken(kind, definition):
        _read_by_clients(kind, definition)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *((RouteKind.TOOL, {"inputSchema": wrong}) for wrong in (None, "x", True, [], {}, {"type": "array"})),
        (RouteKind.TOOL, {"inputSchema": {"type": "object", "properties": {"a": 1}}}),
        (RouteKind.TOOL, {"outputSchema": "x"}),
        (RouteKind.TOOL, {"description": []}),
        (RouteKind.TOOL, {"title": 5}),
        (RouteKind.TOOL, {"annotations": "x"}),
        (RouteKind.TOOL, {"annotations": {"readOnlyHint": "x"}}),
        (RouteKind.TOOL, {"icons": [{"src": 1}]}),
        (RouteKind.TOOL, {"execution": {"taskSupport": "never"}}),
        (RouteKind.PROMPT, {"arguments": [{}]}),
        (RouteKind.PROMPT, {"arguments": {"name": "a"}}),
        (RouteKind.RESOURCE, {"name": None}),
        (RouteKind.RESOURCE, {"size": 1.5}),
        (RouteKind.RESOURCE, {"annotations": {"priority": 2}}),
        (RouteKind.TEMPLATE, {"mimeType": 1}),
    ],
)
def test_what_no_client_could_read_is_refused(kind: RouteKind, change: Json) -> None:
    assert not _is_taken(kind, {**GOOD[kind], **change})


def test_one_bad_tool_is_a_conflict_and_the_others_are_listed() -> None:
    schema = {"type": "object"}
    deep: Json = {"type": "object", "deep": _nested(NESTING_MAX)}
    tools = ({"name": "bad"}, {"name": "deep", "inputSchema": deep}, {"name": "good", "inputSchema": schema})
    server = Contribution("server:s", ContributionKind.SERVER, "s", OWN, ServerScope.SERVICE, Offer(tools=tools))
    imported = read_contribution(server, OWN)
    assert [(said.name, said.reason) for said in imported.refused] == [
        ("bad", ConflictReason.MALFORMED),
        ("deep", ConflictReason.MALFORMED),
    ]
    listed = [route.public_name for claims in imported.claims for route in claims.routes if route.listed]
    assert listed == ["s__good"]


def _nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [0, 1, 64, 5_000])
def test_nesting_is_counted_to_the_level(levels: int) -> None:
    assert not is_deeper_than(_nested(levels), levels)
    assert is_deeper_than({"a": 1, "b": _nested(levels)}, levels)


def test_a_definition_may_be_nested_as_deep_as_said() -> None:
    assert _is_taken(RouteKind.TOOL, {**GOOD[RouteKind.TOOL], "x": _nested(NESTING_MAX - 1)})
    assert not _is_taken(RouteKind.TOOL, {**GOOD[RouteKind.TOOL], "x": _nested(NESTING_MAX)})
