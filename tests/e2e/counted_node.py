"""A node that counts its own function calls: `python -m tests.e2e.counted_node FILE`, otherwise as `mesh-agent run`.

Run by test_call_cost.py. Each SIGRTMIN begins to count or, if it counts, ends and writes FILE: how many functions of
the project were called. Its workers do the same. The one rule: nothing of the node is changed but how its workers are
started, so what is counted is what any node does.
"""

import cProfile
import pstats
import runpy
import signal
import sys
from pathlib import Path

import agent
from agent.workers import spawning

ROOM = str(Path(agent.__file__).parent)


class Counter:
    """Counts between one signal and the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile: cProfile.Profile | None = None

    def toggle(self, *_: object) -> None:
        """Begin, or end and write."""
        if self._profile is None:
            self._profile = cProfile.Profile()
            self._profile.enable()
            return
        self._profile.disable()
        found, self._profile = pstats.Stats(self._profile), None
        # What pstats has found is not in its declared type.
        called = sum(calls for (file, _, _), (_, calls, *_) in found.stats.items() if file.startswith(ROOM))  # type: ignore[attr-defined] - as above
        partial = self._path.with_suffix(".part")
        partial.write_text(str(called))
        partial.rename(self._path)


def begin(file: str) -> None:
    """Count in this process from the next signal on."""
    signal.signal(signal.SIGRTMIN, Counter(Path(file)).toggle)


if __name__ == "__main__":
    begin(sys.argv[1])
    counting = f"from tests.e2e.counted_node import begin; begin({sys.argv[1]!r})"
    spawning.PROGRAM = f"{counting}; {spawning.PROGRAM}"
    sys.argv = ["agent", "run"]
    runpy.run_module("agent", run_name="__main__", alter_sys=True)
