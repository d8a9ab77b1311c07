"""What of a definition is pinned, in which form, and how a change of it is shown."""

import hashlib
import json

import orjson
import pytest

from agent.lossless_json.exact import read_json
from agent.pins.definition import canonical, difference, digest
from agent.routing.table import RouteKind

TOOL = {"name": "save", "description": "Saves.", "inputSchema": {"type": "object", "b": 1.0, "a": 10}}


def test_the_digest_is_sha_256_over_the_canonical_json_of_what_a_model_reads() -> None:
    content = canonical(RouteKind.TOOL, {**TOOL, "title": "Save", "icons": [], "_meta": {"a": 1}, "execution": {}})
    assert content == b'{"description":"Saves.","inputSchema":{"a":10,"b":1,"type":"object"},"name":"save"}'
    assert digest(content) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("member", ["description", "inputSchema", "outputSchema", "annotations"])
def test_each_pinned_member_of_a_tool_changes_the_digest_and_null_is_none(member: str) -> None:
    before = canonical(RouteKind.TOOL, {key: value for key, value in TOOL.items() if key != member})
    assert canonical(RouteKind.TOOL, {**TOOL, member: {"type": "array"}}) != before
    assert canonical(RouteKind.TOOL, {**TOOL, member: None}) == before


def test_arguments_of_a_prompt_are_pinned() -> None:
    prompt = {"name": "ask", "arguments": [{"name": "topic"}]}
    assert canonical(RouteKind.PROMPT, prompt) != canonical(RouteKind.PROMPT, {**prompt, "arguments": []})


def test_numbers_that_are_no_doubles_have_a_form_too() -> None:
    definition = read_json(b'{"name":"n","inputSchema":{"big":123456789012345678901234567890,"huge":1e400}}')
    assert canonical(RouteKind.TOOL, definition) == (
        b'{"inputSchema":{"big":1.2345678901234568e+29,"huge":"inf"},"name":"n"}'
    )


def test_members_are_sorted_by_utf_16_as_rfc_8785_wants() -> None:
    schema = {"\ue000": 1, "\U0001f600": 2}
    content = canonical(RouteKind.TOOL, {"name": "n", "inputSchema": schema})
    assert list(json.loads(content)["inputSchema"]) == ["\U0001f600", "\ue000"]


def test_what_has_no_canonical_form_is_refused() -> None:
    deep: object = {}
    for _ in range(100):
        deep = {"properties": deep}
    with pytest.raises(ValueError, match="levels deep"):
        canonical(RouteKind.TOOL, {"name": "n", "inputSchema": deep})
    half = read_json(b'{"name":"n","description":"\\ud800"}')
    with pytest.raises(ValueError, match="codepoints"):
        canonical(RouteKind.TOOL, half)


def test_a_difference_shows_the_lines_that_changed_and_what_is_hidden_in_them() -> None:
    before = canonical(RouteKind.TOOL, TOOL)
    after = canonical(RouteKind.TOOL, {**TOOL, "description": "Saves.\u200b\x1b[31m"})
    lines = difference(before, after)
    assert '-"description": "Saves.",' in [line.replace(" ", "", 1) for line in lines]
    assert any(line.startswith("+") and r"\u200b\u001b[31m" in line for line in lines)
    assert not any(line.startswith(("---", "+++")) for line in lines)
    assert difference(before, before) == []


def test_a_long_difference_is_cut_and_says_so() -> None:
    before = orjson.dumps({str(number): 0 for number in range(500)})
    lines = difference(before, orjson.dumps({}))
    assert len(lines) == 201
    assert lines[-1].endswith("more lines")
