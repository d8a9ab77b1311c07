"""A node takes all descriptors that the system lets it have, and its children keep the usual limit."""

import subprocess
import sys

PROGRAM = """
import resource, subprocess, sys, time
from agent.descriptors import give_usual_limit, raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
print(raise_limit())
script = "import resource, sys; sys.stdin.read(1); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
give_usual_limit(child.pid)
print(child.communicate("x")[0], end="")
give_usual_limit(child.pid)
"""


def test_the_limit_is_raised_to_the_hard_one_and_given_back_to_children() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n") == ["4096", "(256, 4096)", ""]
