"""The pins of a node on disk: definitions as they were first seen or approved (`agent.pins.book`).

Read when the node starts, written whole after each change. The one rule: a file that cannot be read is never written
over. Where the system refuses to read it, and in the mode that blocks, the node refuses to start; else a damaged file
is put aside under another name.
"""

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


def load_pins(folder: Path, *, strict: bool) -> dict[Key, Pin]:
    """The pins of the state folder; none where there is no file.

    Raises:
        ConfigRefused: the system refuses to read the file; or it is damaged, and `strict`.
    """
    path = folder / FILE_NAME
    try:
        saved = read_saved(path, _SAVED, FILE_BYTES_MAX)
    except Unusable as exc:
        if strict or isinstance(exc, Refused):  # It may be whole, and full of what operators have approved.
            raise ConfigRefused(
                f"{path}: the pinned definitions cannot be read: {exc}; restore the file, or move it away to trust"
                " what servers list now"
            ) from exc
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
