"""A node whose clock can be stopped: a file to run in the folder of any build, otherwise as `python -m agent run`.

Each SIGRTMIN stops what it takes for the time, or lets it go on. While it stands no timer is due, so that what the node
executes for calls is all that it executes, however long the machine takes over them. The one rule: nothing else of a
node is changed, and nothing of its build is imported before the build's own entry.
"""

import runpy
import signal
import sys
import time
from pathlib import Path

_running = time.monotonic


class Clock:
    """In place of `time.monotonic`."""

    def __init__(self) -> None:
        self._stopped_at_s: float | None = None

    def toggle(self, *_: object) -> None:
        """Stop, or go on."""
        self._stopped_at_s = _running() if self._stopped_at_s is None else None

    def read(self) -> float:
        """Seconds."""
        return _running() if self._stopped_at_s is None else self._stopped_at_s


if __name__ == "__main__":
    clock = Clock()
    time.monotonic = clock.read
    signal.signal(signal.SIGRTMIN, clock.toggle)
    sys.path[0] = str(Path.cwd())
    sys.argv = ["agent", "run"]
    runpy.run_module("agent", run_name="__main__", alter_sys=True)
