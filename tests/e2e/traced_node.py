"""A node that tells how much memory its Python objects hold: `python -m tests.e2e.traced_node FILE`, else as usual.

Run by test_link_memory.py. Each SIGRTMIN writes FILE: the bytes of all that was allocated since the node began and is
held. The one rule: nothing of the node is changed; what Python itself and its modules hold is not counted.
"""

import gc
import runpy
import signal
import sys
import tracemalloc
from pathlib import Path

import agent.app.node
import agent.links.supervisor  # noqa: F401 - what is imported before is not counted


def write(path: Path) -> None:
    """Write what is held now, without what the collector would find."""
    gc.collect()
    partial = path.with_suffix(".part")
    partial.write_text(str(tracemalloc.get_traced_memory()[0]))
    partial.rename(path)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    signal.signal(signal.SIGRTMIN, lambda *_: write(file))
    sys.argv = ["agent", "run"]
    tracemalloc.start()
    runpy.run_module("agent", run_name="__main__", alter_sys=True)
