"""Processes of tests: started with a clean environment, and bound to no event loop, so that one may outlive a test.

The one rule: the test that starts one here ends it, by its own id.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.e2e.copied_nodes import MODULES, Copy, copied
from tests.waiting import eventually

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
REAP_TIMEOUT_S = 10.0
ROOT = Path(__file__).parents[2]


class NodeProcess:
    """A child process that is bound to no event loop; its exit code is looked up whenever it is asked for."""

    def __init__(self, process: subprocess.Popen[bytes] | Copy) -> None:
        self._process = process
        self.pid = process.pid

    def __repr__(self) -> str:
        return f"<NodeProcess {self.pid} {self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def kill_and_reap(self) -> None:
        """SIGKILL, and wait for the end of it without the loop, so that no cancellation comes between."""
        self._process.kill()
        self._process.wait(REAP_TIMEOUT_S)

    async def wait(self) -> int:
        """Wait for the end; the caller bounds it."""
        await eventually(self._has_ended, float("inf"))
        assert self.returncode is not None
        return self.returncode

    async def _has_ended(self) -> bool:
        return self.returncode is not None


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or has ended and no parent has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # The latter when it goes between the opening and the reading.
        return True


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours: a few words of the shell, and the settings given."""
    kept = {key: os.environ[key] for key in INHERITED if key in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def spawn_node(log_path: Path, environment: Mapping[str, str]) -> NodeProcess:
    """Start a node as `spawn_copy` does."""
    return spawn_copy(("agent", "run"), log_path, environment)


def spawn_copy(
    argv: Sequence[str],
    log_path: Path,
    environment: Mapping[str, str],
    *,
    network: str = "",
    modules: tuple[str, ...] = MODULES,
) -> NodeProcess:
    """Start a process as `spawn` does, at once where one with these imports can be copied: by default, those of a node.

    `network`: the namespace of `ip netns` that it runs in, where it is not ours.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        copy = copied(argv, log.fileno(), environment, network=network, modules=modules)
    if copy is not None:
        return NodeProcess(copy)
    return spawn(argv, log_path, environment, through=("ip", "netns", "exec", network) if network else ())


def spawn(
    argv: Iterable[str], log_path: Path, environment: Mapping[str, str], *, through: Sequence[str] = ()
) -> NodeProcess:
    """Start a process of ours that writes into `log_path`; `through`: a program that becomes it, such as `ip netns`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return NodeProcess(
            subprocess.Popen(
                [*through, sys.executable, "-m", *argv],
                env=dict(environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )
