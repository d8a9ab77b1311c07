"""A worker's process at its start: signals that come before it ignores them."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.workers.journal import Journal
from agent.workers.spawning import LEFT_TO_THE_NODE, ended, started
from tests.waiting import PATIENCE_S, eventually


@pytest.fixture
def journal() -> Iterator[Journal]:
    with closing(Journal()) as made:
        yield made


async def test_no_signal_that_is_left_to_the_node_ends_a_worker_that_is_starting(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An interpreter that ends waits for a core as well; a worker that hangs would be killed, which its code shows.
    monkeypatch.setattr("agent.workers.spawning._END_WITHIN_S", PATIENCE_S)
    process, feed, passage = await started(journal.fd)

    async def is_listening_to_the_node() -> bool:
        """Send them once more."""
        assert process.returncode is None
        for one in LEFT_TO_THE_NODE:
            process.send_signal(one)
        said = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
        told = dict(line.split(":\t") for line in said.splitlines())
        ignored, held_back = int(told["SigIgn"], 16), int(told["SigBlk"], 16)
        return all(ignored >> one - 1 & 1 and not held_back >> one - 1 & 1 for one in LEFT_TO_THE_NODE)

    await eventually(is_listening_to_the_node)
    feed.close()
    passage.close()
    assert await ended(process) == 0


async def test_nothing_is_held_back_in_the_node_once_a_worker_is_started(journal: Journal) -> None:
    process, feed, passage = await started(journal.fd)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(LEFT_TO_THE_NODE)
    feed.close()
    passage.close()
    await ended(process)
