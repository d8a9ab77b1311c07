"""Definitions as strict clients read them: what they would refuse is mended or left out, alone, and nothing else is."""

from typing import Any

import mcp_types
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types.jsonrpc import JSONRPCResponse, jsonrpc_message_adapter
from mcp_types.methods import parse_server_result

from agent.lossless_json.exact import is_deeper_than, read_json
from agent.lossless_json.raw import write_definition
from agent.model import Json, NodeIdentity, Offer, ServerScope
from agent.routing.claims import REFUSALS_MAX, read_contribution
from agent.routing.definitions import NESTING_MAX, LeftOut, is_object_schema, mended
from agent.routing.table import NAME_MEMBER, Contribution, ContributionKind, LeftOutEntry, RouteKind

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
        "description": "d",
        "inputSchema": {"type": "object", "properties": {"a": {}, "b": {"type": "string"}}, "required": ["a"]},
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
        "size": 3,
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


def _left_out(kind: RouteKind, definition: Json) -> str | None:
    try:
        mended(kind, definition)
    except LeftOut as exc:
        return str(exc)
    return None


def _read_by_clients(kind: RouteKind, definition: Json) -> None:
    """As the Python SDK's client does: the message as bytes, then the result in the shape of each version."""
    method, member, model = LISTS[kind]
    page = b'{"resultType":"complete","ttlMs":0,"cacheScope":"private","%b":[%b]}' % (
        member.encode(),
        write_definition(definition),
    )
    message = jsonrpc_message_adapter.validate_json(b'{"jsonrpc":"2.0","id":1,"result":%b}' % page, by_name=False)
    assert isinstance(message, JSONRPCResponse)
    model.model_validate(message.result[member][0], by_name=False)
    parse_server_result(method, "2026-07-28", message.result)
    if kind is RouteKind.TOOL and not is_object_schema(message.result[member][0].get("outputSchema")):
        message.result[member][0].pop("outputSchema", None)  # Sessions are not shown it.
    for version in ("2024-11-05", "2025-11-25"):
        parse_server_result(method, version, message.result)


def _nulls(kind: RouteKind, value: Any) -> Any:
    """What may be null: no null is left in any place that MCP defines, but in schemas, where it may mean null."""
    defined = GOOD[kind].keys() - {"x-unknown", "inputSchema", "outputSchema"}
    members = {name: part for name, part in value.items() if name in defined}
    return [name for name, part in members.items() if part is None]


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_right_definition_is_taken_as_it_is_and_read(kind: RouteKind) -> None:
    assert mended(kind, GOOD[kind]) is GOOD[kind]
    _read_by_clients(kind, GOOD[kind])


@settings(max_examples=400)
@given(_nearly_right())
def test_what_is_taken_can_be_read_by_clients_of_each_era(found: tuple[RouteKind, Any]) -> None:
    kind, definition = found
    if not isinstance(definition, dict) or not isinstance(definition.get(NAME_MEMBER[kind]), str):
        return  # It has no name, and is left out for that.
    if _left_out(kind, definition) is not None:
        return
    shown = mended(kind, definition)
    _read_by_clients(kind, shown)
    assert mended(kind, shown) is shown
    assert _nulls(kind, shown) == []


@pytest.mark.parametrize("kind", list(GOOD))
def test_null_in_any_optional_place_is_as_if_it_were_not_there(kind: RouteKind) -> None:
    needed = {"name", "uri", "uriTemplate", "inputSchema"}
    for member in GOOD[kind].keys() - needed - {"x-unknown"}:
        shown = mended(kind, {**GOOD[kind], member: None})
        assert shown == {name: value for name, value in GOOD[kind].items() if name != member}


def test_null_deeper_in_a_definition_is_as_if_it_were_not_there() -> None:
    argument = {"name": "a", "title": None, "description": None, "required": None}
    assert mended(RouteKind.PROMPT, {"name": "p", "arguments": [argument]})["arguments"] == [{"name": "a"}]
    annotations = {"title": None, "readOnlyHint": None, "idempotentHint": True}
    tool = {"name": "t", "inputSchema": {"type": "object", "properties": None, "required": None, "$schema": None}}
    shown = mended(RouteKind.TOOL, {**tool, "annotations": annotations, "execution": {"taskSupport": None}})
    assert shown == {
        "name": "t",
        "inputSchema": {"type": "object"},
        "annotations": {"idempotentHint": True},
        "execution": {},
    }


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ({}, {"type": "object"}),
        (None, {"type": "object"}),
        (True, {"type": "object"}),
        (False, {"type": "object", "not": {}}),
        ([], {"type": "object"}),
        ({"type": None}, {"type": "object"}),
        ({"type": ["object", "null"]}, {"type": "object"}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, {"$ref": "#/$defs/a", "$defs": {"a": {}}, "type": "object"}),
        ({"oneOf": [{"required": ["a"]}]}, {"oneOf": [{"required": ["a"]}], "type": "object"}),
        ({"type": "object", "properties": []}, {"type": "object", "properties": {}}),
        (
            {"type": "object", "properties": {"a": True, "b": False, "c": None}},
            {"type": "object", "properties": {"a": {}, "b": {"not": {}}, "c": {}}},
        ),
        ({"type": "object", "required": True}, {"type": "object"}),
        ({"type": "object", "required": ["a", None]}, {"type": "object", "required": ["a"]}),
    ],
)
def test_an_input_schema_gets_what_it_leaves_out_and_keeps_its_meaning(written: Any, shown: Json) -> None:
    tool = mended(RouteKind.TOOL, {"name": "t", "inputSchema": written})
    assert tool == {"name": "t", "inputSchema": shown}
    _read_by_clients(RouteKind.TOOL, tool)


def test_a_tool_without_any_input_schema_takes_any_object() -> None:
    assert mended(RouteKind.TOOL, {"name": "t"}) == {"name": "t", "inputSchema": {"type": "object"}}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (True, {}),
        (False, {"not": {}}),
        ({"type": "array", "items": {}}, {"type": "array", "items": {}}),
        ({"oneOf": [{}]}, {"oneOf": [{}]}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}, "$schema": 1}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}),
        ({"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
    ],
)
def test_an_output_schema_of_any_root_is_kept_as_an_object(written: Any, shown: Json) -> None:
    assert mended(RouteKind.TOOL, {**GOOD[RouteKind.TOOL], "outputSchema": written})["outputSchema"] == shown


@pytest.mark.parametrize(
    "written",
    [
        *("x", 1, [], [1], {"type": "object", "properties": {"a": 1}}),
        {"type": "object", "properties": {"a": {"type": "any"}}},
        {"type": "array", "items": {"$ref": "#/$defs/none"}},
        {"type": "object", "$schema": "http://json-schema.org/draft-04/schema#"},
    ],
)
def test_an_output_schema_that_a_client_cannot_compile_is_not_shown_and_said_and_its_tool_is(written: Any) -> None:
    said: list[str] = []
    shown = mended(RouteKind.TOOL, {**GOOD[RouteKind.TOOL], "outputSchema": written}, said.append)
    assert shown == {member: value for member, value in GOOD[RouteKind.TOOL].items() if member != "outputSchema"}
    assert [text[:17] for text in said] == ["its outputSchema,"]


def test_null_is_dropped_from_schemas_at_any_depth_without_a_word() -> None:
    said: list[str] = []
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": None, "default": None}}}
    tool = {"name": "t", "inputSchema": schema, "outputSchema": schema | {"additionalProperties": None}}
    kept = {"type": "object", "properties": {"a": {"type": "string", "default": None}}}
    assert mended(RouteKind.TOOL, tool, said.append) == {"name": "t", "inputSchema": kept, "outputSchema": kept}
    assert said == []


def test_a_header_that_names_no_argument_is_left_out_and_said_and_the_others_stay() -> None:
    said: list[str] = []
    region, zone = {"type": "string", "x-mcp-header": "Region"}, {"type": "string", "x-mcp-header": "a zone"}
    tool = {"name": "t", "inputSchema": {"type": "object", "properties": {"region": region, "zone": zone}}}
    shown = mended(RouteKind.TOOL, tool, said.append)
    assert shown["inputSchema"]["properties"] == {"region": region, "zone": {"type": "string"}}
    assert [text.split(",")[0] for text in said] == ['x-mcp-header "a zone"']


@pytest.mark.parametrize(
    ("kind", "change", "shown"),
    [
        (RouteKind.TOOL, {"description": []}, {}),
        (RouteKind.TOOL, {"title": 5}, {}),
        (RouteKind.TOOL, {"annotations": "x"}, {}),
        (RouteKind.TOOL, {"annotations": {"readOnlyHint": "x", "title": "y"}}, {"annotations": {"title": "y"}}),
        (RouteKind.TOOL, {"icons": [{"src": 1}, {"src": "a", "theme": "blue"}]}, {"icons": [{"src": "a"}]}),
        (RouteKind.TOOL, {"icons": {}}, {}),
        (RouteKind.TOOL, {"execution": {"taskSupport": "never"}}, {"execution": {}}),
        (RouteKind.PROMPT, {"arguments": {}}, {"arguments": []}),
        (RouteKind.RESOURCE, {"size": 1.5}, {}),
        (RouteKind.RESOURCE, {"size": 1e300}, {}),
        (RouteKind.RESOURCE, {"size": 3.0}, {"size": 3}),
        (RouteKind.RESOURCE, {"annotations": {"priority": 2, "audience": ["all"]}}, {"annotations": {}}),
        (RouteKind.RESOURCE, {"name": None}, {"name": "n://a"}),
        (RouteKind.TEMPLATE, {"mimeType": 1}, {}),
        (RouteKind.TEMPLATE, {"name": 7}, {"name": "n://{a}"}),
    ],
)
def test_what_says_nothing_readable_is_dropped_and_the_rest_stays(kind: RouteKind, change: Json, shown: Json) -> None:
    found = mended(kind, {**GOOD[kind], **change})
    assert found == {name: value for name, value in GOOD[kind].items() if name not in change} | shown
    _read_by_clients(kind, found)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("2026-01-01T00:00:00Z", True),
        ("2024-02-29T23:59:59.123456789+02:00", True),
        ("2026-01-01T00:00:00", False),
        ("2026-01-01", False),
        ("2026-01-01 00:00:00Z", False),
        ("2026-01-01t00:00:00z", False),
        ("2023-02-29T00:00:00Z", False),
        ("2026-04-31T00:00:00Z", False),
        ("2026-01-01T24:00:00Z", False),
        ("2026-01-01T00:00:00+0200", False),
        ("2026-01-01T00:00:00Z\n", False),
    ],
)
def test_a_time_is_kept_only_as_every_client_reads_it(text: str, *, is_right: bool) -> None:
    resource = {"uri": "n://a", "name": "a", "annotations": {"lastModified": text}}
    assert mended(RouteKind.RESOURCE, resource)["annotations"] == ({"lastModified": text} if is_right else {})


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        *((RouteKind.TOOL, {"inputSchema": wrong}, "no schema") for wrong in ("x", 1, [1])),
        (RouteKind.TOOL, {"inputSchema": {"type": "array"}}, "not an object's"),
        (RouteKind.TOOL, {"inputSchema": {"type": "object", "properties": {"a": 1}}}, "property's schema"),
        (RouteKind.TOOL, {"inputSchema": {"properties": [1]}}, "properties"),
        (RouteKind.PROMPT, {"arguments": [{}]}, "without a name"),
        (RouteKind.PROMPT, {"arguments": {"name": "a"}}, "no list"),
        (RouteKind.PROMPT, {"arguments": [7]}, "no list"),
    ],
)
def test_what_has_no_readable_meaning_is_left_out_and_said(kind: RouteKind, change: Json, why: str) -> None:
    assert why in (_left_out(kind, {**GOOD[kind], **change}) or "")


def test_halves_of_surrogate_pairs_are_replaced_wherever_they_stand() -> None:
    page = read_json(rb"""{"name":"t","description":"a\ud83d","inputSchema":{"type":"object","properties":
        {"x":{"description":"\udc00 \ud83d\ude00","maximum":123456789012345678901234567890}}}}""")
    shown = mended(RouteKind.TOOL, page)
    assert shown["description"] == "a\ufffd"
    described = shown["inputSchema"]["properties"]["x"]
    assert described["description"] == "\ufffd \U0001f600"
    assert isinstance(described["maximum"], orjson.Fragment), "numbers stay as they were written"
    _read_by_clients(RouteKind.TOOL, shown)


def test_a_number_that_python_cannot_read_takes_its_tool_away_and_one_in_a_text_does_not() -> None:
    long = "7" * 5_000
    number = read_json(b'{"name":"t","inputSchema":{"type":"object","x":[-%b]}}' % long.encode())
    assert "digits" in (_left_out(RouteKind.TOOL, number) or "")
    text = {"name": "t", "description": long, "inputSchema": {"type": "object"}}
    assert mended(RouteKind.TOOL, text) is text
    _read_by_clients(RouteKind.TOOL, text)


def test_one_bad_tool_is_left_out_with_its_reason_and_the_others_are_listed() -> None:
    schema = {"type": "object"}
    deep: Json = {"type": "object", "deep": _nested(500)}
    tools: Any = (
        {"name": "bad", "inputSchema": "x"},
        {"name": "deep", "inputSchema": deep},
        "no entry",
        {"inputSchema": schema},
        {"name": "good", "inputSchema": schema},
    )
    server = Contribution("server:s", ContributionKind.SERVER, "s", OWN, ServerScope.SERVICE, Offer(tools=tools))
    imported = read_contribution(server, OWN)
    assert imported.refused == ()
    assert imported.left_out == (
        LeftOutEntry("server:s", "tool", "bad", 'inputSchema is no schema, but "x"'),
        LeftOutEntry("server:s", "tool", "deep", f"nested more than {NESTING_MAX} levels deep"),
        LeftOutEntry("server:s", "tool", "number 3", "no object"),
        LeftOutEntry("server:s", "tool", "number 4", "no name that could be listed"),
    )
    listed = [route.public_name for claims in imported.claims for route in claims.routes if route.listed]
    assert listed == ["s__good", "s"]  # What the server says of itself is not lost either.


def test_a_server_that_gets_everything_wrong_does_not_flood_the_status() -> None:
    tools = tuple({"name": f"t{number}", "inputSchema": 1} for number in range(500))
    server = Contribution("server:s", ContributionKind.SERVER, "s", OWN, ServerScope.SERVICE, Offer(tools=tools))
    left_out = read_contribution(server, OWN).left_out
    assert len(left_out) == REFUSALS_MAX + 1
    assert left_out[-1].name == f"{500 - REFUSALS_MAX} more entries"


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
    assert _left_out(RouteKind.TOOL, {**GOOD[RouteKind.TOOL], "x": _nested(NESTING_MAX - 1)}) is None
    assert _left_out(RouteKind.TOOL, {**GOOD[RouteKind.TOOL], "x": _nested(NESTING_MAX)}) is not None
