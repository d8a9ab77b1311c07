"""PURE: JSON as people write it into configuration files, and where each member of it stands.

Called by `servers_file` and `import_plan`. Besides JSON, a byte order mark, comments and trailing commas are read, as
VS Code, Cursor and Gemini CLI do; anything else stays refused. A library (json5 is a kept one) would accept far more,
such as bare words and single quotes, and gives no line for a member, which every message here names. The one rule: what
is taken away becomes blanks, so that every place in the text stays where it was.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from agent.errors import ConfigRefused

# Member names and array indexes from the root: ("mcpServers", "files", "args", 0).
JsonPath: TypeAlias = tuple[str | int, ...]

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/|[{}\[\],:]|[^\s{}\[\],:"/]+|/', re.DOTALL)
_NOT_NEWLINE = re.compile(r"[^\r\n]")
_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A member that one object has twice, and the line of the second one."""

    path: JsonPath
    line: int


def parse_relaxed(text: str, path: Path) -> tuple[Any, str]:
    """Return the value, and the text as plain JSON with every place kept. Raises `ConfigRefused` with path and line."""
    plain = plain_json(text)
    try:
        return json.loads(plain), plain
    except json.JSONDecodeError as exc:
        raise ConfigRefused(f"{path}:{exc.lineno}: is not JSON: {exc.msg} (column {exc.colno})") from exc
    except (RecursionError, ValueError) as exc:  # Nested too deep; a number with thousands of digits.
        raise ConfigRefused(f"{path}:1: is not JSON that can be read: {exc}") from exc


def plain_json(text: str) -> str:
    """Put blanks in the place of a byte order mark, of comments, and of a comma before a closing bracket."""
    blanked: list[tuple[int, int]] = [(0, 1)] if text.startswith(_MARK) else []
    before, last = "[", "["  # The two words before this one; at the start a comma may not stand.
    last_at = 0
    for match in _STRING_OR_COMMENT.finditer(text):
        word = match.group()
        if word.startswith(("//", "/*")):
            blanked.append(match.span())
            continue
        if word in "]}" and last == "," and before not in "[{,:":
            blanked.append((last_at, last_at + 1))
        before, last, last_at = last, word, match.start()
    pieces, at = [], 0
    for start, end in sorted(blanked):
        pieces += [text[at:start], _NOT_NEWLINE.sub(" ", text[start:end])]
        at = end
    return "".join([*pieces, text[at:]])


def find_places(text: str) -> tuple[Mapping[JsonPath, int], tuple[Duplicate, ...]]:
    """Return the line (from 1) of every member and array item of valid JSON, and the duplicates."""
    lines: dict[JsonPath, int] = {(): 1}
    duplicates: list[Duplicate] = []
    line, seen_to = 1, 0
    starts: dict[JsonPath, int] = {(): 0}
    within: dict[JsonPath, int] = {}  # Where the object began that has the member: of two of a name, each has its own.
    for path, at, is_end in _walk(text):
        line += text.count("\n", seen_to, at)
        seen_to = at
        if is_end:
            continue
        around = starts[path[:-1]]
        if within.get(path) == around:
            duplicates.append(Duplicate(path, line))
        lines[path], starts[path], within[path] = line, at, around
    return lines, tuple(duplicates)


def closing_bracket(text: str, path: JsonPath) -> int:
    """Return the offset of the bracket that closes the object or array at `path` of valid JSON."""
    return next(at for found, at, is_end in _walk(text) if is_end and found == path)


def member_start(text: str, path: JsonPath) -> int:
    """Return the offset of the name of the member at `path` of valid JSON; of two, that of the last."""
    return [at for found, at, is_end in _walk(text) if not is_end and found == path][-1]


def place_of(lines: Mapping[JsonPath, int], path: JsonPath) -> int:
    """Return the line of `path`, or of the nearest thing around it that is there."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def dotted(path: JsonPath) -> str:
    """Write a path as people do: `mcpServers.files.args[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _walk(text: str) -> Iterator[tuple[JsonPath, int, bool]]:
    """Yield path and offset of every member and array item, and, with True, of every closing bracket."""
    path: list[str | int] = []  # The member or item that the walk is in, one part for each open bracket.
    key_due = False
    for match in _WORD.finditer(text):
        word = match.group()
        if key_due and word.startswith('"'):
            path[-1] = json.loads(word)
            key_due = False
            yield tuple(path), match.start(), False
            continue
        if path and isinstance(path[-1], int) and word not in "}],":
            yield tuple(path), match.start(), False
        match word:
            case "{":
                path.append("")
                key_due = True
            case "[":
                path.append(0)
            case "}" | "]":
                path.pop()
                key_due = False
                yield tuple(path), match.start(), True
            case ",":
                last = path[-1]
                path[-1] = last + 1 if isinstance(last, int) else ""
                key_due = not isinstance(last, int)
