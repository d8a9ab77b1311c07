"""A text with halves of surrogate pairs is checked as the reader of all judges it, which takes them but in names."""

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json import half_pairs as module
from agent.lossless_json.envelope import read_message
from agent.lossless_json.exact import read_json
from agent.lossless_json.half_pairs import may_have_half_pairs, without_pairs
from agent.lossless_json.outline import BodyRefused
from tests.unit.lossless_json.test_writable import found

read_json(b"[1e400]")  # Raises Python's limit of recursion for good, which hypothesis would note in mid-test.
TEXTS = st.text(alphabet=[*'a"\\/\n é\U0001f600', "\ud83d", "\ude00", "\udbff", "\udc00"], max_size=8)
VALUES = st.recursive(
    TEXTS | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=12,
)


def is_object(text: bytes) -> bool:
    try:
        return isinstance(found(read_message(text)), dict)
    except BodyRefused:
        return False


def is_read(text: bytes) -> bool:
    try:
        return isinstance(read_json(text), dict)
    except orjson.JSONDecodeError:
        return False


@given(value=st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=4), run=st.integers(1, 5), upper=st.booleans())
def test_what_is_read_is_found_to_be_json(value: dict[str, Any], run: int, *, upper: bool) -> None:
    text = json.dumps(value).replace("\\ud", "\\uD" if upper else "\\ud").encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FILLER_BYTES", run)
        assert is_object(text) == is_read(text)
    filled = found(without_pairs(text))
    assert (filled is not None) == is_read(text)
    if filled is not None:
        assert len(filled) == len(text)
        assert not may_have_half_pairs(filled)


DAMAGE = st.sampled_from(
    [b"\\", b'"', b"\\u", b"\\ud8", b"\\ud83d", b"\\u12", b"\x01", b"\n", b"}", b"]", b",", b":", b"x", b"\\x", b"\\\\"]
)


@given(
    value=st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=4),
    cuts=st.lists(st.tuples(st.integers(0), st.integers(0, 4), DAMAGE), min_size=1, max_size=3),
)
def test_what_is_not_read_is_not_found_to_be_json(value: dict[str, Any], cuts: list[tuple[int, int, bytes]]) -> None:
    text = json.dumps({"": "\ud83d", **value}).encode()
    for place, dropped, put in cuts:
        at = place % len(text)
        text = text[:at] + put + text[at + dropped :]
    if is_object(text):
        assert is_read(text)


@pytest.mark.parametrize(
    "text",
    [
        *(b'{"a":"\\ud83d"}', b'{"a":"\\ud83d\\u12"}', b'{"a":"\\ud83d\x01"}', b'{"a":\\ud83d}', b'{"\\ud83d":1}'),
        *(b'{"a":"\\\\ud83d"}', b'{"a":"\\\\\\ud83d"}', b'{"\\ud83d\\ude00":"\\ud83d"}', b'{"a":"\\ud83d', b"\\ud83d"),
        *(b'{"a":"\\ud83', b'{"a":"\\uD8zz"}', b'{"a\\ude00" \n: 1}', b'{"a":"\\ud83d"}\\', b'{"a":"\\ud83d" "b":1}'),
        *(b'["\\ud83d"]', b'{"a":"\\ud83d\n"}', b'{"a":{"b":["\\ud83d",{"\\udbff":1}]}}', b'{"a":"\\uDC00\\uD800"}'),
    ],
)
def test_odd_texts_are_judged_alike(text: bytes) -> None:
    assert is_object(text) == is_read(text)


@pytest.mark.parametrize("count", [module._RUN_LEN - 1, module._RUN_LEN, module._RUN_LEN + 1, 3 * module._RUN_LEN])
@pytest.mark.parametrize("inner", [b"%s\\ud83d", b'\\ud83d","b":"%s\\ude00', b"\\ud83d%s\\ud83d"])
def test_half_a_pair_counts_however_many_escapes_stand_before_it(inner: bytes, count: int) -> None:
    assert is_object(b'{"a":"%s"}' % (inner % (b"\\n" * count)))


@pytest.mark.parametrize("text", [b"%s\\ud83d%s" % ((b"\\n" * (module._RUN_LEN - 6),) * 2), b"\\ud83d"])
def test_others_have_their_turn_after_some_thousand_bytes(text: bytes) -> None:
    body = b"{%s}" % b",".join([b'"a":"%s"' % text] * (500_000 // len(text)))
    assert sum(1 for _ in without_pairs(body)) >= len(body) // (4 * module._RUN_LEN + module._TURN_BYTES)


def test_the_check_alone_refuses_halves_of_pairs() -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'{"a":"\\ud83d"}')
