"""PURE: the line on which each member of a JSON text stands, and the members that stand there twice.

Called by `agent.servers_file`, so that a message about a field can name its line. The one rule: the text has already
passed a JSON parser; this walk only finds places, it judges no syntax.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

# Member names and array indexes from the root: ("mcpServers", "files", "args", 0).
JsonPath: TypeAlias = tuple[str | int, ...]

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A member that one object has twice, and the line of the second one."""

    path: JsonPath
    line: int


def find_places(text: str) -> tuple[Mapping[JsonPath, int], tuple[Duplicate, ...]]:
    """Return the line (from 1) of every member and array item of valid JSON, and the duplicates."""
    lines: dict[JsonPath, int] = {(): 1}
    duplicates: list[Duplicate] = []
    path: list[str | int] = []  # The member or item that the walk is in, one part for each open bracket.
    line, seen_to = 1, 0
    key_due = False
    for match in _WORD.finditer(text):
        line += text.count("\n", seen_to, match.start())
        seen_to = match.start()
        word = match.group()
        if key_due and word.startswith('"'):
            path[-1] = json.loads(word)
            key_due = False
            if tuple(path) in lines:
                duplicates.append(Duplicate(tuple(path), line))
            lines[tuple(path)] = line
            continue
        if path and isinstance(path[-1], int) and word not in "}],":
            lines.setdefault(tuple(path), line)
        match word:
            case "{":
                path.append("")
                key_due = True
            case "[":
                path.append(0)
            case "}" | "]":
                path.pop()
                key_due = False
            case ",":
                last = path[-1]
                path[-1] = last + 1 if isinstance(last, int) else ""
                key_due = not isinstance(last, int)
    return lines, tuple(duplicates)


def place_of(lines: Mapping[JsonPath, int], path: JsonPath) -> int:
    """Return the line of `path`, or of the nearest thing around it that is there."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def dotted(path: JsonPath) -> str:
    """Write a path as people do: `mcpServers.files.args[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
