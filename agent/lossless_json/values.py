"""PURE: how many values a JSON text holds, told without reading it.

Used for what a node has to look at in a large body: read, a value takes up to forty times its bytes, so a limit of
bytes alone says little of memory. The one rule: commas and brackets count where they are not within a text, and
counting them takes no memory: a body that is refused has cost its bytes.
"""

from typing import Final

from agent.lossless_json.outside_texts import PIECE_BYTES, OutsideTexts

_MARKS: Final = b",[{"


def values_in(text: bytes, values_max: int) -> int:
    """The number of commas and opening brackets: each value but one has its own. Beyond the limit it is one more.

    A text that may hold twice as many as the limit is taken for one that does.
    """
    # Two quotes make a text, and two texts at most share one mark: of so many, none has to be looked at.
    if text.count(b'"') - text.count(b'\\"') > 4 * values_max + 2:
        return values_max + 1
    outside, found = OutsideTexts(_MARKS), 0
    for at in range(0, len(text), PIECE_BYTES):
        found += len(outside.of(text[at : at + PIECE_BYTES]))
        if found > values_max:
            return values_max + 1
    return found
