"""Workers of a run as copies of one process that has imported all tests, which each worker would import for itself.

Importing them takes six seconds of CPU, twice as many where no bytecode of them is there yet. pytest-xdist starts a
worker as a command: here one that hands its streams to the keeper, which copies itself, and lasts as long as the copy
does. The one rule: where no copy can be had, the command becomes the worker that it stands for.
"""

import gc
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATTERN = "test_*.py"
STREAMS = (0, 1, 2)
REQUEST_BYTES_MAX = 1 << 18
CONNECTIONS_MAX = 64
# The workers have ended before; what took their processor time is known to the run when the keeper has waited for them.
ENDS_S = 10.0


@contextmanager
def copied_workers(folders: Sequence[Path], root: Path) -> Iterator[str]:
    """Run a keeper that imports the tests below these folders; yields a worker's command, as a spec's `python`."""
    listener, lasting = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    with lasting:
        with listener:
            listener.bind("")  # The kernel draws one that is free.
            listener.listen(CONNECTIONS_MAX)
            address = listener.getsockname()[1:].decode()
            lasting.connect(f"\0{address}")  # The first connection: the keeper ends with it.
            command = [sys.executable, "-m", __name__, "--keep", str(listener.fileno()), *map(str, folders)]
            keeper = subprocess.Popen(
                command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[listener.fileno()]
            )
        with keeper:
            try:
                # Without `site`: it does next to nothing, and each worker waits for it.
                yield shlex.join([sys.executable, "-S", "-P", __file__, address])
            finally:
                lasting.close()
                with suppress(subprocess.TimeoutExpired):
                    keeper.wait(ENDS_S)
                keeper.kill()


def keep(listener: socket.socket, folders: Sequence[str]) -> str:
    """In the keeper, until its run ends. In a copy: return the program that it is to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The run hears of it as well, and ends the workers.
    gc.disable()
    _import_tests(folders)
    gc.freeze()
    lasting = listener.accept()[0]
    while lasting not in (ready := select.select([listener, lasting], [], [])[0]):
        assert ready == [listener]
        command = listener.accept()[0]
        if os.fork() == 0:
            lasting.close()
            listener.close()
            return _become(command)
        command.close()
    listener.close()
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0):
            pass
    raise SystemExit


def _import_tests(folders: Sequence[str]) -> None:
    """As a run of pytest imports them: with their assertions written anew, after the conftest.py above them."""
    import pytest  # noqa: PLC0415 - a worker's command does without

    class ImportsInPlaceOfRun:
        @pytest.hookimpl(tryfirst=True)
        def pytest_cmdline_main(self, config: pytest.Config) -> int:
            files = [file for folder in config.args for file in sorted(Path(folder).rglob(PATTERN))]
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for file in files:
                    # One that cannot be imported, or warns, is left to the collection, which says why.
                    with suppress(Exception, pytest.skip.Exception):
                        importlib.import_module(".".join(file.relative_to(config.rootpath).with_suffix("").parts))
            return 0

    pytest.main([f"--rootdir={Path.cwd()}", *folders], plugins=[ImportsInPlaceOfRun()])


def _become(command: socket.socket) -> str:
    """In a copy: have the streams, place and environment of the command, which ends with this process."""
    asked, streams, _, _ = socket.recv_fds(command, REQUEST_BYTES_MAX, len(STREAMS))
    command.detach()
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    worker: dict[str, Any] = json.loads(asked)
    os.chdir(worker["folder"])
    os.environ.clear()
    os.environ.update(worker["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.import_module("tests.ports").begin_anew()
    gc.enable()
    return str(worker["program"])


def hand_over(address: str, options: Sequence[str]) -> None:
    """As the command of a worker, `options` being what follows `python` there: wait until its copy has ended."""
    asked = {"folder": str(Path.cwd()), "environment": dict(os.environ), "program": options[-1]}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
        try:
            keeper.connect(f"\0{address}")
            socket.send_fds(keeper, [json.dumps(asked).encode()], list(STREAMS))
        except OSError:
            os.execv(sys.executable, [sys.executable, *options])
        for stream in STREAMS:
            os.close(stream)
        keeper.recv(1)


if __name__ == "__main__":
    if sys.argv[1] != "--keep":
        hand_over(sys.argv[1], sys.argv[2:])
        raise SystemExit
    program = keep(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    sys.argv = ["-c"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(program, vars(sys.modules["__main__"]))
