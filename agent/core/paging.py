"""Cuts a list into pages, and writes and reads the cursors between them.

Called by the endpoint's snapshots (`agent.api.snapshots`). The one rule: a cursor says which list it belongs to, by
what is in the list, so the same cursor means the same page on every node that lists the same, and after a restart.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from agent.core.raw_schemas import write_definition
from agent.core.route_table import Route
from agent.model import Json

# Many clients never ask for a second page, so one is as large as all of them can take; a model sees far fewer tools.
PAGE_ENTRIES_MAX: Final = 1_000
# The reference client takes no event of more than 1 MiB, and a page may be one; this leaves room for its envelope.
PAGE_BYTES_MAX: Final = 1_000_000

# 64 bits tell the lists of one endpoint apart. A cursor opens nothing that is not listed anyway.
_DIGEST_LEN: Final = 16
# Nine digits: more entries than memory holds, and nothing that is slow to read as a number.
_CURSOR: Final = re.compile(rf"([0-9a-f]{{{_DIGEST_LEN}}})\.([0-9]{{1,9}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PageLimits:
    """How much one page may hold: entries, and bytes of their JSON. A larger single entry is a page of its own."""

    entries_max: int = PAGE_ENTRIES_MAX
    bytes_max: int = PAGE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Page:
    """The entries from one index up to `end` (not included) as a JSON array."""

    array: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: the digest of the list, and the index of the page's first entry."""

    digest: str
    start: int

    def __str__(self) -> str:
        """What the client gets and sends back."""
        return f"{self.digest}.{self.start}"


def read_cursor(text: object) -> Cursor:
    """A cursor as a client sent it. Raises ValueError for what was never one."""
    found = _CURSOR.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("not a cursor")
    return Cursor(found[1], int(found[2]))


def cut_page(entries: Sequence[Json], start: int, limits: PageLimits) -> Page:
    """The page that begins at `start`: as many entries as fit, and at least one where there is one."""
    parts: list[bytes] = []
    size = 0
    for index in range(start, min(start + limits.entries_max, len(entries))):
        part = write_definition(entries[index])
        size += len(part) + 1
        if parts and size > limits.bytes_max:
            break
        parts.append(part)
    return Page(b"[" + b",".join(parts) + b"]", start + len(parts))


def list_digest(label: str, own: Sequence[Json], routes: Sequence[Route]) -> str:
    """Digest a list: `label` (what kind of list), our own entries, then the routes' names and definitions."""
    total = hashlib.sha256(orjson.dumps([label, own]))
    total.update("\n".join(f"{route.public_name} {route.digest} {route.owner}" for route in routes).encode())
    return total.hexdigest()[:_DIGEST_LEN]
