"""An object that comes in parts is followed to its end, however it is cut, and nothing else gets through."""

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.json_frame import DEPTH_MAX, FrameBroken, ObjectFrame

texts = st.text(alphabet='ab"\\{}[]\u00e4\n')
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
objects = st.dictionaries(texts, values, max_size=4)


def closed_by(parts: list[bytes]) -> bool:
    """Whether the parts are let through and are a whole object."""
    frame = ObjectFrame()
    try:
        for part in parts:
            frame.feed(part)
    except FrameBroken:
        return False
    return frame.closed


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(whole)) for place in places), len(whole)]
    return [whole[begin:end] for begin, end in itertools.pairwise(edges)]


@given(value=objects, places=st.lists(st.integers(0, 200), max_size=8))
@example(value={'\\"': '\\\\"}'}, places=list(range(30)))
def test_every_object_gets_through_however_it_is_cut(value: Any, places: list[int]) -> None:
    assert closed_by(cut(orjson.dumps(value), places))


@given(
    text=st.one_of(
        st.text(alphabet='{}[]",:\\a1 '),
        st.builds(lambda one, more: orjson.dumps(one).decode() + more, objects, st.text(alphabet='{}[]",:\\a ')),
    ),
    places=st.lists(st.integers(0, 60), max_size=5),
)
@example(text='{},"id":9,"result":{}', places=[2, 5])
@example(text='{"a":"}"},"b":{"c":"{"}', places=[])
def test_what_gets_through_is_one_value_in_whatever_it_is_put_into(text: str, places: list[int]) -> None:
    if not closed_by(cut(text.encode(), places)):
        return
    try:
        members = json.loads(f'{{"result":{text}}}', object_pairs_hook=lambda pairs: pairs)
    except json.JSONDecodeError:
        return  # Whoever reads the answer refuses it whole.
    assert [name for name, _ in members] == ["result"]
    json.loads(text)


@given(value=objects, places=st.lists(st.integers(0, 60), max_size=5))
def test_a_part_of_an_object_is_never_taken_for_the_whole(value: Any, places: list[int]) -> None:
    whole = orjson.dumps(value)
    assert not closed_by(cut(whole[:-1], places))


@pytest.mark.parametrize("broken", [b"[]", b" {}", b"{}\n", b'{\n"a":1}', b'{"a":1}\r', b"{}{}", b"{}x"])
def test_other_values_line_breaks_and_anything_behind_are_refused(broken: bytes) -> None:
    assert not closed_by([broken])


def test_it_may_be_as_deep_as_can_be_read() -> None:
    deepest = b'{"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"
    orjson.loads(deepest)
    assert closed_by([deepest])
    assert not closed_by([b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}"])
