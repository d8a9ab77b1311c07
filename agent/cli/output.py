"""What the command line says: exit codes, its one failure, tables and JSON.

Used by every module of `agent.cli`. The one rule: nothing that another machine wrote reaches the terminal uncleaned.
"""

import io
import json
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

from agent.harmless_text import one_line

JSON_SCHEMA = 1  # Fields may be added under one number; a renamed or dropped field makes it the next.
CELL_CHARS_MAX = 90


class Exit(IntEnum):
    """The exit codes, which scripts rely on."""

    OK = 0
    USAGE = 1
    CONFIG = 2
    AUTH = 3
    UNREACHABLE = 4
    TOOL = 5


class CliFailed(Exception):
    """A command cannot be done; `main` prints the message and exits with the code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def tolerate_any_encoding() -> None:
    """Let a terminal that cannot show a character get its escape: a tool's words must not end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(**data: Any) -> None:
    """Print one document with its schema number; ASCII only, so that it is harmless on a terminal too."""
    print(json.dumps({"schema": JSON_SCHEMA, **data}, indent=2))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns; None is a dash, and a column that is empty in every row is left out."""
    cells = [[_cell(value) for value in row] for row in rows]
    kept = [index for index in range(len(heads)) if any(row[index] != "-" for row in cells)]
    lines = [[heads[index] for index in kept], *([row[index] for index in kept] for row in cells)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fault(message: str) -> None:
    """Print a failure to stderr."""
    print(f"mesh-agent: {one_line(message)}", file=sys.stderr)


def as_duration(seconds: Any) -> str | None:
    """Write seconds as people read them: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    ten_s, minute_s, hour_s = 10, 60, 3600
    if seconds < ten_s:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < minute_s:
        return f"{whole} s"
    if whole < hour_s:
        return f"{whole // minute_s} min {whole % minute_s} s"
    return f"{whole // hour_s} h {whole % hour_s // minute_s} min"


def rows_in(data: Any, key: str) -> list[dict[str, Any]]:
    """The objects of a list that a node sent; none where it sent something else."""
    rows = data.get(key) if isinstance(data, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _cell(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case _:
            return one_line(str(value), CELL_CHARS_MAX)
