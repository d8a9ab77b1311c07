"""In which order the tests begin, and on which worker.

Called by conftest.py. Most tests with real processes wait most of the time, so several of them share a core; unit tests
compute. Those that may take longest begin first, so that no worker is left alone with one at the end. All of them wait
rather than compute, and the cores would be idle meanwhile: so one worker begins at the other end. The simulation comes
last, each seed wherever there is room, so that the workers end together. The one rule: the order decides how long a run
takes, never what a test finds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling
    from xdist.workermanage import WorkerController

# Files that share what takes long to start: two nodes with five servers; meshes on two catalogs and their server.
TOGETHER = {
    "pairings": ("tests/integration/pairings/",),
    "shared mesh": tuple(f"tests/e2e/test_{name}.py" for name in ("observability", "offers", "servers", "tokens")),
}
# Tests that share nothing and wait for nothing: each goes to any worker, after all the files.
APART = ("tests/simulation/",)
# Tests that wait for little. They are after the others.
COMPUTING = ("tests/unit/",)
FROM_THE_END = "gw0"


def file_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def unit_of(nodeid: str) -> str:
    """What one worker runs: the file, the name that stands for several files in TOGETHER, or a test that is APART."""
    if nodeid.startswith(APART):
        return nodeid
    file = file_of(nodeid)
    return next((unit for unit, paths in TOGETHER.items() if file.startswith(paths)), file)


def in_order(tests: Sequence[tuple[str, float]]) -> list[int]:
    """The places of tests in the order in which they are to begin, from their ids and time limits (0: none of its own).

    A unit begins where its longest limit says, and among its like where it came.
    """
    limits_s: dict[str, float] = {}
    places: dict[str, int] = {}
    for place, (nodeid, limit_s) in enumerate(tests):
        unit = unit_of(nodeid)
        limits_s[unit] = max(limits_s.get(unit, 0.0), limit_s)
        places.setdefault(unit, place)
        places.setdefault(file_of(nodeid), place)

    def key(place: int) -> tuple[bool, float, bool, bool, int, int]:
        nodeid, _ = tests[place]
        unit = unit_of(nodeid)
        computes = unit.startswith(COMPUTING)
        return (
            unit.startswith(APART),
            -limits_s[unit],
            unit not in TOGETHER,
            computes,
            places[unit],
            places[file_of(nodeid)],
        )

    return sorted(range(len(tests)), key=key)


def next_unit(waiting: Sequence[str], worker: str) -> str:
    """Which of the waiting units, in their order, the worker is to have."""
    if worker == FROM_THE_END:
        return next((unit for unit in reversed(waiting) if not unit.startswith(APART)), waiting[0])
    return waiting[0]


def scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling":
    """Give a worker whole files, and files that share servers all to one worker: each would start them anew."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - a run without workers does without

    class ByServers(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

        def _assign_work_unit(self, node: "WorkerController") -> None:
            unit = next_unit(tuple(self.workqueue), node.gateway.id)
            self.workqueue.move_to_end(unit, last=False)
            super()._assign_work_unit(node)

    return ByServers(config, log)
