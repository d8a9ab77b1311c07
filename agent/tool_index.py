"""Finds tools by words: a full-text index over what tools are called and say, ranked by BM25.

Built by the tool search for one list of tools and thrown away with it. SQLite's FTS5 does the work, in memory: it
stems, ranks and comes with Python. The one rule: whatever a user types is words to look for, never query syntax.
"""

import re
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Final

from agent.model import ORIGIN_META_KEY, Json

# Only the first words of a query count; a pasted document is not a query.
WORDS_MAX: Final = 32
# What one tool may contribute; a description is text for a model, a book is not.
TEXT_CHARS_MAX: Final = 8_000
# A word in the name says more than one in the description, and that more than one in a parameter.
_WEIGHTS: Final = "8.0, 4.0, 2.0, 1.0"
_WORD: Final = re.compile(r"\w+")
# `getForecast` and `HTTPServer` are two words each; underscores and dashes part words anyway.
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class ToolIndex:
    """An index over tools as they are listed. Threads take turns."""

    def __init__(self, tools: Iterable[Json]) -> None:
        self._turn = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        # A list that goes with its node closes nothing by itself, which Python 3.13 warns of.
        weakref.finalize(self, self._database.close)
        self._database.execute(
            "CREATE VIRTUAL TABLE tools USING fts5"
            " (name, title, description, parameters, listed UNINDEXED,"
            " tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        self._database.executemany("INSERT INTO tools VALUES (?, ?, ?, ?, ?)", (_row(tool) for tool in tools))

    def close(self) -> None:
        """Give the memory back, as soon as nobody searches."""
        with self._turn:
            self._database.close()

    def search(self, query: str, limit: int) -> list[str]:
        """Names of the tools that have any of the query's words, best first; every tool by name for an empty query."""
        words = _words(query)
        if not words:
            return self._found("SELECT listed FROM tools ORDER BY listed LIMIT ?", limit)
        # Quoted, so that AND, NEAR, * and the like are words too; the last one may be the beginning of one.
        match = " OR ".join(f'"{word}"' for word in words) + f' OR "{words[-1]}" *'
        return self._found(
            f"SELECT listed FROM tools WHERE tools MATCH ? ORDER BY bm25(tools, {_WEIGHTS}), listed LIMIT ?",  # noqa: S608 - the weights are ours
            match,
            limit,
        )

    def _found(self, select: str, *values: object) -> list[str]:
        with self._turn:
            return [name for (name,) in self._database.execute(select, values)]


def _row(tool: Json) -> tuple[str, str, str, str, str]:
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    parameters: list[str] = []
    if isinstance(properties, dict):
        for name, described in properties.items():
            parameters.append(_parted(name))
            if isinstance(described, dict):
                parameters.append(_text(described.get("description")))
    name = _text(tool.get("name"))
    # A public name may be cut, or lack what is no Latin letter; its server's own word has all of it.
    own = _text(_origin(tool).get("tool"))
    known_as = name if own in name else f"{name} {own}"
    texts = _parted(known_as), _text(tool.get("title")), _text(tool.get("description")), " ".join(parameters)
    return *(text[:TEXT_CHARS_MAX] for text in texts), name  # type: ignore[return-value]  # four texts and the name


def _origin(tool: Json) -> Json:
    meta = tool.get("_meta")
    origin = meta.get(ORIGIN_META_KEY) if isinstance(meta, dict) else None
    return origin if isinstance(origin, dict) else {}


def _words(query: str) -> Sequence[str]:
    return _WORD.findall(_parted(query).replace("_", " "))[:WORDS_MAX]


def _parted(text: str) -> str:
    return _CAMEL.sub(" ", text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
