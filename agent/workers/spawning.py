"""A worker's process: how it is started beside its node, and how its end is seen to.

Called by `agent.workers.crew`. The one rule: the process has the two ends that join it with its node, the node's
streams for its log, and no other descriptor.
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.workers.feed import pair as feed_pair
from agent.workers.passage import pair as passage_pair

PROGRAM = "from agent.workers.process import main; main()"
# A worker whose feed has ended ends at once, unless it hangs.
_END_WITHIN_S: Final = 2.0


async def started() -> tuple[asyncio.subprocess.Process, socket.socket, socket.socket]:
    """Start one; returns it with this side's ends of its feed and its passage. Raises `OSError`."""
    (feed, its_feed), (passage, its_passage) = feed_pair(), passage_pair()
    numbers = [its_feed.fileno(), its_passage.fileno()]
    command = [sys.executable, "-c", PROGRAM, *map(str, numbers)]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, pass_fds=numbers, stdin=asyncio.subprocess.DEVNULL, env=_environ()
        )
    except OSError:
        feed.close()
        passage.close()
        raise
    finally:
        its_feed.close()
        its_passage.close()
    return process, feed, passage


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
