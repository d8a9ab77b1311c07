"""Durable writes: the order of the four steps, the modes, and what is left after a failure."""

import asyncio
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigRefused
from agent.state import durable_file
from agent.state.durable_file import make_private_folder, to_its_end, write_durably


def test_the_data_is_synced_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        fsync(descriptor)
        steps.append(f"sync {kind}")

    def renamed(*names: Any) -> None:
        rename(*names)
        steps.append("rename")

    monkeypatch.setattr(durable_file.os, "fsync", synced)
    monkeypatch.setattr(durable_file.os, "replace", renamed)
    write_durably(tmp_path / "x.json", b"content")
    assert steps == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "x.json").read_bytes() == b"content"


def test_files_are_for_their_owner_alone_even_when_the_draft_of_a_crash_was_longer(tmp_path: Path) -> None:
    draft = tmp_path / "x.json.tmp"
    draft.write_bytes(b"half a file that a crash left behind")
    draft.chmod(0o644)
    write_durably(tmp_path / "x.json", b"new")
    assert (tmp_path / "x.json").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_durably(tmp_path / "x.json", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "x.json", b"new")
    assert (tmp_path / "x.json").read_bytes() == b"old"


def test_a_write_that_is_refused_leaves_no_draft_with_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_durably(tmp_path / "x.json", b"secret")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_draft_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "x.json.tmp").symlink_to(target)
    with pytest.raises(OSError, match=r"x\.json\.tmp is a link, and none is followed here"):
        write_durably(tmp_path / "x.json", b"new")
    assert target.read_bytes() == b"precious"


def test_a_private_folder_is_closed_to_others_but_what_is_above_it_is_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    open_folder = shared / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    make_private_folder(open_folder)
    make_private_folder(shared / "made" / "own")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (shared, open_folder, shared / "made", shared / "made/own")]
    assert modes == [0o755, 0o700, 0o700, 0o700]


def test_a_folder_that_cannot_be_made_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigRefused, match="set MESH_STATE_DIR"):
        make_private_folder(tmp_path / "file" / "state")


def test_no_file_of_the_state_folder_is_read_without_looking_what_it_is() -> None:
    """A pipe in the place of any would hold up a start for ever."""
    folder = Path(durable_file.__file__).parent
    texts = {path.name: path.read_text() for path in folder.glob("*.py")}
    assert {name for name, text in texts.items() if '.open("rb")' in text or ".read_bytes()" in text} == set()


async def test_a_write_whose_caller_is_cancelled_before_a_thread_was_free_is_written_all_the_same() -> None:
    free, done = threading.Event(), list[str]()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        asyncio.get_running_loop().run_in_executor(None, free.wait, 10)
        writing = asyncio.create_task(to_its_end(lambda: done.append("written"), lambda: done.append("shown")))
        await asyncio.wait([writing], timeout=0.05)
        writing.cancel()
        await asyncio.wait([writing], timeout=0.05)
        assert (writing.done(), done) == (False, [])
        free.set()
        await asyncio.wait([writing])
    assert (writing.cancelled(), done) == (True, ["written", "shown"])


async def test_a_write_that_fails_is_raised_and_shows_nothing() -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await to_its_end(refuse, lambda: pytest.fail("the disk has nothing"))
