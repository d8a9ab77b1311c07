"""The operator's maintenance of this node on disk, so that a restart in order does not end it.

Given to the registration in a real Consul (`discovery.consul.maintenance`), which reads it when the node starts and
writes it when the maintenance begins, changes or ends. The one rule: a file that is there means maintenance. A damaged
one is put aside and is none, one that the system refuses to read stays and is read again, and a disk that refuses is
logged once; status says all three.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from agent.state.durable_file import write_durably
from agent.state.saved_file import Refused, Unusable, put_aside, read_saved
from agent.state.saved_shape import object_of, one_of, text

log = logging.getLogger(__name__)

FILE_NAME: Final = "maintenance.json"
SCHEMA: Final = 1
FILE_BYTES_MAX: Final = 64 * 1024

_SAVED: Final = object_of({"schema": one_of(SCHEMA), "reason": text})


class SavedMaintenance:
    """A `MaintenanceRecord` in the node's state folder.

    `heard`: is given each word of it, the reason or nothing, kept by the disk or not. `fault`: see `MaintenanceRecord`.
    """

    def __init__(self, folder: Path, heard: Callable[[str], None] = lambda _reason: None) -> None:
        self._path, self._heard = folder / FILE_NAME, heard
        self._newest: str | None = None  # Of `save`.
        self._disk = threading.Lock()  # A cancelled `save` does not end the thread that writes for it.
        self.fault = ""

    def __repr__(self) -> str:
        return f"<SavedMaintenance {self._path.name} fault={self.fault!r}>"

    async def load(self) -> str | None:
        """The reason; None where the node was in no maintenance. Raises OSError: the system refuses to read it now."""
        loop = asyncio.get_running_loop()
        try:
            reason, self.fault = await loop.run_in_executor(None, _read, self._path)
        except OSError as exc:
            fault = f"{self._path}: whether this node was in maintenance before is not known: {exc.strerror}; "
            fault += "the file stays as it is and is read again"
            level = logging.DEBUG if self.fault == fault else logging.WARNING
            log.log(level, "the maintenance of before is not known", extra={"reason": fault})
            self.fault = fault
            raise
        self._heard(reason or "")
        return reason

    async def save(self, reason: str | None) -> bool:
        """Keep the reason; None: the maintenance has ended. Returns whether the disk has it."""
        self._heard(reason or "")
        self._newest = reason
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._write_newest)
        except OSError as exc:
            why = exc.strerror or str(exc)
            fault = f"{self._path}: {'its end' if reason is None else 'it'} cannot be kept on disk: {why}; a restart "
            fault += "brings it back" if reason is None else "ends it"
            level = logging.DEBUG if self.fault == fault else logging.WARNING
            extra = {"reason": why, "path": str(self._path), "restart": fault.rpartition("a restart ")[2]}
            log.log(level, "the operator's maintenance cannot be kept on disk", extra=extra)
            self.fault = fault
            return False
        self.fault = ""
        return True

    def _write_newest(self) -> None:
        """Raises OSError."""
        with self._disk:
            if self._newest is None:
                self._path.unlink(missing_ok=True)
            else:
                saved = {"schema": SCHEMA, "reason": self._newest}
                write_durably(self._path, orjson.dumps(saved, option=orjson.OPT_APPEND_NEWLINE))


def _read(path: Path) -> tuple[str | None, str]:
    """The reason, and why it is not known. Raises OSError."""
    try:
        saved = read_saved(path, _SAVED, FILE_BYTES_MAX)
    except Refused as exc:
        raise exc.failure from exc
    except Unusable as exc:
        log.warning("the maintenance of before is not known", extra={"path": str(path), "reason": str(exc)})
        fault = f"{path}: whether this node was in maintenance before is not known: {exc}; "
        aside, refusal = put_aside(path)
        if refusal:
            return None, f"{fault}the file cannot be put aside: {refusal}; remove it"
        return None, f"{fault}the file is now {aside}; if it was, begin that again"
    return (None if saved is None else str(saved["reason"])), ""
