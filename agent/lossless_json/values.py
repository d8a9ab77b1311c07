"""PURE: whether a JSON text holds more values than are read, told without reading it.

Used by `agent.server.request`, and for arguments that are read late: read, a value takes up to forty times its bytes,
so a limit of bytes alone says little of memory. The one rule: commas and brackets count where they are not within a
text, and counting them takes no memory: a body that is refused has cost its bytes.
"""

from typing import Final

from agent.lossless_json.outside_texts import PIECE_BYTES, OutsideTexts

# Read, a value takes up to 200 bytes. No honest body comes near: 4 MiB of records hold two thirds of that.
VALUES_MAX: Final = 400_000
_MARKS: Final = b",[{"


def holds_more_values(text: bytes, values_max: int) -> bool:
    """Whether there are more commas and opening brackets than that; each but one value has one of its own."""
    if len(text) <= values_max or _marks(text) <= values_max:
        return False
    # Two quotes make a text, and two texts at most share one mark: of so many, none has to be looked at.
    if text.count(b'"') - text.count(b'\\"') > 4 * values_max + 2:
        return True
    outside, found = OutsideTexts(_MARKS), 0
    for at in range(0, len(text), PIECE_BYTES):
        found += len(outside.of(text[at : at + PIECE_BYTES]))
        if found > values_max:
            return True
    return False


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
