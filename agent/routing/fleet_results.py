"""What several nodes answered, as one result: a heading for each node in `content`, and a row each in the structure.

Called by `agent.server.fleet_calls`. The one rule: every node that was to be called has a row, and the result is an
error only where all of them failed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from agent.lossless_json.exact import is_deeper_than
from agent.model import Json

OK: Final = "ok"
TOOL_ERROR: Final = "tool_error"
# What a result may be nested, so that it can be written as a row of another.
NESTING_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Row:
    """How it went on one node. `outcome`: one of `agent.routing.fleet.OUTCOMES`. `structured`: None for none."""

    node: str
    outcome: str
    content: tuple[Any, ...]
    structured: Json | None = None

    @classmethod
    def answered(cls, node: str, result: Json) -> "Row":
        """The row of a node's own result, with numbers as they were written."""
        if is_deeper_than(result, NESTING_MAX):
            return cls.failed(node, "error", f"the answer has more than {NESTING_MAX} levels of nesting")
        content, structured = result.get("content"), result.get("structuredContent")
        return cls(
            node,
            TOOL_ERROR if result.get("isError") is True else OK,
            tuple(content) if isinstance(content, list) else (),
            structured if isinstance(structured, dict) else None,
        )

    @classmethod
    def failed(cls, node: str, outcome: str, why: str) -> "Row":
        """The row of a node without an answer."""
        return cls(node, outcome, ({"type": "text", "text": why},))

    def as_json(self) -> Json:
        """The row in `structuredContent`."""
        row: Json = {"node": self.node, "outcome": self.outcome, "content": list(self.content)}
        return row if self.structured is None else {**row, "structuredContent": self.structured}


def merged(rows: Sequence[Row]) -> Json:
    """One result of all rows, which are in the order of their nodes' names."""
    content: list[Any] = []
    for nodes, row in _said_once(rows):
        words = "" if row.outcome == OK else f": {row.outcome.replace('_', ' ')}"
        content.append({"type": "text", "text": f"## {', '.join(nodes)}{words}"})
        content += row.content
    return {
        "content": content,
        "structuredContent": {"results": [row.as_json() for row in rows]},
        "isError": not any(row.outcome == OK for row in rows),
    }


def _said_once(rows: Iterable[Row]) -> list[tuple[list[str], Row]]:
    """Rows of the same content as one, with the names of their nodes, in the order of the first of them."""
    same: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        same[orjson.dumps([row.outcome, row.content, row.structured])].append(row)
    return [([row.node for row in group], group[0]) for group in same.values()]
