"""A source over files in Prometheus' `file_sd` format, JSON or YAML, found by globs and read again when they change.

Made by the wiring; followed by the mesh. The one rule: a file that cannot be read, or is half written, keeps what it
said last; one that is gone keeps it for `GONE_AFTER_S`, for it may be on its way to being replaced, and for as long as
its folder is gone or of another volume, or a link by its name leads nowhere. YAML that was cut after a line is still
YAML: what lacks peers is taken when it has not changed until the next look.
"""

import asyncio
import codecs
import glob
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from discovery import clock
from discovery.file.groups import instances_of
from discovery.model import Catalog, Instance, SourceStatus
from discovery.ordinary_file import open_to_read
from discovery.patient_look import look_apart
from discovery.shown import Shown

log = logging.getLogger(__name__)

POLL_EVERY_S = 1.0  # A changed file is in use within two seconds; a stat costs microseconds.
GONE_AFTER_S = 10.0  # Longer than any tool takes between removing a file and writing it anew.
FILE_BYTES_MAX = 16 * 1024 * 1024
_YAML = (".yml", ".yaml")

_Stamp = tuple[int, int, int]
_NO_DEVICE = -1
_NO_STAMP: _Stamp = (-1, -1, -1)  # No file's: it is read again as soon as it can be.


@dataclass(slots=True)
class _File:
    stamp: _Stamp
    instances: tuple[Instance, ...] = ()
    fault: str = ""
    seen_at_s: float = 0.0
    device: int = _NO_DEVICE  # Where it was.
    doubted: _Stamp = _NO_STAMP  # Of what lacked peers at the last look.


class FileSource:
    """A `CatalogSource` over files; `patterns` are globs, or names. One consumer at a time.

    `known`: the last catalog of an earlier run, which counts for each file until that can be read.
    """

    def __init__(self, patterns: Sequence[str], known: Catalog | None = None) -> None:
        self._patterns = tuple(patterns)
        self._files: dict[str, _File] = {}
        self._shown = Shown(known)

    def __repr__(self) -> str:
        return f"<FileSource {self._patterns} files={len(self._files)} fault={self._shown.fault!r}>"

    @property
    def status(self) -> SourceStatus:
        """A frozen view of the present state."""
        return self._shown.status()

    async def watch(self) -> AsyncGenerator[Catalog, None]:
        """Yield the catalog when it is first known and after every change, until cancelled (`CatalogSource`)."""
        if (before := self._shown.catalog) is not None:
            self._files = _files_of(before, clock.now_s())
            yield before
        while True:
            await look_apart(partial(self._look, clock.now_s()))
            self._note_faults()
            catalog = Catalog(tuple(one for name in sorted(self._files) for one in self._files[name].instances))
            known = any(not file.fault or file.instances for file in self._files.values())
            if self._shown.take(catalog, is_known=known) is not None:
                yield catalog
            await asyncio.sleep(POLL_EVERY_S)

    def _look(self, now_s: float) -> None:
        """Read what has changed; runs in a thread, and nothing else touches the files meanwhile."""
        present = {found for pattern in self._patterns for found in glob.glob(pattern)}  # noqa: PTH207 - absolute ones, too
        # A glob says nothing of a folder that cannot be read, so those that were there are looked at by name.
        for name in sorted(present | self._files.keys()):
            known = self._files.get(name)
            try:
                stat = os.stat(name)  # noqa: PTH116 - one system call a file and second
            except (FileNotFoundError, NotADirectoryError):
                if known is not None and (fault := _why_lost(name, known.device)):
                    self._files[name] = _File(_NO_STAMP, known.instances, fault, now_s, known.device)
                continue
            except OSError as exc:
                before = () if known is None else known.instances
                device = _NO_DEVICE if known is None else known.device
                self._files[name] = _File(_NO_STAMP, before, exc.strerror or type(exc).__name__, now_s, device)
                continue
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if known is None or known.stamp != stamp:
                self._files[name] = _read_again(name, stamp, known or _File(_NO_STAMP))
            self._files[name].seen_at_s, self._files[name].device = now_s, stat.st_dev
        self._files = {name: file for name, file in self._files.items() if now_s - file.seen_at_s < GONE_AFTER_S}

    def _note_faults(self) -> None:
        faults = [f"{name}: {file.fault}" for name, file in sorted(self._files.items()) if file.fault]
        fault = "; ".join(faults)[:1000] or ("" if self._files else f"no file matches {', '.join(self._patterns)}")
        if fault and fault != self._shown.fault:
            log.warning("a file of peers is not taken, what it said before stays", extra={"reason": fault})
        self._shown.fault = fault
        if not fault:
            self._shown.answered_at_s = clock.now_s()


def _why_lost(name: str, device: int) -> str:
    """Why a file that is not there was hardly deleted; empty where it was.

    Its folder is gone, too, or is of another volume than the file was; or there is a link by its name still.
    """
    if os.path.islink(name):  # noqa: PTH114 - as above
        return "it is a link that leads nowhere"
    try:
        found = os.stat(os.path.dirname(name) or ".").st_dev  # noqa: PTH116, PTH120 - as above
    except OSError:
        return "its folder is gone"
    return "" if device in (found, _NO_DEVICE) else "its folder is gone"


def _files_of(known: Catalog, now_s: float) -> dict[str, _File]:
    """The files that a catalog came from (`instance_at`), as if they were there now; each is read all the same."""
    names = {one.key.node for one in known.instances}
    return {
        name: _File(_NO_STAMP, tuple(one for one in known.instances if one.key.node == name), "", now_s)
        for name in names
    }


def _read_again(name: str, stamp: _Stamp, known: _File) -> _File:
    found = _read(name, stamp, known.instances)
    lacking = {one.key for one in known.instances} - {one.key for one in found.instances}
    if name.endswith(_YAML) and lacking and known.doubted != stamp:
        known.doubted = stamp
        return known
    return found


def _read(name: str, stamp: _Stamp, before: tuple[Instance, ...]) -> _File:
    try:
        with open_to_read(name, FILE_BYTES_MAX) as file:
            return _File(stamp, instances_of(name, _parsed(name, file.read(FILE_BYTES_MAX))))
    except OSError as exc:  # This node may lack a descriptor for the moment.
        return _File(_NO_STAMP, before, exc.strerror or type(exc).__name__)
    except ValueError as exc:
        return _File(stamp, before, " ".join(str(exc).split())[:200])
    except Exception as exc:  # noqa: BLE001 - YAML's reader raises nearly anything, KeyError and RecursionError for two
        return _File(stamp, before, f"it cannot be read ({type(exc).__name__})")


def _parsed(name: str, content: bytes) -> Any:
    """Raises ValueError."""
    if not name.endswith(_YAML):
        return orjson.loads(content.removeprefix(codecs.BOM_UTF8))
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - few nodes need it, and it is slow to import

    try:
        return yaml.safe_load(content)  # Not by libyaml, which has no limit on depth of its own.
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc
