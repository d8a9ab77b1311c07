"""A node that counts its own function calls: `python -m tests.e2e.counted_node FILE`, otherwise as `mesh-agent run`.

Run by test_call_cost.py. Each SIGRTMIN begins to count or, if it counts, ends and writes FILE: how many functions of
the project were called. The one rule: nothing of the node is changed, so what is counted is what any node does.
"""

import cProfile
import pstats
import runpy
import signal
import sys
from pathlib import Path

import agent

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


if __name__ == "__main__":
    signal.signal(signal.SIGRTMIN, Counter(Path(sys.argv[1])).toggle)
    sys.argv = ["agent", "run"]
    runpy.run_module("agent", run_name="__main__", alter_sys=True)
