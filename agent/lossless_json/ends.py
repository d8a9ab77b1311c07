"""PURE: where a value ends in a JSON text, however large and deep it is, told without reading it, in steps.

Used by `agent.lossless_json.members`. The text is JSON, and a value begins where it is said to. The one rule: a large
value is passed in pieces whose marks are counted, as `agent.lossless_json.outside_texts` gives them; only some bytes at
its ends are looked at one by one, so time grows with the text, and memory is that of a piece.
"""

import re
from collections.abc import Generator
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

from agent.lossless_json.outside_texts import PIECE_BYTES, OutsideTexts, without_escapes

Text: TypeAlias = bytes | memoryview

# So many bytes are looked at one by one; pieces grow from there, and shrink to it where the end is near.
_LOOKED_AT_BYTES: Final = 64
_GROWTH: Final = 4
_SHRINKAGE: Final = 16
_SCALAR: Final = re.compile(rb"[^,\]} \t\r\n]++")
_SHORT_TEXT: Final = re.compile(rb'"[^"\\]*+"')
_QUOTE, _BACKSLASH = b'"\\'
_BRACKETS: Final = b"[]{}"
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")
_OPEN, _CLOSE = b"\x01", b"\xff"  # As signed bytes, the steps of the depth.
_AS_STEPS: Final = bytes.maketrans(b"{[}]", _OPEN * 2 + _CLOSE * 2)


class _State(NamedTuple):
    """What is known of the bytes behind a place: whether they begin in a text, behind a backslash, and how deep."""

    in_text: bool
    escaped: bool
    depth: int


def end_of_value(text: Text, at: int) -> Generator[None, None, int]:
    """The steps, one for each piece, to where the value ends that begins at `at`."""
    begin = text[at]
    if begin not in _OPENING and begin != _QUOTE:
        scalar = _SCALAR.match(text, at)
        assert scalar is not None, "a value begins here"
        return scalar.end()
    if begin == _QUOTE and (short := _SHORT_TEXT.match(text, at)) is not None:
        return short.end()
    end, state = _looked_at(text, at, _State(in_text=False, escaped=False, depth=0))
    at, size, grows = at + _LOOKED_AT_BYTES, _LOOKED_AT_BYTES * _GROWTH, True
    after: _State | None
    while end is None:
        assert at < len(text), "the text is JSON"
        if size == _LOOKED_AT_BYTES:
            end, after = _looked_at(text, at, state)
        else:
            yield
            after = _after(bytes(text[at : at + size]), state)
            if after is None:  # It ends there.
                size, grows = max(_LOOKED_AT_BYTES, size // _SHRINKAGE), False
                continue
        at, state = at + size, after
        size = min(size * _GROWTH, PIECE_BYTES) if grows else size
    return end


def _looked_at(text: Text, at: int, state: _State) -> tuple[int | None, _State]:
    """The end, if it is among the next bytes; and what is known behind them."""
    in_text, escaped, depth = state
    for place, byte in enumerate(text[at : at + _LOOKED_AT_BYTES], at + 1):
        if escaped:
            escaped = False
        elif in_text:
            escaped, in_text = byte == _BACKSLASH, byte != _QUOTE
            if not in_text and depth == 0:
                return place, state
        elif byte == _QUOTE:
            in_text = True
        elif byte in _OPENING:
            depth += 1
        elif byte in _CLOSING:
            depth -= 1
            if depth == 0:
                return place, state
    return None, _State(in_text, escaped, depth)


def _after(piece: bytes, state: _State) -> _State | None:
    """What is known behind a piece; None where the value ends in it."""
    if state.depth == 0:  # It is a text.
        rest, late = without_escapes((b"\\" if state.escaped else b"") + piece)
        return None if b'"' in rest else _State(in_text=True, escaped=bool(late), depth=0)
    outside = OutsideTexts(_BRACKETS, in_text=state.in_text, escaped=state.escaped)
    steps = outside.of(piece).translate(_AS_STEPS)
    # An empty list goes up and down again, and leads no lower; without those, little is left to be looked at.
    steps = steps.replace(_OPEN + _CLOSE, b"")
    opened = steps.count(_OPEN)
    closed = len(steps) - opened
    if state.depth <= closed and min(accumulate(memoryview(steps).cast("b"), initial=state.depth)) <= 0:
        return None
    depth = state.depth + opened - closed
    return _State(outside.in_text, outside.escaped, depth)
