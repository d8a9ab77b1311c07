"""The operator's maintenance of this node on disk, so that a restart in order does not end it.

Given to the registration in a real Consul (`discovery.consul.maintenance`), which reads it when the node starts and
writes it when the maintenance begins, changes or ends. The one rule: a file that is there means maintenance; one that
cannot be used is none, with a warning, and a disk that refuses is logged once.
"""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from agent.state.durable_file import write_durably
from agent.state.saved_file import Unusable, read_saved
from agent.state.saved_shape import object_of, one_of, text

log = logging.getLogger(__name__)

FILE_NAME: Final = "maintenance.json"
SCHEMA: Final = 1
FILE_BYTES_MAX: Final = 64 * 1024

_SAVED: Final = object_of({"schema": one_of(SCHEMA), "reason": text})


class SavedMaintenance:
    """A `MaintenanceRecord` in the node's state folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._refused = False

    def __repr__(self) -> str:
        return f"<SavedMaintenance {self._path.name}>"

    async def load(self) -> str | None:
        """The reason; None where the node was in no maintenance."""
        return await asyncio.get_running_loop().run_in_executor(None, _read, self._path)

    async def save(self, reason: str | None) -> bool:
        """Keep the reason; None: the maintenance has ended. Returns whether the disk has it."""
        write = partial(self._path.unlink, missing_ok=True) if reason is None else partial(_write, self._path, reason)
        try:
            await asyncio.get_running_loop().run_in_executor(None, write)
            self._refused = False
        except OSError as exc:
            level = logging.DEBUG if self._refused else logging.WARNING
            extra = {"reason": exc.strerror or str(exc), "path": str(self._path)}
            log.log(level, "the operator's maintenance cannot be kept on disk", extra=extra)
            self._refused = True
        return not self._refused


def _write(path: Path, reason: str) -> None:
    write_durably(path, orjson.dumps({"schema": SCHEMA, "reason": reason}, option=orjson.OPT_APPEND_NEWLINE))


def _read(path: Path) -> str | None:
    try:
        saved = read_saved(path, _SAVED, FILE_BYTES_MAX)
    except Unusable as exc:
        log.warning("the maintenance of before is not known", extra={"path": str(path), "reason": str(exc)})
        return None
    return None if saved is None else str(saved["reason"])
