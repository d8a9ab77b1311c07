"""PURE: a large JSON text for a check by msgspec, which refuses half a surrogate pair, as JavaScript may cut texts.

Used by `agent.lossless_json.outline`. The one rule: the text that comes back is JSON if and only if the given one is,
but for halves of pairs, and none of its values may be used: it only has the same length and the same structure.
"""

import re
from collections.abc import Generator
from typing import Final

import orjson

# So many escapes are passed at once; then others have their turn.
_RUN_LEN: Final = 4_096
_SURROGATE: Final = rb"u[dD][89a-fA-F]"
_TO_SURROGATE: Final = re.compile(
    rb"(?:[^\\]++|\\(?!" + _SURROGATE + b").){0,%d}+" % _RUN_LEN + rb"(\\" + _SURROGATE + b")?+", re.DOTALL
)
_MORE_OF_TEXT: Final = re.compile(
    rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,%d}+' % _RUN_LEN, re.DOTALL
)
_END_OF_NAME: Final = re.compile(rb'"[ \t\r\n]*+:')
_FILLER_BYTES: Final = 64 << 10
_FILLER: Final = b"x" * _FILLER_BYTES


def may_have_half_pairs(text: bytes) -> bool:
    """Whether there is any surrogate at all."""
    return re.search(rb"\\" + _SURROGATE, text) is not None


def without_pairs(text: bytes) -> Generator[None, None, bytearray | None]:
    """The steps to the text, what follows surrogates in its texts written over; None where a name has half a pair."""
    filled, at = bytearray(text), 0
    while at < len(text):
        found = _TO_SURROGATE.match(text, at)
        assert found is not None, "it may be empty"
        if found.end() == at:
            break  # A backslash at the end, as in no JSON.
        at = found.end()
        yield
        if found[1] is None:
            continue
        begin = at = found.start(1)
        while (more := _MORE_OF_TEXT.match(text, at)) is not None and more.end() > at:
            at = more.end()
            yield
        if at == begin:
            break  # No four digits, as in no JSON.
        if _END_OF_NAME.match(text, at) is not None and not _is_text(text[begin:at]):
            return None
        _fill(filled, begin, at)
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
