"""How long something took with a core, as tests with real processes judge it (`tests/processor_time.py`)."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.processor_time import Stopwatch, processor_time
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's words are read from /proc")

# Each wants all of a core, and both have the same one.
BUSY = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
WAITED_S = 0.3


@pytest.fixture
def rivals() -> Iterator[list[int]]:
    """Two processes for one core."""
    with ExitStack() as stack:
        found = [stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY])) for _ in range(2)]
        for one in found:
            stack.callback(one.kill)
        yield [one.pid for one in found]


async def is_now() -> bool:
    return True


async def test_the_time_for_which_a_process_had_no_core_does_not_count(rivals: list[int]) -> None:
    began_s, watch = time.monotonic(), Stopwatch(*rivals)
    before = processor_time(rivals[0])

    async def has_waited() -> bool:
        return (processor_time(rivals[0]) - before).waited_s > WAITED_S

    await eventually(has_waited)
    with_a_core_s = watch()  # Read first: what goes by between the two is none that it leaves out.
    assert time.monotonic() - began_s - with_a_core_s >= WAITED_S


async def test_what_took_longer_than_it_may_fails_with_the_time_that_it_took() -> None:
    assert await Stopwatch().until(is_now, 10.0) < 10.0
    with pytest.raises(AssertionError, match=r"after \d+\.\d s in which there was a core, of 0 s at most"):
        await Stopwatch().until(is_now, 0.0)


def test_a_process_that_has_ended_holds_it_up_no_more() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ending:
        watch = Stopwatch(ending.pid)
    assert watch() >= 0.0
    assert Stopwatch(ending.pid, os.getpid())() >= 0.0
