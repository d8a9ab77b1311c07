"""Notices when a file's content may have changed, by looking at it twice a second.

Used for the servers file and for token files. Polling, because it sees what inotify misses: files replaced by rename,
mounted into containers, or swapped behind a symbolic link. The one rule: a callback that fails does not end the watch.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5

Stamp = tuple[int, int, int] | None


async def watch_file(path: Path, changed: Callable[[], None]) -> None:
    """Call `changed` after every change of `path`, until cancelled; also when it appears or vanishes."""
    known = _stamp(path)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        stamp = _stamp(path)
        if stamp == known:
            continue
        known = stamp
        try:
            changed()
        except Exception:  # The top of an eternal loop: the next change must be seen.
            log.exception("a changed file could not be taken", extra={"path": str(path)})


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
