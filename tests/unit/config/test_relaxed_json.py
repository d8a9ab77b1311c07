"""JSON with comments and trailing commas, and the places of its members."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.relaxed_json import closing_bracket, dotted, find_places, plain_json

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON, st.sampled_from([None, 0, 2]))
def test_every_member_of_any_json_is_found_on_the_line_that_holds_it(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    lines, duplicates = find_places(text)
    assert not duplicates
    assert set(lines) == set(_paths(value, ()))
    rows = text.splitlines()
    for path, line in lines.items():
        if path and isinstance(path[-1], str):
            assert json.dumps(path[-1]) + ":" in rows[line - 1]


@given(_JSON, st.sampled_from([None, 0, 2]))
def test_json_without_comments_stays_as_it_is(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert plain_json(text) == text


@given(_JSON, st.sampled_from(["/* , ] */", "// }\n", "\n/*\n*/ "]))
def test_comments_and_trailing_commas_change_neither_value_nor_lines(value: Any, comment: str) -> None:
    rows = json.dumps(value, indent=1).splitlines()
    text = comment + "\n".join(
        f"{row},{comment.rstrip()}" if following.strip()[:1] in ("]", "}") and row[-1] not in "[{" else row
        for row, following in zip(rows, [*rows[1:], "x"], strict=True)
    )
    plain = plain_json(text)
    assert json.loads(plain) == value
    assert [len(row) for row in plain.split("\n")] == [len(row) for row in text.split("\n")]


@pytest.mark.parametrize("text", ["[,]", "{,}", '{"a":,}', "[1,,]", "[1 /* open", "{'a': 1}", "{a: 1}", ","])
def test_what_is_neither_json_nor_a_comment_stays_refused(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(plain_json(text))


def test_closing_bracket_of_a_member_is_found_behind_brackets_in_texts() -> None:
    text = '{"a": {"b": ["}", {}]}, "c": {}}'
    assert closing_bracket(text, ("a",)) == text.index(', "c"') - 1
    assert closing_bracket(text, ("a", "b")) == text.index("]}")
    assert closing_bracket(text, ()) == len(text) - 1


def test_path_is_written_as_people_do() -> None:
    assert dotted(("mcpServers", "files", "args", 0)) == "mcpServers.files.args[0]"
    assert dotted(()) == ""


def _paths(value: Any, path: tuple[str | int, ...]) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def test_of_two_members_of_one_name_the_second_is_found_once_and_nothing_within_it() -> None:
    text = '{"m": {\n"a": {"b": 1},\n"a": {"b": [1], "c": 1, "c": 2},\n"d": [{"a": 1}, {"a": 1}]}}'
    _, duplicates = find_places(text)
    assert [(dotted(twice.path), twice.line) for twice in duplicates] == [("m.a", 3), ("m.a.c", 3)]
