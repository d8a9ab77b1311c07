"""Two processes of tests at once: neither is given a port of the other's range, whatever either starts."""

import re
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.e2e.processes import ROOT
from tests.ports import FIRST, LAST, OWN_PORTS, RANGE_PORTS, free_ports, many_ports, ranges_beside

ANOTHER = "from tests.ports import free_ports; print(*free_ports(int(input()))); input()"
ONE_PLACE = "tests/ports.py"
# To ask the kernel for a port and give it back, or to draw lots, is to choose one that another process may be given.
CHOOSES = re.compile(r"def (free|unused)_ports?\b|randrange\(\*?[A-Z_]*PORT")


def test_two_processes_of_tests_are_never_given_the_same_port() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as another:
        assert another.stdin is not None
        assert another.stdout is not None
        count = RANGE_PORTS // 2
        another.stdin.write(f"{count}\n")
        another.stdin.flush()
        theirs = {int(port) for port in another.stdout.readline().split()}
        with many_ports(2 * RANGE_PORTS) as many:
            ours = {*free_ports(count), *many}
        another.stdin.write("\n")
    assert (len(theirs), len(ours)) == (count, count + 2 * RANGE_PORTS)
    assert not theirs & ours


def test_ports_that_are_given_together_are_different_ones_or_refused() -> None:
    found = free_ports(len(OWN_PORTS) // 4)
    with ExitStack() as taken:
        for port in found:
            taken.enter_context(socket.create_server(("127.0.0.1", port)))
        others = free_ports(len(OWN_PORTS) // 2)
        assert len({*found, *others}) == len(found) + len(others)
        with pytest.raises(RuntimeError, match="ports were wanted"):
            free_ports(len(OWN_PORTS))


@pytest.mark.parametrize("folder", ["tests", "bench"])
def test_no_other_file_chooses_ports(folder: str) -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / folder).rglob("*.py")}
    assert [name for name, text in files.items() if CHOOSES.search(text)] == [ONE_PLACE] * (folder == "tests")


@pytest.mark.parametrize(
    ("given", "first"),
    [((32_768, 60_999), FIRST), ((1_024, 60_999), 61_000), ((10_000, 20_100), 20_200), ((1_024, 65_535), FIRST)],
)
def test_ports_that_the_kernel_gives_to_connections_come_last(given: tuple[int, int], first: int) -> None:
    ranges = ranges_beside(*given)
    assert ranges[0] == first
    assert sorted(ranges) == list(range(FIRST, LAST - RANGE_PORTS + 1, RANGE_PORTS))
    given_first, given_last = given
    beside = [port + RANGE_PORTS <= given_first or port > given_last for port in ranges]
    assert beside == sorted(beside, reverse=True)
