"""Definitions keep the bytes of their schemas, and nothing else about them changes."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json.raw import RawObject, keep_schemas, write_definition
from agent.server.pages import PageLimits, cut_page

ODD = '{ "type" : "object",\t"default":1e2 ,"title":"\\u00e9","title":"\\/","x":[ ],"y":{ },"z":[1 , 2]}'


def page_of(text: str) -> RawObject:
    return RawObject(orjson.loads(text), text.encode())


def written(text: str, key: str = "tools") -> list[bytes]:
    return [write_definition(entry) for entry in keep_schemas(page_of(text), key)]


def test_an_odd_schema_is_written_as_it_was() -> None:
    text = f'{{"x":{{"tools":0}},"tools" : [ {{"name":"a","inputSchema" : {ODD} }} , {{"name":"b"}} ]}}'
    assert written(text) == [f'{{"name":"a","inputSchema":{ODD}}}'.encode(), b'{"name":"b"}']


def test_an_ordinary_page_is_left_alone() -> None:
    page = page_of('{"tools":[{"name":"a","inputSchema":{"type":"object","default":1.0}}],"nextCursor":"1"}')
    assert keep_schemas(page, "tools") is page["tools"]


def test_what_reads_like_before_is_still_an_ordinary_object() -> None:
    [entry] = keep_schemas(page_of(f'{{"tools":[{{"name":"a","inputSchema":{ODD}}}]}}'), "tools")
    assert entry == {"name": "a", "inputSchema": orjson.loads(ODD)}
    assert orjson.loads(orjson.dumps(entry)) == entry


def test_ours_is_written_anew_and_so_is_what_is_no_object() -> None:
    text = '{"tools":[{"name":"\\u0061","_meta":{"n":1e1},"icons":[ 1e1 ],"annotations":{"n":1e1}}]}'
    assert written(text) == [b'{"name":"a","_meta":{"n":10.0},"icons":[10.0],"annotations":{"n":1e1}}']


def test_of_two_members_of_one_name_the_last_one_is_kept() -> None:
    text = '{"tools":[{"a":{"b":1e1}}],"tools":[{"a":{"b":2e1},"\\u0061":{"b":3e1}}]}'
    assert written(text) == [b'{"a":{"b":3e1}}']


def test_a_huge_number_is_kept_beside_what_is_odd_and_beside_what_is_not() -> None:
    huge = "1" * 40
    assert written(f'{{"tools":[{{"n":{huge},"a":{{"b":{huge}}}}}]}}') == [
        f'{{"n":{huge},"a":{{"b":{huge}}}}}'.encode()
    ]


@pytest.mark.parametrize("text", ['{"tools":{}}', '{"tools":null}', "{}", '{"tools": 1e1}'])
def test_what_is_no_list_is_returned_as_it_is(text: str) -> None:
    page = page_of(text)
    assert keep_schemas(page, "tools") == page.get("tools")


def test_items_that_are_no_objects_are_left_for_the_caller_to_refuse() -> None:
    assert keep_schemas(page_of('{"tools":[1e1, "a", [ ], {"a":{ }}]}'), "tools") == [10.0, "a", [], {"a": {}}]


def test_a_page_that_was_not_laid_out_as_usual_is_taken_by_its_values() -> None:
    assert keep_schemas({"tools": [{"a": 1}]}, "tools") == [{"a": 1}]


def test_a_page_nested_beyond_writing_is_taken_by_its_values() -> None:
    deep = "[" * 900 + "]" * 900
    listed = keep_schemas(page_of(f'{{"tools":[{{"a":{{ "b":{deep}}}}}]}}'), "tools")
    assert type(listed[0]["a"]) is dict


def test_a_page_of_a_list_is_cut_from_what_was_written() -> None:
    entries = keep_schemas(page_of(f'{{"tools":[{{"inputSchema":{ODD}}}]}}'), "tools")
    assert cut_page(entries, 0, PageLimits()).array == f'[{{"inputSchema":{ODD}}}]'.encode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 2**63),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    tools=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=4),
    indent=st.sampled_from([None, 0, 1]),
    escaped=st.booleans(),
)
def test_every_layout_of_a_page_is_read_as_its_values_and_written_as_its_text(
    tools: list[dict[str, Any]], indent: int | None, escaped: bool
) -> None:
    def layout(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=escaped, separators=(" ,", ": "))

    text = layout({"ttlMs": 0, "tools": tools})
    entries = keep_schemas(page_of(text), "tools")
    assert entries == tools
    for entry in entries:
        for name, value in entry.items():
            if isinstance(value, dict) and name != "_meta":
                assert (value.raw.decode() if isinstance(value, RawObject) else orjson.dumps(value).decode()) in text
        assert json.loads(write_definition(entry)) == entry
