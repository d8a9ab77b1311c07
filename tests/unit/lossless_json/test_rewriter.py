"""A rewriter through an object that comes in parts changes and finds what a reader of the whole does."""

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.lossless_json.rewriter import DEPTH_MAX, TOKEN_BYTES_MAX, JsonRewriter, Place, RewriteBroken
from agent.routing.uris import UriCodec

# Members that are looked at, others, and texts that are made of what the rewriter goes by.
NAMES = st.sampled_from(["content", "uri", "resource", "contents", "messages", "_meta", "ui", "isError", "resultType"])
PAGES = st.sampled_from(["resourceUri", "ui/resourceUri"])
HARD = st.text(alphabet='ab:/"\\{}[],\u00e4 \n\U0001f600', max_size=12)
URIS = st.builds("{}://{}".format, st.sampled_from(["notes", "https", 'a"b', "data"]), HARD)
LEAVES = st.none() | st.booleans() | st.integers(-9, 10**6) | st.just(1.5) | HARD | URIS


def _blocks(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    resource = st.fixed_dictionaries({}, optional={"uri": URIS, "text": HARD, "more": inner})
    block = st.fixed_dictionaries({}, optional={"type": HARD, "uri": URIS, "resource": resource, "more": inner})
    of_tool = st.fixed_dictionaries({"type": st.just("tool_result"), "content": st.lists(block, max_size=2)})
    message = st.fixed_dictionaries({"content": block | of_tool | st.lists(block | of_tool, max_size=2)})
    meta = st.fixed_dictionaries({"ui": st.dictionaries(PAGES, URIS, max_size=2), "ui/resourceUri": URIS})
    return st.fixed_dictionaries(
        {},
        optional={
            "content": st.lists(block, max_size=3),
            "contents": st.lists(resource, max_size=3),
            "messages": st.lists(message, max_size=3),
            "_meta": meta,
            "isError": LEAVES,
            "resultType": LEAVES,
        },
    )


VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | PAGES | HARD, inner, max_size=5) | _blocks(inner)
    ),
    max_leaves=30,
)
PLACES = st.lists(st.integers(0, 400), max_size=12)


RESULTS = _blocks(VALUES) | st.dictionaries(NAMES, VALUES, max_size=5)
METHODS = st.sampled_from(["tools/call", "prompts/get", "resources/read", "completion/complete"])
CODECS = st.sampled_from([UriCodec("kit"), UriCodec("kit", "back__kit"), UriCodec("kit", "kit")])


def written(value: Any, how: int) -> bytes:
    """The value as writers of several kinds write it."""
    match how:
        case 0:
            return orjson.dumps(value)
        case 1:
            return json.dumps(value).encode()
        case _:
            return json.dumps(value, indent=1).replace("/", "\\/").replace("\n", "\r\n").encode()


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(whole)) for place in places), len(whole)]
    return [whole[begin:end] for begin, end in itertools.pairwise(edges)]


def walked(rewriter: JsonRewriter, parts: list[bytes]) -> bytes | None:
    """What a rewriter lets through; None where it is broken or never ends."""
    passed = b""
    rest = b""
    try:
        for part in parts:
            if rewriter.rest is None:
                passed += rewriter.feed(part)
            else:
                rest += part
    except RewriteBroken:
        return None
    if rewriter.rest is None:
        return None
    rewriter.rest += rest
    return passed


@given(RESULTS, METHODS, CODECS, PLACES, st.integers(0, 2), st.booleans())
@example({"content": [{"uri": 'notes://\\"'}]}, "tools/call", UriCodec("kit"), list(range(60)), 1, False)
@example({}, "tools/call", UriCodec("kit"), [], 0, True)
def test_what_comes_out_is_what_the_codec_makes_of_the_whole(  # noqa: PLR0917 - as hypothesis gives them
    value: dict[str, Any], method: str, codec: UriCodec, places: list[int], how: int, adds: bool
) -> None:
    asked = ("notes://a", "notes://alias") if method == "resources/read" else None
    looked_at = {"resultType": Place(note="resultType"), "isError": Place(note="isError")}
    added = {"resultType": "complete"} if adds else {}
    rewriter = JsonRewriter(Place(looked_at | codec.places(method, asked)), added)
    passed = walked(rewriter, cut(written(value, how) + b' ,"id":1}', places))
    assert passed is not None
    assert b"\n" not in passed
    assert json.loads(passed) == {**added, **codec.result(method, value, asked)}
    assert rewriter.rest == b' ,"id":1}'
    for name in looked_at:
        whole = not isinstance(value.get(name), dict | list)
        assert rewriter.noted.get(name, "nothing") == (value[name] if name in value and whole else _absent(name, value))


def _absent(name: str, value: dict[str, Any]) -> Any:
    return None if name in value else "nothing"


@pytest.mark.parametrize("forbidden", [b"\n", b"\r", b"\r\n", b"\t", b"\x00", b"\xff"])
@pytest.mark.parametrize("text", [b"a%sb", b"notes://a%sb", b"notes://\\u0061%sb"])
@pytest.mark.parametrize("member", [b"uri", b"text", b"resource"])
def test_what_may_not_stand_in_a_text_is_not_made_json_on_the_way(member: bytes, text: bytes, forbidden: bytes) -> None:
    whole = b'{"content":[{"%s":"%s"}]}' % (member, text % forbidden)
    passed = walked(JsonRewriter(Place(UriCodec("kit").places("tools/call"))), cut(whole, [20]))
    assert passed is not None
    assert b"\n" not in passed
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(passed)


@given(
    text=st.one_of(
        st.text(alphabet='{}[]",:\\a1 '),
        st.builds(lambda one, more: orjson.dumps(one).decode() + more, RESULTS, st.text(alphabet='{}[]",:\\a ')),
    ),
    places=PLACES,
)
@example(text='{},"id":9,"result":{}', places=[2, 5])
@example(text='{"a":"}"},"b":{"c":"{"}', places=[])
@example(text='{"content":[}]}', places=[])
@example(text='{"content":[,:]}', places=[])
def test_what_gets_through_is_one_value_in_whatever_it_is_put_into(text: str, places: list[int]) -> None:
    passed = walked(JsonRewriter(Place(UriCodec("kit", "kit2").places("tools/call"))), cut(text.encode(), places))
    if passed is None:
        return
    try:
        members = json.loads(b'{"result":' + passed + b"}", object_pairs_hook=lambda pairs: pairs)
    except ValueError:
        return  # The reader of the answer refuses it whole.
    assert [name for name, _ in members] == ["result"]
    json.loads(passed)


@given(RESULTS, PLACES, st.integers(0, 2))
def test_a_part_of_an_object_is_never_taken_for_the_whole(value: Any, places: list[int], how: int) -> None:
    whole = written(value, how)
    assert walked(JsonRewriter(Place(UriCodec("kit").places("tools/call"))), cut(whole[:-1], places)) is None


@pytest.mark.parametrize("broken", [b"[]", b" {}", b'"a"', b"1", b'{"content":[{1}]}', b'{"isError":}', b"{1}"])
def test_other_values_and_members_without_a_value_are_refused(broken: bytes) -> None:
    place = Place({"isError": Place(note="isError")} | UriCodec("kit").places("tools/call"))
    with pytest.raises(RewriteBroken):
        JsonRewriter(place).feed(broken)


@pytest.mark.parametrize("name", ["a", "content"])
def test_it_may_be_as_deep_as_can_be_read(name: str) -> None:
    place = Place(UriCodec("kit").places("tools/call"))
    deepest = b'{"%s":' % name.encode() + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"
    orjson.loads(deepest)
    assert JsonRewriter(place).feed(deepest) == deepest
    with pytest.raises(RewriteBroken):
        JsonRewriter(place).feed(b'{"%s":' % name.encode() + b"[" * DEPTH_MAX)


@pytest.mark.parametrize("size", [100, TOKEN_BYTES_MAX + 100])
@pytest.mark.parametrize("step", [1000, 10**6])
def test_a_uri_is_renamed_up_to_a_length_that_can_be_asked_for(size: int, step: int) -> None:
    whole = orjson.dumps({"content": [{"uri": "notes://" + "a" * size}, {"uri": "notes://b"}]})
    passed = walked(
        JsonRewriter(Place(UriCodec("kit").places("tools/call"))), cut(whole, list(range(0, len(whole), step)))
    )
    assert passed is not None
    first, second = orjson.loads(passed)["content"]
    assert first["uri"].startswith("notes://kit/a") is (size < TOKEN_BYTES_MAX)
    assert second["uri"] == "notes://kit/b"


def test_a_member_is_found_by_an_escaped_name() -> None:
    rewriter = JsonRewriter(Place({"isError": Place(note="isError")}))
    rewriter.feed(rb'{"is\u0045rror":true}')
    assert rewriter.noted == {"isError": True}


def test_what_has_nothing_to_change_is_handed_on_without_a_copy() -> None:
    part = b'{"content":[{"type":"text","text":"' + b"a" * 10_000
    assert JsonRewriter(Place(UriCodec("kit").places("tools/call"))).feed(part) is part


def test_a_name_without_an_end_is_not_collected_for_ever() -> None:
    parts = [b'{"', *(b"a" * 1000 for _ in range(TOKEN_BYTES_MAX // 1000))]
    rewriter = JsonRewriter(Place())
    assert walked(rewriter, parts) is None
    with pytest.raises(RewriteBroken):
        rewriter.feed(b"a" * 1000)


def test_large_containers_without_anything_to_change_are_skipped_to_their_very_end() -> None:
    for size in range(1, 3000, 7):
        skipped = orjson.dumps([{"a": ["x" * 7, "]"]}] * size)[:-1] + b"]"
        whole = b'{"more":' + skipped + b',"isError":true}'
        rewriter = JsonRewriter(Place({"isError": Place(note="isError")}))
        assert walked(rewriter, cut(whole, [size * 3, size * 5])) == whole
        assert rewriter.noted == {"isError": True}
