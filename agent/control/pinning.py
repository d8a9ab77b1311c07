"""Keeps definitions to what they were when they were first seen or approved: warns of changes, or blocks them.

Used by the mesh for its own servers and plain peers: other nodes pin what their servers list, and prove who they are.
The one rule: what is blocked is blocked before any route table has it, and only an operator's word lifts that.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from agent.errors import OverrideRefused
from agent.model import Json, Offer
from agent.pins.book import FIRST_SIGHT, Key, Pin
from agent.pins.definition import difference, digest
from agent.pins.look import REPORTS_MAX, Look, Report, is_large, look
from agent.routing.table import Contribution, ContributionKind, RouteKind
from agent.state.durable_file import to_its_end
from agent.state.pins import SavedPins

log = logging.getLogger(__name__)

# First sights come in bursts; what a crash loses is seen for the first time again.
WRITE_PAUSE_S: Final = 5.0
# Pins that the system refused to read are read again this often.
READ_AGAIN_S: Final = 10.0
_LOGGED_LINES_MAX: Final = 12

Blocked = Mapping[tuple[RouteKind, str], str]
_NOTHING: Final[Blocked] = MappingProxyType({})
_PINNED_KINDS: Final = (ContributionKind.SERVER, ContributionKind.PLAIN_PEER)


class PinMode(StrEnum):
    """What a change of a pinned definition leads to: nothing is pinned, it is said, or its tool is left out."""

    OFF = "off"
    WARN = "warn"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Change:
    """A definition that is not the pinned one. `content`: the present one; `since`: when it was seen first."""

    content: bytes
    since: str


@dataclass(frozen=True, slots=True)
class _Judged:
    """The last offer of a backend that was looked at, and what came of it."""

    offer: Offer
    changes: Mapping[Key, Change]
    unpinned: Mapping[Key, str]
    suspected: Mapping[Key, tuple[str, ...]]


class Pinning:
    """See the module. Sole writer: the event loop, through the methods; `keep` alone writes first sights to the disk.

    `saved`: their file. `note` records an act of the node itself in the audit.
    """

    def __init__(self, folder: Path, mode: PinMode, note: Callable[..., None] = lambda *_args, **_more: None) -> None:
        """Reads the pins of the state folder. Raises `ConfigRefused`."""
        self.mode = mode
        self._note = note
        self.saved = SavedPins(folder, strict=mode is PinMode.BLOCK)
        self._pins = {} if mode is PinMode.OFF else self.saved.load() or {}
        self._judged: dict[str, _Judged] = {}
        self._dirty = asyncio.Event()
        self._disk = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Pinning {self.mode} pins={len(self._pins)} changes={self.changed_count}>"

    # For the mesh

    def concerns(self, part: Contribution) -> bool:
        """Whether its definitions are pinned at all: those of other nodes are not."""
        return part.kind in _PINNED_KINDS and self.mode is not PinMode.OFF

    async def look_at_large(self, contributions: Iterable[Contribution]) -> None:
        """Look at new large offers in threads, so that `blocked` need not."""
        for part in filter(self.concerns, contributions):
            if self.waits(part):
                known = self._known(part)
                found = await asyncio.to_thread(look, dict(self._pins), known, _source(part), part.offer)
                self._take(part, found)

    def waits(self, part: Contribution) -> bool:
        """Whether this contribution has come since `look_at_large`, and is too large to be looked at meanwhile."""
        return self._is_new(part) and is_large(part.offer)

    def blocked(self, part: Contribution) -> Blocked:
        """What to leave out of this contribution, and why."""
        if self._is_new(part):
            self._take(part, look(self._pins, self._known(part), _source(part), part.offer))
        judged = self._judged.get(part.backend_key)
        if judged is None or self.mode is not PinMode.BLOCK:
            return _NOTHING
        why = {key: f"it is not as it was pinned; see: mesh-agent pins diff {key.source}" for key in judged.changes}
        why |= {key: f"it cannot be pinned: {reason}" for key, reason in judged.unpinned.items()}
        return MappingProxyType({(key.kind, key.name): reason for key, reason in why.items()})

    def forget(self, backend_key: str) -> None:
        """The backend is not wanted any more; its pins stay."""
        self._judged.pop(backend_key, None)

    # For operators

    @property
    def changed_count(self) -> int:
        """How many definitions are not the pinned ones."""
        return sum(len(judged.changes) for judged in self._judged.values())

    @property
    def suspected_count(self) -> int:
        """How many definitions look as if they were to steer a model."""
        return sum(len(judged.suspected) for judged in self._judged.values())

    async def pins(self) -> list[Json]:
        """Every pin."""
        pins = dict(self._pins)
        return await asyncio.to_thread(
            lambda: [
                _named(key) | {"digest": pin.digest, "since": pin.since, "by": pin.by}
                for key, pin in sorted(pins.items())
            ]
        )

    def changed(self) -> list[Json]:
        """Every definition that is not the pinned one, without the difference, which takes longer to find."""
        return [self._shown(key, change) for key, change in self._wanted(None, None)]

    async def changes(self, source: str | None = None, name: str | None = None) -> list[Json]:
        """Every definition that is not the pinned one, with the difference; of one server, or of one name there."""
        wanted = [
            (key, change, pin) for key, change in self._wanted(source, name) if (pin := self._pins.get(key)) is not None
        ]
        return await asyncio.to_thread(
            lambda: [
                self._shown(key, change)
                | {
                    "digest": digest(change.content),
                    "pinned": {"digest": pin.digest, "since": pin.since, "by": pin.by},
                    "difference": difference(pin.content, change.content),
                }
                for key, change, pin in wanted
            ]
        )

    def suspected(self) -> list[Json]:
        """Every definition that looks as if it were to steer a model, and why."""
        found = [pair for judged in self._judged.values() for pair in judged.suspected.items()]
        return [_named(key) | {"why": list(why)} for key, why in sorted(found)]

    async def approve(
        self, source: str, name: str | None, by: str, record: Callable[[Json], Awaitable[None]]
    ) -> list[Json]:
        """Pin what a server lists now in the place of what was pinned; of one name there, or of all that changed.

        `record` is awaited for each before the caller has the answer. Raises `OverrideRefused`: 404 for nothing to
        approve, 507 where the disk refuses.
        """
        wanted = self._wanted(source, name)
        if not wanted:
            what = f"{source!r}" if name is None else f"{name!r} of {source!r}"
            raise OverrideRefused(404, "nothing_changed", f"No pinned definition of {what} has changed")
        approved = {key: Pin(change.content, _now(), by) for key, change in wanted}
        async with self._disk:
            save = partial(self.saved.save, {**self._pins, **approved})
            try:
                await to_its_end(save, partial(self._pins.update, approved))
            except OSError as exc:
                reason = exc.strerror or str(exc)
                raise OverrideRefused(507, "not_saved", f"The pins could not be saved: {reason}") from exc
        for backend, judged in self._judged.items():
            left = {
                key: one
                for key, one in judged.changes.items()
                if key not in approved or one.content != approved[key].content
            }
            self._judged[backend] = replace(judged, changes=left)
        done = [_named(key) | {"digest": pin.digest} for key, pin in approved.items()]
        for one in done:
            await record(one)
        return done

    async def keep(self, look_again: Callable[[], object]) -> None:
        """Write what was seen first, at most once in `WRITE_PAUSE_S`, and at the end, when this is cancelled.

        First, read what the system refused at the start: that counts more, so `look_again` has all offers looked at.
        """
        try:
            while self.saved.refusal:
                await asyncio.sleep(READ_AGAIN_S)
                async with self._disk:
                    found = await asyncio.to_thread(self.saved.load)
                    if found is not None:
                        self.saved.take(found, self._pins)
                        self._judged.clear()
                        look_again()
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                async with self._disk:
                    await to_its_end(partial(self.saved.try_to_save, dict(self._pins)))
                await asyncio.sleep(WRITE_PAUSE_S)
        finally:
            if self._dirty.is_set():
                with contextlib.suppress(OSError):
                    self.saved.save(self._pins)

    # Inside

    def _is_new(self, part: Contribution) -> bool:
        judged = self._judged.get(part.backend_key)
        return self.concerns(part) and (judged is None or judged.offer != part.offer)

    def _known(self, part: Contribution) -> dict[Key, bytes]:
        before = self._judged.get(part.backend_key)
        return {} if before is None else {key: change.content for key, change in before.changes.items()}

    def _take(self, part: Contribution, found: Look) -> None:
        now, source, before = _now(), _source(part), self._judged.get(part.backend_key)
        known, judgement = {} if before is None else before.changes, found.judgement
        for key, content in judgement.new.items():
            self._pins.setdefault(key, Pin(content, now, FIRST_SIGHT))
        if judgement.new:
            self._dirty.set()
            log.info(
                "MCP definitions pinned at first sight", extra={"server": source, "definitions": len(judgement.new)}
            )
        changes, fresh = dict[Key, Change](), 0
        for key, content in (*judgement.new.items(), *judgement.changed.items()):
            if self._pins[key].content == content:
                continue  # Pinned just now, or approved while the offer was looked at.
            old = known.get(key)
            if old is None or old.content != content:
                old, fresh = Change(content, now), fresh + 1
            changes[key] = old
        _report_changes(source, found.reports, fresh, self.mode is PinMode.BLOCK, self._note)
        for key in sorted(known.keys() - changes.keys())[:REPORTS_MAX]:
            log.info("MCP definition is as it was pinned again", extra={"server": source, "entry": key.name})
        _report_suspected(source, found.suspected, {} if before is None else before.suspected)
        self._judged[part.backend_key] = _Judged(part.offer, changes, judgement.unpinned, found.suspected)

    def _shown(self, key: Key, change: Change) -> Json:
        return _named(key) | {"blocked": self.mode is PinMode.BLOCK, "since": change.since}

    def _wanted(self, source: str | None, name: str | None) -> list[tuple[Key, Change]]:
        found = [pair for judged in self._judged.values() for pair in judged.changes.items()]
        return sorted(
            (pair for pair in found if source in (None, pair[0].source) and name in (None, pair[0].name)),
            key=lambda pair: pair[0],
        )


def _report_changes(
    source: str, reports: Mapping[Key, Report], count: int, blocked: bool, note: Callable[..., None]
) -> None:
    """Log and record the first of `count` changes, and how many more there are."""
    for key, one in reports.items():
        known = {"server": source, "kind": key.kind.value, "entry": key.name, "blocked": blocked}
        lines = "\n".join(one.lines[:_LOGGED_LINES_MAX])
        log.warning("MCP definition is not the pinned one", extra={**known, "difference": lines})
        note("definition.changed", "node", **known, digest=one.digest)
    if count > len(reports):
        rest = {"server": source, "definitions": count - len(reports), "blocked": blocked}
        log.warning("more MCP definitions are not the pinned ones", extra=rest)
        note("definition.changed", "node", **rest)


def _report_suspected(source: str, found: Mapping[Key, tuple[str, ...]], known: Mapping[Key, tuple[str, ...]]) -> None:
    fresh = [(key, why) for key, why in found.items() if known.get(key) != why]
    for key, why in fresh[:REPORTS_MAX]:
        extra = {"server": source, "kind": key.kind.value, "entry": key.name, "reason": "; ".join(why)}
        log.warning("MCP definition looks as if it were to steer a model", extra=extra)
    if len(fresh) > REPORTS_MAX:
        extra = {"server": source, "definitions": str(len(fresh) - REPORTS_MAX)}
        log.warning("more MCP definitions look as if they were to steer a model", extra=extra)


def _source(part: Contribution) -> str:
    """A server or peer by its name, by which operators know it; both have one namespace."""
    return part.label


def _named(key: Key) -> Json:
    return {"server": key.source, "kind": key.kind.value, "name": key.name}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
