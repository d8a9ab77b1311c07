"""Members are found where a reader of the whole object finds them, however spelled and nested."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json import ends
from agent.lossless_json import members as module
from agent.lossless_json.ends import end_of_value
from agent.lossless_json.members import TooMany, members_of, without
from tests.unit.lossless_json.test_writable import found

NAMES = st.sampled_from(
    ["a", "name", "_meta", "", "é", "a/b", "a\\b", 'a"b', "\U0001f600", "\n", "nam", "names", "\x7f"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\{}[],:\n é', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(alphabet=" \t\r\n", max_size=2)
DEEP = st.sampled_from([0, 0, 0, 1, 5, 31, 32, 33, 60])


def spelled(name: str, ways: list[int]) -> str:
    """A name within its quotes, each character in one of its spellings."""
    short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n"}
    written = []
    for character, way in zip(name, ways + [0] * len(name), strict=False):
        units = character.encode("utf-16-be").hex()
        numbers = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
        plain = short.get(character, character) if character in '"\\\n' else character
        written.append([plain, numbers, numbers.upper().replace("\\U", "\\u"), short.get(character, plain)][way])
    return f'"{"".join(written)}"'


@st.composite
def objects(draw: st.DrawFn) -> str:
    """The text of an object, with members of one name, spaces anywhere, and values of any depth."""
    members = []
    for name, value in draw(st.lists(st.tuples(NAMES, JSON), max_size=7)):
        levels = draw(DEEP)
        text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        wrapped = '[{"":' * levels + text + "}]" * levels
        ways = draw(st.lists(st.integers(0, 3), max_size=5))
        before, between, behind, after = (draw(SPACE) for _ in range(4))
        members.append(f"{before}{spelled(name, ways)}{between}:{behind}{wrapped}{after}")
    return draw(SPACE) + "{" + (",".join(members) or draw(SPACE)) + "}"


def pairs_of(text: bytes) -> list[tuple[str, Any]]:
    pairs: list[list[tuple[str, Any]]] = []

    def take(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append(found)
        return dict(found)

    json.loads(text, object_pairs_hook=take)
    return pairs[-1]


@given(
    text=objects(),
    names=st.frozensets(NAMES, min_size=1),
    run=st.sampled_from([1, 9, 40, 4096]),
    looked_at=st.sampled_from([1, 2, 5, 64]),
    piece=st.sampled_from([8, 40, 16_384]),
    growth=st.sampled_from([1, 2, 4]),
    viewed=st.booleans(),
)
def test_members_are_found_and_left_out_as_a_reader_of_all_finds_them(  # noqa: PLR0917 - each is a size of a part
    text: str, names: frozenset[str], run: int, looked_at: int, piece: int, growth: int, *, viewed: bool
) -> None:
    raw = text.encode()
    body: bytes | memoryview = memoryview(b"x" + raw + b"x")[1:] if viewed else raw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_RUN_BYTES", run)
        patch.setattr(ends, "_LOOKED_AT_BYTES", looked_at)
        patch.setattr(ends, "PIECE_BYTES", piece)
        patch.setattr(ends, "_GROWTH", growth)
        members = found(members_of(body, 0, names))
    pairs = pairs_of(raw)
    read = [(place.name, json.loads(raw[place.value : place.value_end])) for place in members.places]
    assert read == [(name, value) for name, value in pairs if name in names]
    assert {name: place.name for name, place in members.last().items()} == {name: name for name, _ in read}
    left = b"{" + b"".join(without(body, members, members.places)) + b"}"
    assert pairs_of(left) == [(name, value) for name, value in pairs if name not in names]
    some = members.places[::2]
    places = iter(members.places)
    kept = [pair for pair in pairs if pair[0] not in names or next(places) not in some]
    assert pairs_of(b"{" + b"".join(without(body, members, some)) + b"}") == kept


@given(value=JSON, levels=st.integers(0, 60), behind=st.sampled_from([",", "}", " ", "]"]))
def test_the_end_of_a_value_is_found_at_any_depth(value: Any, levels: int, behind: str) -> None:
    text = ('[1,{"x":' * levels + json.dumps(value) + ',"y":"]"},[2]]' * levels) if levels else json.dumps(value)
    assert found(end_of_value((text + behind).encode(), 0)) == len(text.encode())


def test_one_object_has_a_name_that_is_looked_for_a_thousand_times_at_most() -> None:
    often = b"{%s}" % b",".join([b'"a":1'] * module.PLACES_MAX)
    assert len(found(members_of(often, 0, {"a"})).places) == module.PLACES_MAX
    with pytest.raises(TooMany, match="'a' stands there"):
        found(members_of(b'{"a":0,' + often[1:], 0, {"a"}))
    two = often[:-1] + b"," + often[1:].replace(b"a", b"b")
    assert len(found(members_of(two, 0, {"a", "b"})).places) == 2 * module.PLACES_MAX
    with pytest.raises(TooMany, match="'a' stands there"):
        found(members_of(b'{"a":0,' + two[1:], 0, {"a", "b"}))


def test_some_members_that_are_nested_too_deep_or_large_are_passed_by_themselves() -> None:
    deep = b'"a":' + b"[" * 40 + b"]" * 40
    large = b'"a":[%s1]' % (b"[]," * 1_400)
    text = b"{%s}" % b",".join([deep] * (module.APART_MAX - 900) + [large] * 900)
    assert found(members_of(text, 0, {"b"})).places == ()
    with pytest.raises(TooMany, match="nested deeper than 32 levels"):
        found(members_of(b"{%s}" % b",".join([deep] * (module.APART_MAX + 1)), 0, {"b"}))


def test_others_have_their_turn_after_some_thousand_bytes() -> None:
    text = b"{%s}" % b",".join([b'"a":[{}]'] * 10_000)
    assert sum(1 for _ in members_of(text, 0, {"b"})) >= len(text) // module._RUN_BYTES
    large = b"[%s1]" % (b"[]," * 100_000)
    assert sum(1 for _ in end_of_value(large, 0)) >= len(large) // ends.PIECE_BYTES


def test_what_is_looked_for_in_a_value_is_found_on_the_way() -> None:
    text = b'{"a":{"b":1,"c":[{"b":2}],"b":{"d":3}},"a":4,"e":{"b":5}}'
    members = found(members_of(text, 0, {"a", "e"}, {"a": {"b": {"d": {}}}, "e": {}}))
    inner = members.places[0].inner
    assert inner is not None
    assert [text[place.value : place.value_end] for place in inner.places] == [b"1", b'{"d":3}']
    assert [place.inner is None for place in inner.places] == [True, False]
    assert [place.inner is None for place in members.places] == [False, True, True]
    assert [text[place.value : place.value_end] for place in members.places[1:]] == [b"4", b'{"b":5}']
