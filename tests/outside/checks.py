"""What a check of a row found: what must be, what is directly and through a node, and whether that is right.

The one rule: texts in here are short and name no folder and no port of one run, so that two runs compare.
"""

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.conformance.node_tools import HERE as CONFORMANCE
from tests.outside.installing import cache

ROOT = CONFORMANCE.parents[1]
TEXT_CHARS = 220


@dataclass(frozen=True)
class Check:
    """One behaviour of one row."""

    must: str
    direct: str
    node: str
    right: bool

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def short(text: object) -> str:
    """One line without the places of this run."""
    line = " ".join(str(text).split())
    for place, word in ((str(cache()), "<cache>"), (str(ROOT), "<repository>"), (tempfile.gettempdir(), "<temporary>")):
        line = line.replace(place, word)
    line = re.sub(r"\b(127\.0\.0\.1|localhost):\d+", r"\1:<port>", line)
    line = re.sub(r"<temporary>/[\w.-]+", "<temporary>", line)
    line = re.sub(re.escape(str(Path.home())) + r"\b", "<home>", line)
    return line if len(line) <= TEXT_CHARS else line[: TEXT_CHARS - 3] + "..."
