"""The living picture of the mesh: one look for all who watch, and for each watcher what has changed since.

Run by the node for its whole life, so that events are there when the first browser comes. The one rule: a look costs
what has changed, and a slow reader gets fewer and larger changes, never a queue.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Final, Protocol

import orjson

from agent import clock
from agent.authority.caller import caller
from agent.call_history import BUCKET_S, Bucket, CallHistory
from agent.dispatch.replicas import GroupView
from agent.model import Json, LinkView
from agent.page.rows import group_row, link_events, link_row, note_events

LOOK_EVERY_S: Final = 0.5
UNWATCHED_EVERY_S: Final = 1.0
NOTES_EVERY: Final = 10  # Looks, while there is no watcher: they are made of whole tables.
EVENTS_MAX: Final = 200
EVENTS_AT_ONCE_MAX: Final = 50
GONE_MAX: Final = 1_000
WATCHERS_MAX: Final = 32
# Of one named token, so that it does not shut out the others.
WATCHERS_EACH_MAX: Final = 24


@dataclass(frozen=True)
class Sources:
    """Where the feed looks. `servers_behind` returns names by a peer's backend key; `whole` what is no link's."""

    views: Callable[[], Sequence[LinkView]]
    servers_behind: Callable[[], dict[str, list[str]]]
    node: Callable[[], Json]
    notes: Callable[[], Json]
    history: CallHistory
    groups: Callable[[], list[GroupView]] = list
    in_flight: Callable[[], dict[str, int]] = dict


class Stream(Protocol):
    """Where a reader's changes are written (`agent.server.response.EventStream`)."""

    def nudge(self) -> None:
        """Something is due."""
        ...

    def end(self) -> None:
        """Nothing more will be."""
        ...


@dataclass(eq=False)
class Watcher:
    """One reader. `version`: of the last look that it has; `binding`: of the token that it came with.

    `stream` is set by the reader once it has one.
    """

    binding: str
    stream: Stream | None = None
    version: int = -1
    last_event: int = 0
    last_bucket_at_s: float = 0.0
    ended: bool = False


@dataclass
class _Standing:
    """What the last look saw."""

    version: int = 0
    row_versions: dict[str, int] = field(default_factory=dict)
    gone: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=GONE_MAX))
    node: Json = field(default_factory=dict)
    node_version: int = 0
    notes: Json = field(default_factory=dict)
    notes_version: int = 0
    groups: tuple[GroupView, ...] = ()
    groups_version: int = 0
    rates: dict[str, list[float]] = field(default_factory=dict)


class MeshFeed:
    """See the module. `now_s`: seconds since the epoch."""

    def __init__(self, sources: Sources, now_s: Callable[[], float] = time.time) -> None:
        self._sources, self._now_s = sources, now_s
        self._seen: dict[str, tuple[LinkView, list[str]]] = {}
        self._behind: dict[str, list[str]] = {}
        self._views: Sequence[LinkView] = ()
        self._standing = _Standing()
        self._events: deque[tuple[int, float, str]] = deque(maxlen=EVENTS_MAX)
        self._event_number = 0
        self._changed_version = 0
        self._closed = False
        self._watchers: set[Watcher] = set()
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<MeshFeed version {self._standing.version}, {len(self._watchers)} watchers>"

    # For the wiring

    async def run(self) -> None:
        """Look until cancelled."""
        bucket_ends_s = clock.now_s() + BUCKET_S
        looked_at_s = clock.now_s()
        while True:
            now_s = clock.now_s()
            if now_s >= bucket_ends_s:
                self._sources.history.roll(self._now_s())
                bucket_ends_s = max(bucket_ends_s + BUCKET_S, now_s)
            self.look(now_s - looked_at_s)
            looked_at_s = now_s
            await self._pause()

    async def _pause(self) -> None:
        self._wake.clear()
        if self._watchers:
            await asyncio.sleep(LOOK_EVERY_S)
            return
        try:
            async with asyncio.timeout(UNWATCHED_EVERY_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    def end_of_revoked(self, bindings: Container[str]) -> None:
        """End the streams of tokens that are valid no more."""
        for watcher in self._watchers:
            if watcher.binding and watcher.binding not in bindings:
                _end(watcher)

    def close(self) -> None:
        """End every stream and begin none; the node stops."""
        self._closed = True
        for watcher in self._watchers:
            _end(watcher)

    # Looking

    def look(self, took_s: float) -> None:
        """Take what has changed since the last look, `took_s` seconds ago."""
        standing, sources = self._standing, self._sources
        version = standing.version + 1
        changed = self._look_at_links(version)
        rates = self._rates(took_s)
        changed = changed or bool(rates) or bool(standing.rates)
        standing.rates = rates
        if self._watchers:
            node = sources.node()
            if node != standing.node:
                standing.node, standing.node_version, changed = node, version, True
            if (groups := tuple(sources.groups())) != standing.groups:
                standing.groups, standing.groups_version, changed = groups, version, True
        if self._watchers or version % NOTES_EVERY == 1:
            notes = sources.notes()
            if notes != standing.notes:
                self._tell(note_events(standing.notes, notes))
                standing.notes, standing.notes_version, changed = notes, version, True
        standing.version = version
        buckets = sources.history.buckets
        newest = buckets[-1].at_s if buckets else 0.0
        if changed or any(watcher.last_bucket_at_s < newest for watcher in self._watchers):
            self._changed_version = version
            for watcher in self._watchers:
                if watcher.stream is not None:
                    watcher.stream.nudge()

    def _rates(self, took_s: float) -> dict[str, list[float]]:
        """By link: calls and failed calls a second, milliseconds a call, calls under way.

        Taken at each look, watched or not: a rate is of the time since the look before.
        """
        tallies = self._sources.history.take_tallies()
        rates: dict[str, list[float]] = {
            key: [round(t.calls / took_s, 1), round(t.errors / took_s, 2), round(t.seconds / t.calls * 1000, 1), 0]
            for key, t in tallies.items()
            if took_s > 0
        }
        if self._watchers:
            for key, count in self._sources.in_flight().items():
                rates.setdefault(key, [0.0, 0.0, 0.0, 0])[3] = count
        return rates

    def _look_at_links(self, version: int) -> bool:
        standing, changed = self._standing, False
        behind, seen_now = self._sources.servers_behind(), self._sources.views()
        # As nearly always; a view is made anew when it changes. The rest of the look takes as long as all probes do.
        if behind is self._behind and len(seen_now) == len(self._views) and all(map(is_, seen_now, self._views)):
            return False
        self._behind, self._views = behind, seen_now
        epoch_s = self._now_s() - clock.now_s()
        views = {view.key: view for view in seen_now}
        for key, view in views.items():
            servers = behind.get(key, [])
            seen = self._seen.get(key)
            if seen is not None and seen[0] is view and seen[1] == servers:
                continue
            self._seen[key] = (view, servers)
            before = None if seen is None else link_row(*seen, epoch_s)
            row = link_row(view, servers, epoch_s)
            if row != before:
                self._tell(link_events(before, row))
                standing.row_versions[key], changed = version, True
        for key in self._seen.keys() - views.keys():
            self._tell(link_events(link_row(*self._seen.pop(key), epoch_s), None))
            del standing.row_versions[key]
            standing.gone.append((version, key))
            changed = True
        return changed

    def _groups(self) -> list[Json]:
        epoch_s = self._now_s() - clock.now_s()
        rows = {key: link_row(*seen, epoch_s) for key, seen in self._seen.items()}
        return [group_row(group, rows, epoch_s) for group in self._sources.groups()]

    def _tell(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self._event_number += 1
            self._events.append((self._event_number, round(self._now_s(), 1), sentence))

    # For the stream

    def watch(self) -> Watcher | None:
        """One more reader, in the name of this request's caller; None where there are too many, or the node stops."""
        binding = caller().grant.binding
        if self._closed or len(self._watchers) >= WATCHERS_MAX:
            return None
        if binding and sum(one.binding == binding for one in self._watchers) >= WATCHERS_EACH_MAX:
            return None
        watcher = Watcher(binding)
        self._watchers.add(watcher)
        self._wake.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """It reads no more."""
        self._watchers.discard(watcher)

    def news(self, watcher: Watcher) -> list[bytes]:
        """What a reader has not seen yet as one event, or none."""
        return [orjson.dumps(self.since(watcher))] if watcher.version < self._changed_version else []

    def since(self, watcher: Watcher) -> Json:
        """What a reader has not seen yet; empty for nothing. From a first look on, all there is."""
        standing = self._standing
        is_first = watcher.version < 0 or _has_missed(standing.gone, watcher.version)
        seen = -1 if is_first else watcher.version
        told: Json = {"rates": standing.rates}
        epoch_s = self._now_s() - clock.now_s()
        if changed := [key for key, version in standing.row_versions.items() if version > seen]:
            told["links"] = [link_row(*self._seen[key], epoch_s) for key in changed]
        if is_first:
            told["first"] = True
        elif gone := [key for version, key in standing.gone if version > seen]:
            told["gone"] = gone
        if standing.node_version > seen:
            told["node"] = standing.node or self._sources.node()
        if standing.notes_version > seen:
            told["notes"] = standing.notes
        if standing.groups_version > seen:
            told["groups"] = self._groups()
        if events := [one for one in self._events if one[0] > watcher.last_event][-EVENTS_AT_ONCE_MAX:]:
            told["events"] = [{"at": at, "text": text} for _, at, text in events]
        if buckets := [b for b in self._sources.history.buckets if b.at_s > watcher.last_bucket_at_s]:
            told["history"] = [_shown(bucket) for bucket in buckets]
            watcher.last_bucket_at_s = buckets[-1].at_s
        watcher.version, watcher.last_event = standing.version, self._event_number
        return told


def _end(watcher: Watcher) -> None:
    watcher.ended = True
    if watcher.stream is not None:
        watcher.stream.end()


def _has_missed(gone: "deque[tuple[int, str]]", version: int) -> bool:
    """Whether a reader of that version may have missed one that is gone: the list has given up older ones."""
    return len(gone) == GONE_MAX and gone[0][0] > version


def _shown(bucket: Bucket) -> list[Any]:
    return [round(bucket.at_s, 1), bucket.calls, bucket.errors, bucket.p50_ms, bucket.p99_ms]
