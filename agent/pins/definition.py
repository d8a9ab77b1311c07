"""PURE: what of a definition is pinned, its digest, and how two of them differ.

Called by `agent.pins.book` and for what people read of a change. The digest is SHA-256 over canonical JSON (RFC 8785)
of the members in `PINNED`, so that anybody can compute it. The one rule: all that a model reads of a tool before it
calls it counts, and nothing else; a new icon is no change.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from difflib import unified_diff
from typing import Any, Final

import rfc8785

from agent.harmless_text import one_line
from agent.lossless_json.exact import is_deeper_than
from agent.lossless_json.raw import write_definition
from agent.model import Json
from agent.routing.definitions import NESTING_MAX
from agent.routing.table import RouteKind

PINNED: Final[Mapping[RouteKind, tuple[str, ...]]] = {
    RouteKind.TOOL: ("name", "description", "inputSchema", "outputSchema", "annotations"),
    RouteKind.PROMPT: ("name", "description", "arguments"),
}
# Larger integers are no JSON numbers in RFC 8785, which reads all of them as doubles.
_SAFE_INTEGER: Final = 2**53 - 1
_LINE_CHARS_MAX: Final = 300
_LINES_MAX: Final = 200


def canonical(kind: RouteKind, definition: Json) -> bytes:
    """The pinned members as canonical JSON. Raises ValueError where they have no such form."""
    members = {name: definition[name] for name in PINNED[kind] if definition.get(name) is not None}
    if is_deeper_than(members, NESTING_MAX):
        raise ValueError(f"nested more than {NESTING_MAX} levels deep")
    return rfc8785.dumps(_doubles(json.loads(write_definition(members))))


def digest(content: bytes) -> str:
    """64 hexadecimal digits for what `canonical` returned."""
    return hashlib.sha256(content).hexdigest()


def difference(before: bytes, after: bytes) -> list[str]:
    """How two canonical definitions differ, as lines of a unified diff without its head; harmless for a terminal.

    A cut one ends in a line that says so.
    """
    lines = list(unified_diff(_lines(before), _lines(after), n=1, lineterm=""))[2:]
    shown = [
        one_line(line, _LINE_CHARS_MAX) if line[:1] != " " else f" {one_line(line, _LINE_CHARS_MAX)}" for line in lines
    ]
    return shown if len(shown) <= _LINES_MAX else [*shown[:_LINES_MAX], f"... {len(shown) - _LINES_MAX} more lines"]


def _lines(content: bytes) -> list[str]:
    # Escaped, so that hidden characters show.
    return json.dumps(json.loads(content), indent=1).splitlines()


def _doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _doubles(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_doubles(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _SAFE_INTEGER:
        try:
            return float(value)
        except OverflowError:
            return str(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
