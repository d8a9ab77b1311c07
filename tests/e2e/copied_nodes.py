"""Nodes that start at once, because a process that has imported what a node needs is copied for them.

An import of the node's modules takes most of a second of CPU, and the tests start more than a hundred nodes. A copy is
a process of its own with the streams, arguments and environment that it is given; it runs `python -m agent`, and its
interpreter ends as any other. Tests that end a process while it imports use `spawn`, as does everything where no keeper
runs. The one rule: a copy has imported only what every node imports before it is ready, or every node with a Consul.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = ("agent.cli.run", "agent.app.node", "discovery.consul.session")
REQUEST_BYTES_MAX = 1 << 16
REPORT_BYTES_MAX = 32
# What an interpreter reads when it starts; a copy has started already.
READ_AT_START = ("PYTHON", "LD_", "MALLOC_")

_KEEPERS: list[socket.socket] = []


class Copy:
    """A copied process, with what `NodeProcess` uses of `subprocess.Popen`. Its watcher reports pid and exit code."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self._exit_code: int | None = None
        self.pid = int(report.recv(REPORT_BYTES_MAX))

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired`."""
        if self._exit_code is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a copied node", timeout or 0.0)
            self._exit_code = int(self._report.recv(REPORT_BYTES_MAX))
            self._report.close()
        return self._exit_code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def node_copies(environment: Mapping[str, str]) -> Iterator[None]:
    """Let `copied` work in this process; the keeper imports while tests run already."""
    if sys.platform != "linux":
        yield
        return
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        command = [sys.executable, "-m", "tests.e2e.copied_nodes", str(its.fileno())]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
        ) as keeper:
            its.close()
            _KEEPERS.append(ours)
            try:
                yield
            finally:
                _KEEPERS.remove(ours)
                keeper.kill()


def copied(arguments: Sequence[str], log: int, environment: Mapping[str, str]) -> Copy | None:
    """`python -m` with these arguments, its output in `log`; None where no copy could be what a start would be."""
    unusual = environment.keys() - {"PYTHONUNBUFFERED"}
    if not _KEEPERS or any(name.startswith(READ_AT_START) for name in unusual):
        return None
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        asked = json.dumps({"arguments": list(arguments), "environment": dict(environment)})
        socket.send_fds(_KEEPERS[-1], [asked.encode()], [its.fileno(), log])
    return Copy(ours)


def keep(requests: socket.socket) -> list[str]:
    """In the keeper, until it is killed. In a copy: return its arguments, to run in an interpreter that then ends."""
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    while True:
        asked, passed, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, 2)
        if not passed:  # The tests have ended without a goodbye.
            raise SystemExit
        report_fd, log = passed
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # Watchers that have ended.
                pass
        if os.fork() == 0:
            requests.close()
            with socket.socket(fileno=report_fd) as report:
                if (pid := os.fork()) != 0:
                    os.close(log)
                    _watch(pid, report)
            return _become(json.loads(asked), log)
        os.close(report_fd)
        os.close(log)


def _watch(pid: int, report: socket.socket) -> None:
    """Report its pid and its exit code, and leave."""
    report.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # The test has ended without it.
        report.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(asked: dict[str, list[str] | dict[str, str]], log: int) -> list[str]:
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ.clear()
    os.environ.update(asked["environment"])
    return list(asked["arguments"])


if __name__ == "__main__":
    sys.argv = keep(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
