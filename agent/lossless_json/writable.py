"""PURE: whether a large JSON text is UTF-8, and no deeper than orjson writes, told without reading it.

Used by `agent.server.request` before msgspec, which checks neither. The text need not be JSON: then both mean nothing,
and msgspec refuses it. The one rule: work is done in steps of some tens of microseconds for honest texts and a
millisecond for hostile ones, and nothing is kept between them but a few numbers.
"""

import codecs
from collections.abc import Generator
from itertools import accumulate
from typing import Final

from agent.lossless_json.outside_texts import PIECE_BYTES, OutsideTexts

# What orjson writes; a body is written again with as many levels around its arguments.
LEVELS_MAX: Final = 254
_PIECE_BYTES: Final = PIECE_BYTES
# Brackets that are counted together; only where they might pass the limit, each is looked at.
_COUNTED_LEN: Final = 128
_OPEN, _CLOSE = b"\x01", b"\xff"  # As signed bytes, the steps of the depth.
_AS_STEPS: Final = bytes.maketrans(b"{[}]", _OPEN * 2 + _CLOSE * 2)
_Utf8: Final = codecs.getincrementaldecoder("utf-8")


def writable(text: bytes) -> Generator[None, None, bool]:
    """The steps of the check; the generator returns its result."""
    utf8, depth, outside = _Utf8(), 0, OutsideTexts(b"{}[]")
    for at in range(0, len(text), _PIECE_BYTES):
        piece = text[at : at + _PIECE_BYTES]
        try:
            utf8.decode(piece, final=at + _PIECE_BYTES >= len(text))
        except UnicodeDecodeError:
            return False
        marks = outside.of(piece).translate(_AS_STEPS)
        if _is_deeper(marks, depth):
            return False
        depth += 2 * marks.count(_OPEN) - len(marks)
        yield
    return True


def _is_deeper(brackets: bytes, depth: int) -> bool:
    """Whether they lead below the limit from that depth."""
    for at in range(0, len(brackets), _COUNTED_LEN):
        counted = brackets[at : at + _COUNTED_LEN]
        opened = counted.count(_OPEN)
        if depth + opened > LEVELS_MAX and depth + max(accumulate(memoryview(counted).cast("b"))) > LEVELS_MAX:
            return True
        depth += 2 * opened - len(counted)
    return False
