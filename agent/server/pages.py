"""The lists that clients may be paging through: the present one as bytes, and for a while those before it.

Kept by `agent.server.lists`, one `Snapshots` for each list method and mode. The one rule: all pages that a client
gets by following cursors come from one snapshot, whatever joins or leaves meanwhile.
"""

import hashlib
import operator
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import orjson

from agent.lossless_json.raw import write_definition
from agent.model import Json
from agent.routing.claims import ENTRY_BYTES_MAX
from agent.routing.table import Route

# Many clients never ask for a second page, so the bytes alone end one: this is what one backend may list.
PAGE_ENTRIES_MAX: Final = 10_000
# What is larger than that by itself is not shown (`agent.routing.claims`), so a first page ends before no such entry.
PAGE_BYTES_MAX: Final = ENTRY_BYTES_MAX

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
    """Digest a list: `label` (its kind and its view), our own entries, then the routes' names and definitions."""
    total = hashlib.sha256(orjson.dumps([label, own]))
    total.update("\n".join(f"{route.public_name} {route.digest} {route.owner}" for route in routes).encode())
    return total.hexdigest()[:_DIGEST_LEN]


# How long a list outlives its replacement. A client asks for its next page within seconds; one that is stepped by hand
# may take a minute, and starts anew if it takes longer.
KEPT_S: Final = 120.0
# A mesh may change many times in that time. What is kept of an old list is one reference for each entry.
KEPT_MAX: Final = 16

# The words around the entries. 2026-07-28 demands all three; earlier clients know none of them. A list may change at
# any moment, and only clients that listen hear of it: the SDK's client caches by `ttlMs` unless a notification comes,
# so a positive value would hide the change from all others for that long, and page one would outlive its cursors.
_MODERN_HEAD: Final = b'{"resultType":"complete","ttlMs":0,"cacheScope":"private",'
_LEGACY_HEAD: Final = b"{"


class Snapshot:
    """One list as it was at one moment. Pages are cut and written when first asked for."""

    def __init__(
        self, key: str, own: Sequence[Json], routes: Sequence[Route], limits: PageLimits, view: str = ""
    ) -> None:
        """`key`: the member of the result that holds the entries. `view`: the part of the mesh that it is of."""
        self._key = key
        self._label = f"{key} {view}" if view else key
        self._own = own
        self._routes = routes
        self._limits = limits
        self._entries = [*own, *(route.definition for route in routes)]
        self._starts = [0]  # Where pages begin, as far as they were cut, in order.
        self._pages: dict[tuple[int, bool], bytes] = {}
        self._keeps_bytes = True

    def __repr__(self) -> str:
        """How much is listed and how much of it is held as bytes."""
        return f"<Snapshot {self._key} of {len(self._entries)}, {len(self._pages)} pages written>"

    @cached_property
    def digest(self) -> str:
        """Names the snapshot in cursors."""
        return list_digest(self._label, self._own, self._routes)

    @property
    def has_cursors(self) -> bool:
        """Whether a client may hold a cursor into it."""
        return len(self._starts) > 1 and self._starts[1] < len(self._entries)

    def lists(self, routes: Sequence[Route]) -> bool:
        """Whether these routes are listed by the very same definitions, which are never changed in place."""
        mine, theirs = self._routes, routes
        return len(mine) == len(theirs) and all(
            map(operator.is_, (route.definition for route in mine), (route.definition for route in theirs))
        )

    def page(self, start: int, *, modern: bool) -> bytes:
        """The whole result with the page that begins at entry `start`. Raises ValueError: no page begins there."""
        known = self._pages.get((start, modern))
        if known is not None:
            return known
        # Only our own cuts: any start would let a client fill the memory with pages of its own making.
        while self._starts[-1] < min(start, len(self._entries)):
            self._cut(self._starts[-1])
        if start not in self._starts or (start and start == len(self._entries)):
            raise ValueError("no page begins there")
        array, end = self._cut(start)
        result = b"".join(
            (
                _MODERN_HEAD if modern else _LEGACY_HEAD,
                b'"' + self._key.encode() + b'":',
                array,
                b"}" if end == len(self._entries) else b',"nextCursor":%b}' % self._cursor(end),
            )
        )
        if self._keeps_bytes:
            self._pages[start, modern] = result
        return result

    def retire(self) -> None:
        """Hold only what pages are cut from: from now on each request has its page written anew."""
        assert self.digest  # Remembered, as the routes are let go.
        self._routes = ()
        self._keeps_bytes = False
        self._pages.clear()

    def _cut(self, start: int) -> tuple[bytes, int]:
        page = cut_page(self._entries, start, self._limits)
        if start == self._starts[-1] < page.end:
            self._starts.append(page.end)
        return page.array, page.end

    def _cursor(self, start: int) -> bytes:
        return orjson.dumps(str(Cursor(self.digest, start)))


class Snapshots:
    """The snapshots of one list. Sole writer: the list index that owns it."""

    def __init__(self, key: str, own: Sequence[Json], limits: PageLimits, view: str = "") -> None:
        self._key = key
        self._view = view
        self._own = own
        self._limits = limits
        self._present = Snapshot(key, own, (), limits, view)
        self._past: deque[tuple[float, Snapshot]] = deque(maxlen=KEPT_MAX)  # (when it was replaced, it); oldest first

    def __repr__(self) -> str:
        """What is listed now and how many older lists are held."""
        return f"<Snapshots {self._present!r}, {len(self._past)} kept>"

    def renew(self, routes: Sequence[Route], now_s: float) -> None:
        """Take over what is listed now. A table that lists the same changes nothing, not even the bytes."""
        if self._present.lists(routes):
            return
        if self._present.has_cursors:
            self._present.retire()
            self._past.append((now_s, self._present))
        self._present = Snapshot(self._key, self._own, routes, self._limits, self._view)

    def first_page(self, *, modern: bool) -> bytes:
        """The beginning of the present list."""
        return self._present.page(0, modern=modern)

    def page(self, cursor: Cursor, now_s: float, *, modern: bool) -> bytes:
        """The page that a cursor names.

        Raises:
            LookupError: its list is gone.
            ValueError: no page begins there.
        """
        while self._past and self._past[0][0] + KEPT_S < now_s:
            self._past.popleft()
        # The present one first: a list that came back is the same list.
        for snapshot in (self._present, *(past for _, past in reversed(self._past))):
            if snapshot.digest == cursor.digest:
                return snapshot.page(cursor.start, modern=modern)
        raise LookupError(cursor.digest)
