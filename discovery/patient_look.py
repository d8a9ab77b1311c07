"""Looks at files that are read again while the node runs, apart from its loop: a file system that hangs is waited for.

So may one of a network, and no thread can be stopped in that. Used for files of peers, for Consul's token and its TLS
files, and for the configured files of `agent`. The one rule: a look that hangs holds up neither the loop, nor other
threads, nor the end of the process, and what was read last counts.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

LOOK_TIMEOUT_S: Final = 0.1  # A look takes microseconds.
# A system that lets this process start no more threads is asked again this soon; so often the files are looked at, too.
THREAD_AGAIN_S: Final = 0.5

log = logging.getLogger(__name__)

T = TypeVar("T")


async def look_apart(look: Callable[[], T]) -> T:
    """What `look` returns or raises. In a thread of its own, as a pool would be full of such, and joined at the end.

    Where this process may start no more threads, it waits until it may: no change of a file is lost for that.
    """
    outcome = Future[T]()
    outcome.set_running_or_notify_cancel()  # From here on it is not cancelled; only its caller may be.

    def work() -> None:
        try:
            outcome.set_result(look())
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller
            outcome.set_exception(exc)

    is_said = False
    while _begun(work) is None:
        if not is_said:
            log.error("this node may start no more threads, files are looked at later")
            is_said = True
        await asyncio.sleep(THREAD_AGAIN_S)
    return await asyncio.wrap_future(outcome)


def _begun(work: Callable[[], None]) -> threading.Thread | None:
    """A thread that does it; None where this process may start no more."""
    thread = threading.Thread(target=work, name="look", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # What Python makes of EAGAIN, and of nothing else here.
        return None
    return thread


class PatientLook:
    """For looks before each request: waited for a moment, and no other one is begun before that has ended.

    `look` runs in a thread, keeps what it has found, and handles its own failures.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<PatientLook under_way={self._thread is not None and self._thread.is_alive()}>"

    def take(self) -> bool:
        """Look now; whether that has ended in time. False at once while an earlier look hangs, or without a thread."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = _begun(self._look)
        if self._thread is None:
            return False
        self._thread.join(LOOK_TIMEOUT_S)
        return not self._thread.is_alive()
