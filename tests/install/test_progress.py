"""What a reader sees while a lock is installed: pip's progress in few lines, everything else as pip said it."""

import io
import signal
import subprocess
import sys
from pathlib import Path

from install.from_lock import show
from tests.install.world import ROOT

INSTALLED = """\
Looking in links: /somewhere
Collecting one==1.0 (from -r lock.txt (line 1))
  Using cached one-1.0-py3-none-any.whl (2 kB)
Ignoring colorama: markers 'sys_platform == "win32"' don't match your environment
Collecting setuptools==80.0 (from -r lock.txt (line 5))
  Obtaining dependency information for setuptools==80.0 from somewhere
  Downloading setuptools-80.0-py3-none-any.whl.metadata (6 kB)
  Downloading setuptools-80.0-py3-none-any.whl (1.2 MB)
Installing collected packages: setuptools, one
  Attempting uninstall: setuptools
    Found existing installation: setuptools 65.5.0
    Uninstalling setuptools-65.5.0:
      Successfully uninstalled setuptools-65.5.0
Successfully installed one-1.0 setuptools-80.0
"""
MISMATCH = """\
Collecting one==1.0 (from -r lock.txt (line 1))
  Downloading one-1.0-py3-none-any.whl (2 kB)
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package versions, \
please update the hashes. Otherwise, examine the package contents carefully; someone may have tampered with them.
    one==1.0 from somewhere (from -r lock.txt (line 1)):
        Expected sha256 aaaa
             Got        bbbb
"""
NO_REGISTRY = """\
Collecting one==1.0 (from -r lock.txt (line 1))
  WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by 'NewConnectionError': /simple/one/
ERROR: Could not find a version that satisfies the requirement one==1.0 (from versions: none)
ERROR: No matching distribution found for one==1.0
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(text: str, out: io.StringIO, pins: int = 3) -> str:
    show(text.splitlines(keepends=True), pins, out)
    return out.getvalue()


def test_terminal_shows_one_line_that_counts() -> None:
    assert shown(INSTALLED, Terminal()) == (
        "\r   1 of 3 packages\r   2 of 3 packages\r   3 of 3 packages\n   installing 2\n   installed 2 packages\n"
    )


def test_pipe_gets_a_line_for_every_twenty_five_packages() -> None:
    many = "".join(f"Collecting p{number}==1 (from -r lock.txt)\n" for number in range(60))
    assert shown(many, io.StringIO(), 60) == "   25 of 60 packages\n   50 of 60 packages\n"


def test_error_of_pip_is_shown_whole_below_the_count() -> None:
    assert shown(MISMATCH, io.StringIO()) == MISMATCH.split("(2 kB)\n")[1]
    assert shown(MISMATCH, Terminal()) == "\r   1 of 3 packages\n" + MISMATCH.split("(2 kB)\n")[1]


def test_failure_without_a_registry_differs_from_a_missing_wheel() -> None:
    unreachable = show(NO_REGISTRY.splitlines(), 1, io.StringIO())
    missing = show(NO_REGISTRY.splitlines()[2:], 1, io.StringIO())
    assert unreachable
    assert missing
    assert "No package registry answered" in unreachable
    assert "no wheel of this release" in missing
    assert show(MISMATCH.splitlines(), 1, io.StringIO()) is None


def test_a_step_that_is_interrupted_leaves_no_pip_behind() -> None:
    deaf = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    command = [sys.executable, "-c", f"{deaf}os.write(1, b'begun %d\\n' % os.getpid()); signal.pause()"]
    step = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from install import from_lock; "
    step += f"from_lock.ENDS_S = 0.1; from_lock._run([{command!r}] * 2, 2)"
    with subprocess.Popen(
        [sys.executable, "-c", step], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as running:
        assert running.stdout is not None
        pids = [int(running.stdout.readline().split()[1]) for _ in command[1:]]
        running.send_signal(signal.SIGINT)
        assert running.wait(30) != 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
