"""Watching a file in loop time: every kind of change is seen, nothing else is, and a failing callback ends nothing."""

import asyncio
import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.state.durable_file import POLL_EVERY_S, Stamp, next_stamps, stamps, watch_files
from discovery.patient_look import look_apart
from tests.waiting import eventually


@asynccontextmanager
async def watching(path: Path, then: Callable[[], None] = lambda: None) -> AsyncIterator[list[float]]:
    seen: list[float] = []

    async def changed(_path: Path) -> None:
        seen.append(asyncio.get_running_loop().time())
        then()

    async def look(paths: Sequence[Path], known: Sequence[Stamp] | None) -> Sequence[Stamp]:
        if known is None:
            return next_stamps(paths, known, threading.Event())
        await asyncio.sleep(POLL_EVERY_S)  # A thread would not know of the loop's time.
        return stamps(paths, known)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch_files([path.with_name("other"), path], changed, look), name="watch")
        await asyncio.sleep(1)
        yield seen
        task.cancel()


@pytest.mark.looptime
async def test_an_untouched_file_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a")
    async with watching(path) as seen:
        await asyncio.sleep(60)
    assert seen == []


@pytest.mark.looptime
async def test_a_rewritten_a_replaced_and_a_vanished_file_are_reported_once_each(tmp_path: Path) -> None:
    path, other = tmp_path / "f", tmp_path / "g"
    path.write_text("a")
    other.write_text("a")
    async with watching(path) as seen:
        path.write_text("bb")
        await asyncio.sleep(2)
        assert len(seen) == 1
        os.replace(other, path)  # noqa: PTH105 - the rename is the point
        await asyncio.sleep(2)
        assert len(seen) == 2
        path.unlink()
        await asyncio.sleep(2)
        assert len(seen) == 3
        path.write_text("back")
        await asyncio.sleep(2)
        assert len(seen) == 4


@pytest.mark.looptime
async def test_a_link_that_points_elsewhere_is_reported(tmp_path: Path) -> None:
    """As in a mounted secret, where a link to a folder is swapped."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "current").symlink_to("one")
    async with watching(tmp_path / "current" / "token") as seen:
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "current")  # noqa: PTH105 - the rename is the point
        await asyncio.sleep(2)
    assert len(seen) == 1


@pytest.mark.looptime
async def test_a_change_that_cannot_be_read_for_want_of_descriptors_is_reported_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with watching(path) as seen:
        path.write_text("bb")
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            await asyncio.sleep(30)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert seen == []
        await asyncio.sleep(1)
    assert len(seen) == 1


@pytest.mark.looptime
async def test_a_callback_that_fails_does_not_end_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "f"

    def fail() -> None:
        raise ValueError("not today")

    async with watching(path, fail) as seen:
        path.write_text("a")
        await asyncio.sleep(2)
        path.write_text("bb")
        await asyncio.sleep(2)
    assert len(seen) == 2
    assert caplog.text.count("a changed file could not be taken") == 2


@pytest.mark.looptime
async def test_a_change_is_reported_within_half_a_second(tmp_path: Path) -> None:
    path = tmp_path / "f"
    async with watching(path) as seen:
        await asyncio.sleep(0.1)
        written_at_s = asyncio.get_running_loop().time()
        path.write_text("a")
        await asyncio.sleep(2)
    assert seen[0] - written_at_s <= 0.5


class Paused(threading.Event):
    """An event that counts how often it was waited for, and waits for a moment only."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == POLL_EVERY_S
        self.count += 1
        return super().wait(0.001)


def looking() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "look"}


async def test_a_node_at_rest_looks_from_one_thread_that_wakes_nothing_until_there_is_a_change(tmp_path: Path) -> None:
    path, over = tmp_path / "f", Paused()
    path.write_text("a")
    known, others = next_stamps([path], None, over), looking()
    look = asyncio.create_task(look_apart(partial(next_stamps, [path], known, over)), name="look")

    async def has_looked() -> bool:
        return over.count >= 50

    await eventually(has_looked)
    assert not look.done()
    assert len(looking() - others) == 1
    path.write_text("bb")
    changed = await look
    assert changed != known
    look = asyncio.create_task(look_apart(partial(next_stamps, [path], changed, over)), name="look")
    over.set()
    assert await look == changed
