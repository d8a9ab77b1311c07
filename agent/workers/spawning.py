"""A worker's process: how it is started beside its node, and how its end is seen to.

Called by `agent.workers.crew`. The one rule: the process has the two ends that join it with its node, its
journal, the node's streams for its log, and no other descriptor.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent.workers.feed import pair as feed_pair
from agent.workers.passage import pair as passage_pair

PROGRAM = "from agent.workers.process import main; main()"
# What they say is the node's to decide; a terminal, and who signals a whole group, sends them to all processes.
LEFT_TO_THE_NODE: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# A worker whose feed has ended ends at once, unless it hangs.
_END_WITHIN_S: Final = 2.0


async def started(journal: int) -> tuple[asyncio.subprocess.Process, socket.socket, socket.socket]:
    """Start one; returns it with this side's ends of its feed and its passage. Raises `OSError`.

    `journal`: the descriptor of its journal, which stays the caller's.
    """
    (feed, its_feed), (passage, its_passage) = feed_pair(), passage_pair()
    numbers = [its_feed.fileno(), its_passage.fileno(), journal]
    command = [sys.executable, "-c", PROGRAM, *map(str, numbers)]
    try:
        process = await _Deaf(
            asyncio.create_subprocess_exec(*command, pass_fds=numbers, stdin=asyncio.subprocess.DEVNULL, env=_environ())
        )
    except OSError:
        feed.close()
        passage.close()
        raise
    finally:
        its_feed.close()
        its_passage.close()
    return process, feed, passage


class _Deaf(Generator[Any, Any, asyncio.subprocess.Process]):
    """A start each of whose steps holds back the signals that are left to the node.

    A process inherits what is held back, so that none of them ends it before it ignores them (`listening_to_the_node`);
    between the steps, where others start processes as well, nothing is.
    """

    def __init__(self, start: Coroutine[Any, Any, asyncio.subprocess.Process]) -> None:
        self._start = start

    def __await__(self) -> Generator[Any, Any, asyncio.subprocess.Process]:
        return self

    def send(self, value: Any) -> Any:
        """As a generator's."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_NODE)
        try:
            return self._start.send(value)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def throw(self, *fault: Any) -> Any:
        """As a generator's. Nothing is started by a step that fails."""
        return self._start.throw(*fault)


def listening_to_the_node() -> None:
    """In the process that was started: ignore the signals, those that have been held back included."""
    for one in LEFT_TO_THE_NODE:
        signal.signal(one, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_NODE)


async def ended(process: asyncio.subprocess.Process) -> int:
    """Wait for the end of a worker whose feed has ended, which ends it; returns its exit code."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_WITHIN_S):
            return await process.wait()
    os.kill(process.pid, signal.SIGKILL)  # It is not reaped yet, so the number is still its own.
    return await process.wait()


def _environ() -> dict[str, str]:
    """The environment of this process, which has no secrets any more, and its path of imports.

    Not of the folder that it is started in, which may have an `agent` of its own.
    """
    path = os.pathsep.join(one or str(Path.cwd()) for one in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
