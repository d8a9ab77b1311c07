"""Two processes of tests at once: neither is given a port of the other's range."""

import subprocess
import sys

from tests.e2e.processes import ROOT
from tests.ports import RANGE_PORTS, free_ports

ANOTHER = "from tests.ports import free_ports; print(*free_ports(int(input()))); input()"


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
        ours = set(free_ports(count))
        another.stdin.write("\n")
    assert len(theirs) == len(ours) == count
    assert not theirs & ours
