"""What of a child's output tells a person why it failed: the last few lines that say something, in one line.

Called with the tail of the output when a child ended or was too slow. Launchers put the reason above hints and the path
of a log, interpreters above or below their frames; some servers print it to stdout, among the messages. PURE. The one
rule: if the child wrote anything, the result says something.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

LINES_MAX: Final = 3
CHARS_MAX: Final = 300

# What launchers put before each line of theirs: npm's severity and status, uv's drawing.
_PREFIX: Final = re.compile(r"^\s*(?:npm (?:error|ERR!|notice|warn|WARN)\s*(?:\d{3}\b)?|[×╰─▶│├]+)\s*")  # noqa: RUF001 - as uv draws it
_NOTHING: Final = re.compile(
    r"""
      \W*                                                  # blank, carets, brackets
    | A\ complete\ log\ of\ this\ run .*                   # npm: where its log is, the line after it in npm 6 to 8
    | .*[\\/]_logs[\\/].*
    | Note\ that\ you\ can\ also\ install .*
    | tarball,\ folder,\ http\ url, .*
    | (?:New\ \w+\ version\ of\ npm\ available|Changelog:|To\ update\ run:) .*
    | (?:hint|help|note|info):\ .*                         # uv, rust
    | (?:Resolved|Prepared|Installed|Downloading|Downloaded|Building|Built|Uninstalled|Audited)\ .*
    | Node\.js\ v\d.*                                      # Node: the end of each uncaught error
    | throw\ .*
    | node:internal/\S*
    | During\ handling\ of\ the\ above\ exception .*       # Python: between two exceptions
    | The\ above\ exception\ was\ the\ direct\ cause .*
    | \++(?:-*\+*)*[-\ \d]*                                # Python: the lines of a group of exceptions
    """,
    re.VERBOSE,
)
_TRACEBACK: Final = re.compile(r"^(?:Exception Group )?Traceback \(most recent call last\):")
_PYTHON_FRAME: Final = re.compile(r'^\s+File ".*", line \d+')
_NODE_FRAME: Final = re.compile(r"^\s+at .*?(?P<open>\{?)$")
_GROUP_BORDER: Final = re.compile(r"^\s+[|+](?:-[-+ \d]*-)?\s?(?=\S|\s)")


def last_words(lines: Sequence[str], printed: Sequence[str] = ()) -> str:
    """Choose from the last lines of stderr, with their indentation; empty only where nothing was written.

    `printed`: lines of stdout that are no messages, for where stderr does not tell.
    """
    telling = _telling(lines) or _telling(printed)
    if not telling:
        telling = [line.strip() for line in (*printed, *lines) if line.strip()][-1:]
    *earlier, last = telling[-LINES_MAX:] or [""]
    told = last if len(last) <= CHARS_MAX else f"{last[: CHARS_MAX - 1]}…"
    for text in reversed(earlier):
        if len(text) + 2 + len(told) > CHARS_MAX:
            break
        told = f"{text}; {told}"
    return told


def _telling(lines: Sequence[str]) -> list[str]:
    telling: list[str] = []
    for line in _without_frames(lines):
        text = _PREFIX.sub("", line).strip()
        if not _NOTHING.fullmatch(text) and telling[-1:] != [text]:
            telling.append(text)
    return telling


def _without_frames(lines: Sequence[str]) -> Iterator[str]:
    """The lines outside the frames of tracebacks, and outside what Node prints of an error's members."""
    in_traceback = in_members = False
    for whole in lines:
        line = _GROUP_BORDER.sub("", whole)
        if _TRACEBACK.match(line.lstrip("+ ")) or _PYTHON_FRAME.match(line):
            in_traceback = True
        elif (frame := _NODE_FRAME.match(line)) is not None:
            in_members = bool(frame["open"])
        elif in_members:
            in_members = not line.startswith("}")
        elif not (in_traceback and line[:1].isspace()):
            in_traceback = False
            yield line
