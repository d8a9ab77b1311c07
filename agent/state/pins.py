"""The pins of a node on disk: definitions as they were first seen or approved (`agent.pins.book`).

Read when the node starts, written whole after each change. The one rule: a file that cannot be read is never written
over. In the mode that blocks, the node refuses to start; else a damaged file is put aside under another name, and one
that the system refuses to read stays, and is read again.
"""

import errno
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from agent.errors import ConfigRefused
from agent.pins.book import Key, Pin
from agent.pins.definition import PINNED
from agent.routing.table import RouteKind
from agent.state.durable_file import write_durably
from agent.state.saved_file import Refused, Unusable, put_aside, read_saved
from agent.state.saved_shape import list_of, object_of, one_of, text

log = logging.getLogger(__name__)

FILE_NAME: Final = "pins.json"
SCHEMA: Final = 1
FILE_BYTES_MAX: Final = 512 * 1024 * 1024

_SAVED_PIN: Final = object_of(
    {
        "source": text,
        "kind": one_of(*(kind.value for kind in PINNED)),
        "name": text,
        "definition": text,
        "since": text,
        "by": text,
    }
)
_SAVED: Final = object_of({"schema": one_of(SCHEMA), "pins": list_of(_SAVED_PIN)})


class SavedPins:
    """The file in a node's state folder. `refusal`: why what it holds is not here yet; until then it is not written."""

    def __init__(self, folder: Path, *, strict: bool) -> None:
        """`strict`: without its pins the node must not start."""
        self._folder, self._strict = folder, strict
        self._is_refused = False
        self.refusal = ""

    def __repr__(self) -> str:
        return f"<SavedPins refusal={self.refusal!r}>"

    def load(self) -> dict[Key, Pin] | None:
        """The pins; none where there is no file, and None where the system refuses to read it.

        Blocks on the disk. After a refusal, the file is written again only when what was read is here: `take`.

        Raises:
            ConfigRefused: the file cannot be read, or is damaged; `strict`.
        """
        try:
            return load_pins(self._folder, strict=self._strict)
        except Refused as exc:
            level = logging.DEBUG if self.refusal == str(exc) else logging.WARNING
            log.log(level, "pinned definitions cannot be read", extra={"reason": str(exc)})
            self.refusal = str(exc)
            return None

    def take(self, found: Mapping[Key, Pin], pins: dict[Key, Pin]) -> None:
        """What was read after a refusal is among the pins from now on, which are saved again.

        In one step, in the loop: what is saved in between, or as the node ends, would be written over what was read.
        """
        pins.update(found)
        self.refusal = ""
        log.info("pinned definitions can be read again", extra={"pins": len(found)})

    def save(self, pins: Mapping[Key, Pin]) -> None:
        """Write all of them. Blocks on the disk: call it in a thread. Raises OSError."""
        if self.refusal:
            raise OSError(errno.EBUSY, f"their file cannot be read, and is not written over: {self.refusal}")
        save_pins(self._folder, pins)

    def try_to_save(self, pins: Mapping[Key, Pin]) -> None:
        """As `save`; a refusal is logged once."""
        try:
            self.save(pins)
        except OSError as exc:
            level = logging.DEBUG if self._is_refused else logging.WARNING
            log.log(level, "pins cannot be kept on disk", extra={"reason": exc.strerror or str(exc)})
            self._is_refused = True
        else:
            self._is_refused = False


def load_pins(folder: Path, *, strict: bool) -> dict[Key, Pin]:
    """The pins of the state folder; none where there is no file.

    Raises:
        ConfigRefused: the system refuses to read the file, or it is damaged; `strict`.
        Refused: the system refuses to read it, and not `strict`.
    """
    path = folder / FILE_NAME
    try:
        saved = read_saved(path, _SAVED, FILE_BYTES_MAX)
    except Unusable as exc:
        if strict:
            raise ConfigRefused(
                f"{path}: the pinned definitions cannot be read: {exc}; restore the file, or move it away to trust"
                " what servers list now"
            ) from exc
        if isinstance(exc, Refused):  # It may be whole, and full of what operators have approved.
            raise
        _put_aside(path, str(exc))
        return {}
    if saved is None:
        return {}
    return {
        Key(one["source"], RouteKind(one["kind"]), one["name"]): Pin(
            one["definition"].encode(), one["since"], one["by"]
        )
        for one in saved["pins"]
    }


def save_pins(folder: Path, pins: Mapping[Key, Pin]) -> None:
    """Write all of them. Blocks on the disk: call it in a thread. Raises OSError."""
    saved = [
        {
            "source": key.source,
            "kind": key.kind.value,
            "name": key.name,
            "definition": pin.content.decode(),
            "since": pin.since,
            "by": pin.by,
        }
        for key, pin in pins.items()
    ]
    write_durably(folder / FILE_NAME, orjson.dumps({"schema": SCHEMA, "pins": saved}))


def _put_aside(path: Path, reason: str) -> None:
    aside, refusal = put_aside(path)
    log.warning("pinned definitions put aside", extra={"path": str(path), "aside": aside, "reason": reason})
    if refusal:
        log.warning("pinned definitions could not be put aside", extra={"reason": refusal})
