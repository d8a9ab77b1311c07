"""A lock between processes of the tests, so that parallel runs share one download.

Used by what fetches programs. The one rule: it is never waited for beyond the deadline of the fetch.
"""

import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 0.2


@contextmanager
def held_until(path: Path, deadline_s: float) -> Iterator[bool]:
    """Whether the lock of that file was had before `deadline_s` (monotonic); it is held within the block."""
    with path.open("w", encoding="utf-8") as lock:
        pause = threading.Event()
        while not (is_held := _try_lock(lock.fileno())) and time.monotonic() <= deadline_s:
            pause.wait(_EVERY_S)
        yield is_held


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
