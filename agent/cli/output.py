"""What the command line says beside its lists: exit codes, its one failure with a code for programs, and JSON.

Used by every module of `agent.cli`. The one rule: nothing that another machine wrote reaches the terminal uncleaned.
"""

import io
import json
import os
import sys
from contextlib import suppress
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

from agent.harmless_text import one_line

_COLUMNS_DEFAULT: Final = 80
JSON_SCHEMA = 1  # Fields may be added under one number; a renamed or dropped field makes it the next.


class Exit(IntEnum):
    """The exit codes, which scripts rely on."""

    OK = 0
    USAGE = 1
    CONFIG = 2
    AUTH = 3
    UNREACHABLE = 4
    TOOL = 5


# The codes of failures that say nothing more exact (docs/errors.md).
_ERRORS: Final = MappingProxyType(
    {
        Exit.USAGE: "usage",
        Exit.CONFIG: "config_refused",
        Exit.AUTH: "token_refused",
        Exit.UNREACHABLE: "node_unreachable",
        Exit.TOOL: "tool_failed",
    }
)


class CliFailed(Exception):
    """A command cannot be done; `main` prints the message and exits with the code.

    `error`: the code for programs, as docs/errors.md has it; never changed once it is there.
    """

    def __init__(self, code: Exit, message: str, *, error: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.error = error or _ERRORS[code]


def tolerate_any_encoding() -> None:
    """Let a terminal that cannot show a character get its escape: a tool's words must not end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(**data: Any) -> None:
    """Print one document with its schema number; ASCII only, so that it is harmless on a terminal too."""
    print(json.dumps({"schema": JSON_SCHEMA, **data}, indent=2))


def print_fault(message: str, failed: CliFailed | None = None) -> None:
    """Print a failure to stderr: as words, or where `failed` is given, as one line of JSON."""
    line = f"mesh-agent: {one_line(message)}"
    if failed is not None:
        error = {"code": failed.error, "message": one_line(message), "exit": int(failed.code)}
        line = json.dumps({"schema": JSON_SCHEMA, "error": error})
    with suppress(OSError):  # Nothing is left to say it with.
        print(line, file=sys.stderr, flush=True)


def columns() -> int:
    """Of the terminal, unless COLUMNS says otherwise; as `shutil`, whose import costs more than a whole table."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS_DEFAULT
    except (AttributeError, OSError, ValueError):  # Closed, or none.
        return _COLUMNS_DEFAULT


def abandon_output() -> None:
    """Let what stdout still holds go nowhere: Python would write it at its end, and complain that it cannot."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def with_nearest(failed: CliFailed, given: str, known: Any) -> CliFailed:
    """The same failure, with the nearest of the known names in its message."""
    return CliFailed(failed.code, f"{failed}{did_you_mean(given, known)}", error=failed.error)


def did_you_mean(given: str, known: Any) -> str:
    """`; did you mean x?` for the nearest of the known names, empty where none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - for failures alone

    near = get_close_matches(given, [str(name) for name in known if name != given], n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
