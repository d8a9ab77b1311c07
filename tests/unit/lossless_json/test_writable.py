"""Whether a text is UTF-8, and no deeper than orjson writes, told piece by piece without reading it."""

from collections.abc import Generator
from typing import TypeVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json import writable as module
from agent.lossless_json.exact import is_deeper_than
from agent.lossless_json.writable import LEVELS_MAX, writable

T = TypeVar("T")
TEXTS = st.text(alphabet='[]{}"\\x\né', max_size=9)
VALUES = st.recursive(
    st.none() | st.integers(0, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=40,
)


def found(steps: Generator[None, None, T]) -> T:
    """What the steps lead to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_the_limit_is_the_depth_that_orjson_writes() -> None:
    orjson.dumps(orjson.loads(nested(LEVELS_MAX)))
    with pytest.raises(TypeError):
        orjson.dumps(orjson.loads(nested(LEVELS_MAX + 1)))
    assert found(writable(nested(LEVELS_MAX)))
    assert not found(writable(nested(LEVELS_MAX + 1)))


@given(value=VALUES, levels=st.integers(0, 6), piece=st.integers(1, 40), counted=st.integers(1, 9))
def test_depth_is_that_of_the_value_wherever_pieces_end(value: object, levels: int, piece: int, counted: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEVELS_MAX", levels)
        patch.setattr(module, "_PIECE_BYTES", piece)
        patch.setattr(module, "_COUNTED_LEN", counted)
        assert found(writable(orjson.dumps(value))) == (not is_deeper_than(value, levels))


@pytest.mark.parametrize("piece", range(1, 25))
def test_an_escape_may_lie_in_two_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", piece)
    for value in (['"[[['], ["\\", "[[["], ['\\"[[['], ['\\\\"', "[[["]):
        for levels, fits in ((0, False), (1, True), (2, True)):
            monkeypatch.setattr(module, "LEVELS_MAX", levels)
            assert found(writable(orjson.dumps(value))) == fits, value


@pytest.mark.parametrize("inner", [b"[]," * 9_000 + b"[]", b'"][",' * 9_000 + b"[]", b'"\\\\",' * 9_000 + b"[]"])
def test_depth_is_known_behind_many_pieces(inner: bytes) -> None:
    for levels, fits in ((LEVELS_MAX - 1, True), (LEVELS_MAX, False)):
        assert found(writable(b"[" * levels + inner + b"]" * levels)) == fits


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
@pytest.mark.parametrize("place", [0, 16_383, 16_384, 40_000])
def test_what_is_no_utf_8_is_found_wherever_it_stands(broken: bytes, place: int) -> None:
    whole = b"x" * place
    assert not found(writable(b'"' + whole + broken + whole + b'"'))
    assert not found(writable(b'"' + whole + broken))


@pytest.mark.parametrize("text", ["é", "漢", "\U0001f600"])
def test_a_character_may_lie_in_two_pieces(text: str) -> None:
    for place in range(16_379, 16_385):
        assert found(writable(b'"' + b"x" * place + text.encode() + b'"'))
