"""PURE: the commas, brackets and braces of a JSON text that stand in none of its texts, of one piece after the other.

Used by `agent.lossless_json.values`, which counts them, and `agent.lossless_json.writable`, which follows them. What is
read need not be JSON: up to where it stops being that, what is found is right. The one rule: a piece takes some tens of
microseconds in honest texts and a millisecond in hostile ones, and nothing is kept of it but two words.
"""

from functools import lru_cache
from typing import Final

PIECE_BYTES: Final = 16 << 10


class OutsideTexts:
    """`marks`: the bytes that are looked for. `in_text`: whether the first piece begins within a text.

    `escaped`: whether its first byte does not count, as a backslash stands before it.
    """

    __slots__ = ("_late", "_others", "in_text")

    def __init__(self, marks: bytes, *, in_text: bool = False, escaped: bool = False) -> None:
        self._others = _but(marks)
        self._late = b"\\" if escaped else b""
        self.in_text = in_text

    def __repr__(self) -> str:
        return f"<OutsideTexts {'in' if self.in_text else 'outside of'} a text>"

    @property
    def escaped(self) -> bool:
        """Whether the next byte does not count."""
        return bool(self._late)

    def of(self, piece: bytes) -> bytes:
        """The marks in the next piece, in their order."""
        piece, self._late = without_escapes(self._late + piece)
        marks = piece.translate(None, self._others)
        if self.in_text:
            marks = b'"' + marks
        self.in_text = marks.count(b'"') % 2 == 1
        # Taking out two quotes side by side changes for no mark whether an odd number stands before it.
        return b"".join(marks.replace(b'""', b"").split(b'"')[::2])


@lru_cache
def _but(marks: bytes) -> bytes:
    """All other bytes, without the quote."""
    return bytes(set(range(256)) - set(marks) - {ord('"')})


def without_escapes(piece: bytes) -> tuple[bytes, bytes]:
    """The piece without escaped quotes and backslashes; and the backslash at its end whose other half is to come."""
    if b"\\" not in piece:
        return piece, b""
    late = b""
    if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
        piece, late = piece[:-1], b"\\"
    return piece.replace(b"\\\\", b"").replace(b'\\"', b""), late
