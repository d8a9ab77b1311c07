"""Programs of others as processes: started in a group of their own, ended with all that they started.

The one rule: what is started here ends with its block.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.waiting import eventually

LISTENS_WITHIN_S = 120.0


def start(command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a program whose output goes into `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


async def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole group, and wait."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait, 10)


@asynccontextmanager
async def listening(
    command: list[str], environment: Mapping[str, str], folder: Path, log: Path, port: int
) -> AsyncGenerator[subprocess.Popen[bytes], None]:
    """A server that listens on `port` for as long as the block lasts."""
    process = start(command, environment, folder, log)
    try:
        await until_listening(process, port, log)
        yield process
    finally:
        await end(process)


async def until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until something accepts connections there. Raises RuntimeError when the process ends instead."""

    async def accepts() -> bool:
        if process.poll() is not None:
            last_words = " ".join(log.read_text(errors="replace").split())[-300:]
            raise RuntimeError(f"ended with {process.returncode}: {last_words}")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        return True

    await eventually(accepts, LISTENS_WITHIN_S)


def children(pid: int) -> list[int]:
    """The children of a process, as Linux lists them."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in listing.read_text().split()]
    return sorted(found)


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL to children of a node, as a crash would."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
