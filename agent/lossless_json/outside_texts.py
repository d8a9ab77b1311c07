"""PURE: the commas, brackets and braces of a JSON text that stand in none of its texts, of one piece after the other.

Used by `agent.lossless_json.values`, which counts them, and `agent.lossless_json.writable`, which follows them. What is
read need not be JSON: up to where it stops being that, what is found is right. The one rule: a piece takes some tens of
microseconds in honest texts and a millisecond in hostile ones, and nothing is kept of it but two words.
"""

import re
from typing import Final

PIECE_BYTES: Final = 16 << 10
_TEXT: Final = re.compile(rb'"[^"]*"?')


class OutsideTexts:
    """`marks`: the bytes that are looked for."""

    def __init__(self, marks: bytes) -> None:
        self._others = bytes(set(range(256)) - set(marks) - {ord('"')})
        self._in_text = False
        self._late = b""

    def __repr__(self) -> str:
        return f"<OutsideTexts {'in' if self._in_text else 'outside of'} a text>"

    def of(self, piece: bytes) -> bytes:
        """The marks in the next piece, in their order."""
        piece, self._late = _without_escapes(self._late + piece)
        marks = piece.translate(None, self._others)
        if self._in_text:
            marks = b'"' + marks
        self._in_text = marks.count(b'"') % 2 == 1
        # Taking out two quotes side by side changes for no mark whether an odd number stands before it.
        marks = marks.replace(b'""', b"")
        return _TEXT.sub(b"", marks) if b'"' in marks else marks


def _without_escapes(piece: bytes) -> tuple[bytes, bytes]:
    """The piece without escaped quotes and backslashes; and the backslash at its end whose other half is to come."""
    if b"\\" not in piece:
        return piece, b""
    late = b""
    if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
        piece, late = piece[:-1], b"\\"
    return piece.replace(b"\\\\", b"").replace(b'\\"', b""), late
