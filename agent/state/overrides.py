"""Operators' overrides of peers, kept on disk: added peers, and discovered ones that were removed.

Opened by the wiring in the node's state folder (locked by `agent.state.identity`), written through the mesh alone, read
everywhere as frozen tuples. The one rule: when `put`, `remove` or `suppress` returns, the change is on
the disk; when it raises or the node dies, the old state or the new one is, whole.

A file that cannot be read is refused and left as it is. Starting without it would dial peers again that an operator
removed, and the next write would destroy the only copy; refusing loses nothing, and a crash of ours cannot cause it.
"""

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import orjson

from agent.errors import ConfigRefused, OverrideRefused
from agent.model import HttpTarget, Json, Override, PeerScope, Suppression
from agent.peer_kind import PeerKind
from agent.state.durable_file import FILE_MODE, make_private_folder, to_its_end, write_durably
from agent.state.saved_shape import Misshapen, list_of, object_of, one_of, optional_text, pair_of_texts, text
from discovery.ordinary_file import open_saved

FILE_NAME = "overrides.json"
SCHEMA = 1
ENTRIES_MAX = 1000  # Of each kind. A mesh of that size is discovered, not typed.
FILE_BYTES_MAX = 32 * 1024 * 1024  # ENTRIES_MAX entries with the longest URLs, tokens and some headers.


_SAVED_OVERRIDE = object_of(
    {
        "name": text,
        "url": text,
        "scope": one_of("local", "mesh"),
        "token": optional_text,
        "headers": list_of(pair_of_texts),
        "kind": one_of(*map(str, PeerKind)),
    },
    optional=frozenset({"token", "headers", "kind"}),
)
_SAVED_SUPPRESSION = object_of(
    {"name": text, "node_id": optional_text, "service_id": optional_text, "url": optional_text},
    optional=frozenset({"node_id", "service_id", "url"}),
)
_SAVED = object_of(
    {"schema": one_of(SCHEMA), "overrides": list_of(_SAVED_OVERRIDE), "suppressions": list_of(_SAVED_SUPPRESSION)}
)


@dataclass(frozen=True, slots=True)
class _Kept:
    overrides: tuple[Override, ...] = ()
    suppressions: tuple[Suppression, ...] = ()


class OverrideStore:
    """The overrides. One writer at a time goes through `_lock`; `overrides` and `suppressions` are snapshots."""

    def __init__(self, path: Path, kept: _Kept) -> None:
        self._path = path
        self._kept = kept
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<OverrideStore overrides={len(self.overrides)} suppressions={len(self.suppressions)}>"

    @classmethod
    def open(cls, folder: Path) -> "OverrideStore":
        """Read the file of the folder, which is made when it is missing. Raises ConfigRefused."""
        if not folder.exists():  # One that an operator has made keeps its mode.
            make_private_folder(folder)
        path = folder / FILE_NAME
        return cls(path, _read(path))

    @property
    def overrides(self) -> tuple[Override, ...]:
        """Added peers, by name."""
        return self._kept.overrides

    @property
    def suppressions(self) -> tuple[Suppression, ...]:
        """Removed discovered peers, in the order of their removal."""
        return self._kept.suppressions

    async def put(self, override: Override) -> None:
        """Keep an added peer, in place of the one of that name; lifts the suppressions of that name as well.

        Raises OverrideRefused (409 at the limit, 507 when the disk refuses).
        """
        async with self._lock:
            others = [known for known in self._kept.overrides if known.name != override.name]
            if len(others) >= ENTRIES_MAX:
                raise OverrideRefused(409, "too_many_overrides", f"At most {ENTRIES_MAX} peers can be added")
            overrides = tuple(sorted([*others, override], key=lambda known: known.name))
            suppressions = tuple(known for known in self._kept.suppressions if known.name != override.name)
            await self._keep(_Kept(overrides, suppressions))

    async def remove(self, name: str) -> None:
        """Forget an added peer; nothing happens when there is none of that name. Raises OverrideRefused (507)."""
        async with self._lock:
            left = tuple(known for known in self._kept.overrides if known.name != name)
            await self._keep(replace(self._kept, overrides=left))

    async def suppress(self, suppression: Suppression) -> None:
        """Keep a discovered peer away until it is added again. Raises OverrideRefused (409 at the limit, 507)."""
        async with self._lock:
            if suppression in self._kept.suppressions:
                return
            if len(self._kept.suppressions) >= ENTRIES_MAX:
                raise OverrideRefused(409, "too_many_suppressions", f"At most {ENTRIES_MAX} peers can be removed")
            await self._keep(replace(self._kept, suppressions=(*self._kept.suppressions, suppression)))

    async def lift(self, suppression: Suppression) -> None:
        """Let discovery bring a peer back. Raises OverrideRefused (507)."""
        async with self._lock:
            left = tuple(known for known in self._kept.suppressions if known != suppression)
            await self._keep(replace(self._kept, suppressions=left))

    async def _keep(self, kept: _Kept) -> None:
        """Write, then show."""
        if kept == self._kept:
            return

        def show() -> None:
            self._kept = kept

        try:
            await to_its_end(partial(write_durably, self._path, _dump(kept)), show)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise OverrideRefused(507, "not_saved", f"The change could not be saved: {reason}") from exc


def _dump(kept: _Kept) -> bytes:
    saved = {
        "schema": SCHEMA,
        "overrides": [
            {
                "name": override.name,
                "url": override.target.url,
                "scope": override.scope.value,
                "token": override.target.token,
                "headers": [list(pair) for pair in override.target.headers],
                **({} if override.kind is None else {"kind": override.kind.value}),
            }
            for override in kept.overrides
        ],
        "suppressions": [
            {"name": known.name, "node_id": known.node_id, "service_id": known.service_id}
            | ({} if known.url is None else {"url": known.url})
            for known in kept.suppressions
        ],
    }
    return orjson.dumps(saved, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _read(path: Path) -> _Kept:
    try:
        with open_saved(path) as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if path.stat().st_mode & 0o077:
            path.chmod(FILE_MODE)
    except FileNotFoundError:
        return _Kept()
    except OSError as exc:
        raise _refused(path, f"cannot be read: {exc.strerror}") from exc
    if len(content) > FILE_BYTES_MAX:
        raise _refused(path, f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        raise _refused(path, f"is damaged at line {exc.lineno}, column {exc.colno}") from exc
    schema = parsed.get("schema") if isinstance(parsed, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise _refused(path, f"was written by a newer version (schema {schema}, this one knows {SCHEMA})")
    try:
        _SAVED(parsed, "")
    except Misshapen as exc:
        raise _refused(path, f"is damaged: {exc}") from None
    suppressions = tuple(
        Suppression(entry["name"], entry.get("node_id"), entry.get("service_id"), entry.get("url"))
        for entry in parsed["suppressions"]
    )
    return _Kept(tuple(map(_override, parsed["overrides"])), suppressions)


def _override(entry: Json) -> Override:
    headers = tuple((name, value) for name, value in entry.get("headers", ()))
    target, kind = HttpTarget(entry["url"], headers, entry.get("token")), entry.get("kind")
    return Override(entry["name"], target, PeerScope(entry["scope"]), None if kind is None else PeerKind(kind))


def _refused(path: Path, why: str) -> ConfigRefused:
    return ConfigRefused(
        f"{path}: the file of operators' overrides {why}. Nothing was changed; "
        "repair it, or move it away to start without overrides and suppressions"
    )
