"""Cuts what a child writes to stdout into lines, within limits.

Used by `agent.client.stdio.process`, fed with pieces that are cut anywhere. The one rule: a line that is too long to be
held costs nothing but itself: the cutter reports its two ends, so that the call that it answers can fail, and reads the
next line.
"""

from collections.abc import Callable
from typing import Final

# One message of a child; four times what a request may have, since files come as results.
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
# A longer line than this is no message any more, and what writes it no server.
LINE_BYTES_SKIPPED_MAX: Final = 256 * 1024 * 1024
# An envelope's members before and behind its result, in honest white space.
END_BYTES: Final = 1024

OnLine = Callable[[bytes], None]
# Takes the beginning of a line that is too long, and its end once that has come (None before). Returns whether it now
# knows what the line was; it is not called again for the same line then.
OnTooLong = Callable[[bytes, bytes | None], bool]


class LineCutter:
    """See the module. `endless`: a line has become longer than is skipped."""

    def __init__(self, on_line: OnLine, on_too_long: OnTooLong) -> None:
        self._on_line = on_line
        self._on_too_long = on_too_long
        self._pieces: list[bytes] = []
        self._size = 0
        self._head: bytes | None = None  # Of a line that is too long; `_pieces` is its end then.
        self._told = False

    def __repr__(self) -> str:
        return f"<LineCutter {self._size} bytes of a line>"

    @property
    def endless(self) -> bool:
        """Whether the present line is longer than anything that is worth skipping."""
        return self._size > LINE_BYTES_SKIPPED_MAX

    def feed(self, data: bytes) -> None:
        """Take the next piece of output."""
        first, *more = data.split(b"\n")
        self._add(first)
        for following in more:
            self._end()
            self._add(following)

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size <= LINE_BYTES_MAX:
            return
        held = b"".join(self._pieces)
        self._pieces = [held[-END_BYTES:]]
        if self._head is None:
            self._head = held[:END_BYTES]
            self._told = self._on_too_long(self._head, None)

    def _end(self) -> None:
        pieces, head, told = self._pieces, self._head, self._told
        self._pieces, self._size, self._head, self._told = [], 0, None, False
        line = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        if head is not None:
            if not told:
                self._on_too_long(head, line)
        elif line and not line.isspace():
            self._on_line(line)
