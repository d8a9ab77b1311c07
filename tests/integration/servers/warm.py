"""Python servers over stdio that start at once, because a process that has imported what they need is copied for them.

`python COMMAND module arguments` is a command like any other; without `warm_servers` (conftest.py) it imports for
itself, which takes two seconds of CPU each time. The keeper listens on a socket that is named after the process that
started it; a command of another process finds it by the variable ADDRESS. A command passes it its three streams and its
arguments, the copy runs the module, and the command ends with the copy's exit code. The one rule: a server has a
process and streams of its own, and ends when its input does.
"""

import asyncio
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = ("-m", "tests.integration.servers.warm")
# Names the keeper to a command that is started by a process which started none.
ADDRESS = "WARM_SERVERS_ADDRESS"
STREAMS = (0, 1, 2)
LOOK_EVERY_S = 1.0  # Whether the run that started it has ended without a goodbye.
ROOT = Path(__file__).parents[3]


def address_of(pid: int) -> str:
    """Where the keeper of this process listens."""
    return str(Path(tempfile.gettempdir()) / f"mcp-mesh-agent-warm-{os.getuid()}-{pid}")


@contextmanager
def warm_servers() -> Iterator[str]:
    """Let commands of this process's children start at once, by the keeper that its run shares or one of its own."""
    address = address_of(os.getpid())
    Path(address).unlink(missing_ok=True)
    if shared := os.environ.get(ADDRESS):
        Path(address).symlink_to(shared)
        try:
            yield address
        finally:
            Path(address).unlink(missing_ok=True)
        return
    command = [sys.executable, *COMMAND, "--keep", address]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        try:
            assert keeper.stdout.readline() == b"ready\n"
            yield address
        finally:
            keeper.kill()
            Path(address).unlink(missing_ok=True)


def keep(address: str) -> None:
    """Import, say so, and copy this process for each command that comes, until it is killed or left alone."""
    _import_what_servers_need()
    # The copies' collectors need not walk it, which would copy it page by page.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Only their commands wait for the copies.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(LOOK_EVERY_S)
        parent = os.getppid()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while os.getppid() == parent:
            try:
                command, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listener.close()
                _serve(command)
            command.close()


def _import_what_servers_need() -> None:
    """By a server that answers a client: FastMCP imports most of itself when it makes one and lists its first tool."""
    import mcp.server.stdio  # noqa: F401, PLC0415 - this is what it is for
    from fastmcp import Client, FastMCP  # noqa: PLC0415 - likewise

    server: FastMCP = FastMCP("warm")

    @server.tool
    def echo(text: str) -> str:
        """Say it again."""
        return text

    async def listed() -> None:
        async with Client(server, mode="legacy") as client:
            await client.list_tools()

    asyncio.run(listed())


def _serve(command: socket.socket) -> None:
    """In a copy: let a copy of its own run the module, and tell the command how that ended."""
    data, streams, _, _ = socket.recv_fds(command, 1 << 20, len(STREAMS))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        command.close()
        for stream, number in zip(streams, STREAMS, strict=True):
            os.dup2(stream, number)
            os.close(stream)
        asked = json.loads(data)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = asked["arguments"]
        os._exit(_run(sys.argv[0]))
    for stream in (*streams, *STREAMS):
        os.close(stream)
    _, status = os.waitpid(pid, 0)
    command.send(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
    os._exit(0)


def _run(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException as exc:  # noqa: BLE001 - shown as an interpreter shows it
        sys.excepthook(type(exc), exc, exc.__traceback__)
        return 1
    finally:
        sys.stdout.flush()
    return 0


def main(arguments: list[str]) -> int:
    """Be one server: by the keeper of the parent process, or by oneself where there is none."""
    with socket.socket(socket.AF_UNIX) as keeper:
        try:
            keeper.connect(os.environ.get(ADDRESS) or address_of(os.getppid()))
        except OSError:
            sys.argv = arguments
            return _run(arguments[0])
        asked = {"arguments": arguments, "cwd": str(Path.cwd()), "environment": dict(os.environ)}
        socket.send_fds(keeper, [json.dumps(asked).encode()], list(STREAMS))
        for stream in STREAMS:
            os.close(stream)
        ended = keeper.recv(1)
    return ended[0] if ended else 1


if __name__ == "__main__":
    if sys.argv[1] == "--keep":
        keep(sys.argv[2])
    else:
        raise SystemExit(main(sys.argv[1:]))
