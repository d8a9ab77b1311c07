"""PURE: the text of a servers file with entries added or taken away, and everything else as its owner wrote it.

Called by `agent.cli.servers_import` and `agent.cli.servers_edit`. The one rule: the value of the new text is the old
one with that change and no other, or the change is refused.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.config.relaxed_json import JsonPath, closing_bracket, member_start, parse_relaxed
from agent.config.servers_file import map_of
from agent.errors import ConfigRefused
from agent.model import Json

_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DECODER: Final = json.JSONDecoder()


def entries_in(root: Any) -> Mapping[str, Any]:
    """The entries of a servers file's document; none where it has no place for them yet."""
    at = map_of(root)
    found = None if at is None else _member(root, at)
    return found if isinstance(found, dict) else {}


def with_entries(text: str, entries: Mapping[str, Json], path: Path) -> str:
    """Return the text of a servers file with further entries; an empty text is a new file. Raises `ConfigRefused`."""
    if not text.strip("\ufeff \t\r\n"):
        return json.dumps({"mcpServers": dict(entries)}, indent=2, ensure_ascii=False) + "\n"
    root, plain = parse_relaxed(text, path)
    at = map_of(root)
    if not isinstance(root, dict) or (at is not None and not isinstance(_member(root, at), dict)):
        raise ConfigRefused(f'{path}:1: has no place for servers; it must be an object like {{"mcpServers": {{}}}}')
    members: Mapping[str, Any] = entries if at is not None else {"mcpServers": dict(entries)}
    changed = _with_members(text, plain, at or (), members)
    expected = json.loads(plain)
    _member(expected, at or ()).update(members)
    if parse_relaxed(changed, path)[0] != expected:
        raise ConfigRefused(
            f"{path}: nothing can be added without harm to what is there, as a name stands twice; edit it"
        )
    return changed


def _with_members(text: str, plain: str, at: JsonPath, members: Mapping[str, Any]) -> str:
    """Write members before the closing bracket of the object at `at`, as deep as it stands."""
    newline = "\r\n" if "\r\n" in text else "\n"
    end = closing_bracket(plain, at)
    last = len(plain[:end].rstrip())  # Behind the last word of the object; comments after it are blanks.
    line_start = text.rfind("\n", 0, end) + 1
    outer = text[line_start:end] if not text[line_start:end].strip() else "  " * len(at)
    step = "\t" if "\t" in outer else "  "
    rows = []
    for name, value in members.items():
        written = json.dumps(value, indent=step, ensure_ascii=False).replace("\n", f"{newline}{outer}{step}")
        rows.append(f"{outer}{step}{json.dumps(name, ensure_ascii=False)}: {written}")
    block = f",{newline}".join(rows)
    has_comma = "," in _COMMENT.sub("", text[last:end])  # A trailing one, which is a blank in the plain text.
    is_empty = plain[last - 1] == "{"
    comma = "" if is_empty or has_comma else ","
    # What stands between the last member and the bracket (a comment, say) stays where it is, before the new members.
    between = text[last:end].rstrip(" \t\r\n")
    return f"{text[:last]}{comma}{between}{newline}{block}{newline}{outer}{text[end:]}"


def _member(root: Any, at: JsonPath) -> Any:
    for key in at:
        root = root[key]
    return root


def without_entry(text: str, name: str, path: Path) -> str:
    """Return the text of a servers file without one entry, which is in it. Raises `ConfigRefused`."""
    root, plain = parse_relaxed(text, path)
    at = map_of(root)
    assert at is not None, "the entry was found there"
    start = member_start(plain, (*at, name))
    _, key_end = _DECODER.raw_decode(plain, start)
    _, value_end = _DECODER.raw_decode(plain, _behind_blanks(plain, _behind_blanks(plain, key_end) + 1))
    begin, end = start, value_end
    if (comma := _behind_blanks(plain, value_end)) < len(plain) and plain[comma] == ",":
        end = comma + 1
    else:  # The last one: the comma before it goes, and one after it that a strict reader would refuse.
        before = len(plain[:start].rstrip())
        if plain[before - 1] == ",":
            text = f"{text[: before - 1]} {text[before:]}"
        if (late := re.match(r"\s*,", text[value_end:])) is not None:
            end = value_end + late.end()
    line_start, line_end = text.rfind("\n", 0, begin) + 1, _line_end(text, end)
    if not text[line_start:begin].strip() and not text[end:line_end].strip():
        begin, end = line_start, line_end  # Its lines, whole.
    changed = text[:begin] + text[end:]
    expected = json.loads(plain)
    del _member(expected, at)[name]
    try:
        if parse_relaxed(changed, path)[0] == expected:
            return changed
    except ConfigRefused:
        pass
    raise ConfigRefused(f"{path}: {name} cannot be taken out without harm to what stands around it; edit the file")


def _behind_blanks(plain: str, place: int) -> int:
    while place < len(plain) and plain[place].isspace():
        place += 1
    return place


def _line_end(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end + 1
