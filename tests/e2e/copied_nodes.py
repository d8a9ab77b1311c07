"""Nodes, and servers of FastMCP's, that start at once: a process that has imported what they need is copied for them.

An import of the node's modules takes most of a second of CPU, and the tests start more than a hundred nodes. A copy is
a process of its own with the streams, arguments and environment that it is given; it runs `python -m agent`, and its
interpreter ends as any other. Tests that end a process while it imports use `spawn`, as does everything where no keeper
runs. Workers of one run may share a keeper. The one rule: a copy that is a node has imported only what every node
imports before it is ready, or every node with a Consul; servers have a keeper of their own.
"""

import contextlib
import ctypes
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = ("agent.cli.run", "agent.app.node", "discovery.consul.session")
# What a server over HTTP imports until it answers, in 1.5 s of CPU.
SERVER_MODULES = (
    "tests.chaos.old_transport_server",
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)
# Variables that name the keeper of a run to its workers.
SHARED = {MODULES: "KEEPER_OF_NODES", SERVER_MODULES: "KEEPER_OF_SERVERS"}
CONNECTIONS_MAX = 64
REQUEST_BYTES_MAX = 1 << 16
REPORT_BYTES_MAX = 32
# What an interpreter reads when it starts; a copy has started already.
READ_AT_START = ("PYTHON", "LD_", "MALLOC_")
# Of `ip netns`.
NETWORKS = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h; Python has `os.setns` from 3.12 on.

_KEEPERS: dict[tuple[str, ...], socket.socket] = {}


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
            with contextlib.suppress(ProcessLookupError):  # Its watcher has reaped it, and is about to report that.
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def copies(environment: Mapping[str, str], modules: tuple[str, ...] = MODULES) -> Iterator[None]:
    """Let `copied` work in this process, by the keeper that its run shares or by one of its own."""
    if sys.platform != "linux":
        yield
        return
    with contextlib.ExitStack() as stack:
        address = os.environ.get(SHARED[modules]) or stack.enter_context(keeper(environment, modules))
        _KEEPERS[modules] = stack.enter_context(_connected(address))
        try:
            yield
        finally:
            del _KEEPERS[modules]


@contextmanager
def keeper(environment: Mapping[str, str], modules: tuple[str, ...]) -> Iterator[str]:
    """Run a keeper, which imports these modules while tests run already; its address, as SHARED hands it on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
        listener.bind("")  # The kernel draws one that is free.
        listener.listen(CONNECTIONS_MAX)
        address = listener.getsockname()[1:].decode()
        command = [sys.executable, "-m", "tests.e2e.copied_nodes", str(listener.fileno()), *modules]
        # It ends with its last connection, and this one lasts as long as this process.
        with (
            _connected(address),
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            ) as process,
        ):
            listener.close()
            try:
                yield address
            finally:
                process.kill()


def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"\0{address}")
    return connection


def copied(
    arguments: Sequence[str],
    log: int,
    environment: Mapping[str, str],
    *,
    network: str = "",
    modules: tuple[str, ...] = MODULES,
) -> Copy | None:
    """`python -m` with these arguments, its output in `log`; None where no copy could be what a start would be.

    `network`: the namespace of `ip netns` that it runs in, where it is not ours. `modules`: that it has imported.
    """
    unusual = environment.keys() - {"PYTHONUNBUFFERED"}
    if modules not in _KEEPERS or any(name.startswith(READ_AT_START) for name in unusual):
        return None
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        asked = json.dumps({"arguments": list(arguments), "environment": dict(environment), "network": network})
        socket.send_fds(_KEEPERS[modules], [asked.encode()], [its.fileno(), log])
    return Copy(ours)


def keep(listener: socket.socket, modules: Iterable[str]) -> list[str]:
    """In the keeper, until it is killed. In a copy: return its arguments, to run in an interpreter that then ends."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    connections = [listener, listener.accept()[0]]
    while connections != [listener]:
        ready = select.select(connections, [], [])[0][0]
        if ready is listener:
            connections.append(listener.accept()[0])
            continue
        asked, passed, _, _ = socket.recv_fds(ready, REQUEST_BYTES_MAX, 2)
        if not passed:  # Its tests have ended.
            ready.close()
            connections.remove(ready)
        elif (arguments := _copy(asked, passed, connections)) is not None:
            return arguments
    raise SystemExit


def _copy(asked: bytes, passed: Sequence[int], connections: Iterable[socket.socket]) -> list[str] | None:
    """Copy this process; in the copy, its arguments."""
    report_fd, log = passed
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # Watchers that have ended.
            pass
    if os.fork() == 0:
        for connection in connections:
            connection.close()
        with socket.socket(fileno=report_fd) as report:
            if (pid := os.fork()) != 0:
                os.close(log)
                _watch(pid, report)
        return _become(json.loads(asked), log)
    os.close(report_fd)
    os.close(log)
    return None


def _watch(pid: int, report: socket.socket) -> None:
    """Report its pid and its exit code, and leave."""
    report.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # The test has ended without it.
        report.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(asked: dict[str, Any], log: int) -> list[str]:
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    if asked["network"]:
        _enter(asked["network"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    return list(asked["arguments"])


def _enter(network: str) -> None:
    with (NETWORKS / network).open() as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"no way into the network {network}")


if __name__ == "__main__":
    sys.argv = keep(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
