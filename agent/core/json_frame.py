"""Follows one JSON object through the parts that it comes in, so that nothing but that object is passed on.

Called for results that are too large to be held. Theory: a JSON reader of any make tells texts from brackets alike, so
it is enough to know where texts begin and end and how deep the brackets are: the object ends where the first depth of
zero is. What lies between is the reader's business; if it is no JSON, every reader refuses the whole. The one rule:
whoever stays silent to `feed` up to a `closed` frame has seen exactly one object, on one line.
"""

from itertools import accumulate
from typing import Final

# As deep as a result can be read that is held (orjson's limit).
DEPTH_MAX: Final = 1024

_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))
_STEP: Final = tuple(1 if byte in b"{[" else -1 for byte in range(256))


class FrameBroken(ValueError):
    """What came is not one JSON object on one line, or is nested too deep."""


class ObjectFrame:
    """`closed`: the object is complete with the last byte that was fed."""

    def __init__(self) -> None:
        self.closed = False
        self._begun = False
        self._depth = 0
        self._in_text = False
        self._escaped = False

    def __repr__(self) -> str:
        return f"<ObjectFrame depth={self._depth} in_text={self._in_text} closed={self.closed}>"

    def feed(self, part: bytes) -> None:
        """Take the next part. Raises `FrameBroken`."""
        if not part:
            return
        if self.closed or not (self._begun or part.startswith(b"{")) or b"\n" in part or b"\r" in part:
            raise FrameBroken("not one JSON object on one line")
        self._begun = True
        depths = list(accumulate(map(_STEP.__getitem__, self._brackets(part)), initial=self._depth))
        self._depth = depths[-1]
        self.closed = self._depth == 0 and not self._in_text and part.endswith(b"}")
        # The first depth of all is that before the first bracket; only the last may be zero, and only at the end.
        if max(depths) > DEPTH_MAX or min(depths[1:-1], default=1) < 1 or (self._depth < 1 and not self.closed):
            raise FrameBroken("not one JSON object, or nested too deep")

    def _brackets(self, part: bytes) -> bytes:
        """The brackets outside texts, in order."""
        text = part[1:] if self._escaped else part
        self._escaped = (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
        if b"\\" in text:
            # Pairs first, and runs of them fall apart from the left, so what is left escapes what follows it.
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = text.split(b'"')
        outside = pieces[1::2] if self._in_text else pieces[::2]
        self._in_text ^= len(pieces) % 2 == 0
        return b"".join(outside).translate(None, _ALL_BUT_BRACKETS)
