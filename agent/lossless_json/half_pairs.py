"""PURE: a large JSON text for a check by msgspec, which refuses half a surrogate pair, as JavaScript may cut texts.

Used by `agent.lossless_json.outline`. The one rule: the text that comes back is JSON if and only if the given one is,
but for halves of pairs, and none of its values may be used: it only has the same length and the same structure.
"""

import re
from collections.abc import Generator
from typing import Final

import orjson

# So many escapes are passed at once, and texts within so many bytes; then others have their turn.
_RUN_LEN: Final = 4_096
_TURN_BYTES: Final = 8 << 10
_SURROGATE: Final = rb"u[dD][89a-fA-F]"
_BEFORE: Final = rb"(?:[^\\]++|\\(?!" + _SURROGATE + b").){0,%d}+" % _RUN_LEN
_MORE: Final = rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,%d}+' % _RUN_LEN
# Up to a surrogate, what of its text follows it, and whether that is a name.
_NEXT: Final = re.compile(
    _BEFORE + rb"(?:(?=\\" + _SURROGATE + b")(" + _MORE + rb')("(?:[ \t\r\n]*+(:))?+)?+)?+', re.DOTALL
)
_MORE_OF_TEXT: Final = re.compile(_MORE, re.DOTALL)
_END_OF_NAME: Final = re.compile(rb'"[ \t\r\n]*+:')
_FILLER_BYTES: Final = 64 << 10
_FILLER: Final = b"x" * _FILLER_BYTES


def may_have_half_pairs(text: bytes) -> bool:
    """Whether there is any surrogate at all."""
    return re.search(rb"\\" + _SURROGATE, text) is not None


def without_pairs(text: bytes) -> Generator[None, None, bytearray | None]:
    """The steps to the text, what follows surrogates in its texts written over; None where a name has half a pair."""
    filled, at, turn_at = bytearray(text), 0, 0
    while at < len(text):
        found = _NEXT.match(text, at)
        assert found is not None, "it may be empty"
        begin, end = found.span(1)
        if found.end() == at or 0 <= begin == end:
            break  # A backslash at the end, or no four digits, as in no JSON.
        at = found.end()
        if at - turn_at >= _TURN_BYTES:
            turn_at = at
            yield
        if begin < 0:
            continue
        is_name = found[3] is not None
        if found[2] is None:  # There are more escapes.
            while (more := _MORE_OF_TEXT.match(text, end)) is not None and more.end() > end:
                end = more.end()
                yield
            at, is_name = end, _END_OF_NAME.match(text, end) is not None
        if is_name and not _is_text(text[begin:end]):
            return None
        _fill(filled, begin, end)
    return filled


def _is_text(inner: bytes) -> bool:
    try:
        orjson.loads(b'"%s"' % inner)
    except orjson.JSONDecodeError:
        return False
    return True


def _fill(filled: bytearray, begin: int, end: int) -> None:
    for at in range(begin, end, _FILLER_BYTES):
        count = min(_FILLER_BYTES, end - at)
        filled[at : at + count] = _FILLER[:count]
