"""A look at a file that is read again while the node runs: in a thread of its own, and waited for a moment only.

Used for Consul's token and its TLS files, which are looked at before every request. The one rule: a file system that
hangs, as one of a network may, holds up the node's loop once and for `LOOK_TIMEOUT_S`; what was read last counts, and
no other look is begun before that one has ended.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

LOOK_TIMEOUT_S: Final = 0.1  # A look takes microseconds.


class PatientLook:
    """See the module. `look` runs in the thread, keeps what it has found, and should handle its own failures."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    def __repr__(self) -> str:
        return f"<PatientLook under_way={self._under_way is not None}>"

    def take(self) -> bool:
        """Look now; whether that has ended in time. False at once while an earlier look hangs."""
        if self._under_way is not None and not self._under_way.done():
            return False
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "look")
        self._under_way = look = self._thread.submit(self._look)
        try:
            look.result(LOOK_TIMEOUT_S)
        except TimeoutError:
            return look.done()
        return True
