"""Lists on the terminal: aligned columns that fit its width, in colour where that is wanted, or the names alone.

Used by the commands that list. The one rule: a first column is never cut, for it is what the next command is given.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final

from agent.cli.output import columns
from agent.harmless_text import one_line

CELL_CHARS_MAX: Final = 90
WIDE_CELL_CHARS_MAX: Final = 1_000
_COLUMN_MIN: Final = 12
_GAP: Final = "  "
_BOLD, _RED, _GREEN, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLOURED_HEADS: Final = frozenset({"STATE", "STATUS", "CONNECTED", "CHECK"})
_COLOURS: Final = MappingProxyType(
    dict.fromkeys(("ready", "connected", "yes", "ok"), _GREEN)
    | dict.fromkeys(("backoff", "dialing", "draining", "starting", "maintenance", "left", "warning"), _YELLOW)
    | dict.fromkeys(("parked", "failed", "no", "left out", "fault"), _RED)
)


def print_list(output: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a list as `-o` wants it; `empty` is said in the place of a table without rows."""
    listed = list(rows)
    if output == "name":
        for row in listed:
            print(one_line(str(row[0])))
    elif listed:
        print_table(heads, listed, is_wide=output == "wide")
    else:
        print(empty)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, is_wide: bool = False) -> None:
    """Print aligned columns; None is a dash, and a column that is empty in every row is left out.

    On a terminal the widest columns are cut to its width, unless `is_wide`.
    """
    chars_max = WIDE_CELL_CHARS_MAX if is_wide else CELL_CHARS_MAX
    cells = [[_cell(value, chars_max if at else WIDE_CELL_CHARS_MAX) for at, value in enumerate(row)] for row in rows]
    kept = [index for index in range(len(heads)) if any(row[index] != "-" for row in cells)]
    lines = [[heads[index] for index in kept], *([row[index] for index in kept] for row in cells)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(kept))]
    if _is_terminal() and not is_wide:
        widths = fitted(widths, columns())
    coloured = wants_colour()
    for number, line in enumerate(lines):
        shown = [_padded(cell, width) for cell, width in zip(line, widths, strict=True)]
        if coloured:
            shown = [_in_colour(number, head, cell) for head, cell in zip(lines[0], shown, strict=True)]
        print(_GAP.join(shown).rstrip())


def fitted(widths: Sequence[int], columns: int) -> list[int]:
    """The widths with which a row has at most so many columns, if the first one and a few words each allow it."""
    fit = list(widths)
    while sum(fit) + len(_GAP) * (len(fit) - 1) > columns:
        widest = max(range(1, len(fit)), key=fit.__getitem__, default=0)
        if widest == 0 or fit[widest] <= _COLUMN_MIN:
            break
        fit[widest] -= 1
    return fit


def wants_colour() -> bool:
    """Whether stdout is a terminal that may be coloured (https://no-color.org)."""
    return _is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: it is closed.


def _in_colour(number: int, head: str, cell: str) -> str:
    if number == 0:
        return f"{_BOLD}{cell}{_PLAIN}"
    colour = _COLOURS.get(cell.rstrip()) if head in _COLOURED_HEADS else None
    return f"{colour}{cell}{_PLAIN}" if colour else cell


def _padded(cell: str, width: int) -> str:
    """The cell in so many columns; a cut one ends in an ellipsis."""
    if _width(cell) <= width:
        return cell + " " * (width - _width(cell))
    while _width(cell) > width - 1:
        cell = cell[:-1]
    return cell + "…" + " " * (width - 1 - _width(cell))


def _width(text: str) -> int:
    """How many columns a terminal takes for it: two for a Chinese character."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - few lists need it

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _cell(value: Any, chars_max: int) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case _:
            return one_line(str(value), chars_max)
