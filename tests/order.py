"""In which order the tests begin, and what goes to one worker together.

Called by conftest.py. What may take longest begins first, so that no worker is left alone with it at the end; the
simulation comes last, each seed wherever there is room, so that the workers end together. The one rule: the order
decides how long a run takes, never what a test finds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

# Files that share what takes long to start, which each worker would start anew: two nodes with five servers; meshes on
# two catalogs and their server.
TOGETHER = {
    "pairings": ("tests/integration/pairings/",),
    "shared mesh": tuple(f"tests/e2e/test_{name}.py" for name in ("observability", "offers", "servers", "tokens")),
}
# Tests that share nothing and wait for nothing: each goes to any worker, after all the files.
APART = ("tests/simulation/",)
# Files whose tests wait for most of four minutes: they begin first, on one worker, while the cores have other work.
# Where all workers had some of them at once, both cores were idle.
EARLY = ("tests/chaos/test_lost_crowds.py",)
# Files whose tests are short, but together take half a minute. No limit says so.
LONG = ("tests/browser/", "tests/contract/")


def file_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def unit_of(nodeid: str) -> str:
    """What one worker runs: the file, the name that stands for several files in TOGETHER, or one test."""
    if nodeid.startswith(APART):
        return nodeid
    file = file_of(nodeid)
    return next((unit for unit, paths in TOGETHER.items() if file.startswith(paths)), file)


def in_order(tests: Sequence[tuple[str, float]]) -> list[int]:
    """The places of tests in the order in which they are to begin, from their ids and time limits (0: none of its own).

    A unit begins where its longest limit says, unless it is to be early, and among its like where it came.
    """
    limits_s: dict[str, float] = {}
    places: dict[str, int] = {}
    for place, (nodeid, limit_s) in enumerate(tests):
        unit = unit_of(nodeid)
        limits_s[unit] = max(limits_s.get(unit, 0.0), limit_s)
        places.setdefault(unit, place)
        places.setdefault(file_of(nodeid), place)

    def key(place: int) -> tuple[bool, bool, float, bool, int, int]:
        nodeid, _ = tests[place]
        unit = unit_of(nodeid)
        is_short = unit not in TOGETHER and not unit.startswith(LONG)
        is_late = not unit.startswith(EARLY)
        return unit.startswith(APART), is_late, -limits_s[unit], is_short, places[unit], places[file_of(nodeid)]

    return sorted(range(len(tests)), key=key)


def scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling":
    """Give a worker whole units."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - a run without workers does without

    class ByServers(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    return ByServers(config, log)
