"""The file of the operator's maintenance: kept, removed at its end, and never in the way of a start."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from agent.state import maintenance as module
from agent.state.maintenance import FILE_NAME, SavedMaintenance


async def test_a_reason_is_read_back_by_the_next_start_and_is_gone_after_the_end(tmp_path: Path) -> None:
    assert await SavedMaintenance(tmp_path).load() is None
    await SavedMaintenance(tmp_path).save("neue Platten, 第 7 架\n")
    assert await SavedMaintenance(tmp_path).load() == "neue Platten, 第 7 架\n"
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    await SavedMaintenance(tmp_path).save(None)
    assert not (tmp_path / FILE_NAME).exists()
    assert await SavedMaintenance(tmp_path).save(None)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema":2,"reason":"x"}', b'{"schema":1,"reason":null}'])
async def test_a_damaged_file_is_named_and_put_aside_and_is_no_maintenance(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    record = SavedMaintenance(tmp_path)
    assert await record.load() is None
    assert "the maintenance of before is not known" in caplog.text
    aside = f"{FILE_NAME}.unreadable"
    assert (tmp_path / aside).read_bytes() == content
    assert not (tmp_path / FILE_NAME).exists()
    assert record.fault.startswith(f"{tmp_path / FILE_NAME}: whether this node was in maintenance before is not known")
    assert aside in record.fault
    await record.save("x")
    assert record.fault == ""
    assert await SavedMaintenance(tmp_path).load() == "x"


async def test_a_disk_that_refuses_is_named_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A folder in the place of the draft: refused to every user.
    (tmp_path / f"{FILE_NAME}.tmp").mkdir()
    record = SavedMaintenance(tmp_path)
    for _ in range(3):
        assert not await record.save("x")
    told = [one for one in caplog.records if one.levelname == "WARNING"]
    assert [one.message for one in told] == ["the operator's maintenance cannot be kept on disk"]
    assert record.fault.endswith("a restart ends it")
    (tmp_path / f"{FILE_NAME}.tmp").rmdir()
    await record.save("x")
    assert record.fault == ""
    assert await SavedMaintenance(tmp_path).load() == "x"


async def test_an_end_that_the_disk_refuses_says_what_a_restart_would_do(tmp_path: Path) -> None:
    heard = list[str]()
    record = SavedMaintenance(tmp_path, heard.append)
    await record.save("x")
    (tmp_path / FILE_NAME).unlink()
    # A folder in its place is removed by no user.
    (tmp_path / FILE_NAME).mkdir()
    assert not await record.save(None)
    assert record.fault.endswith("a restart brings it back")
    assert heard == ["x", ""]


async def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    record = SavedMaintenance(tmp_path)
    with pytest.raises(OSError, match="it is a pipe"):
        await record.load()
    assert "it is a pipe" in record.fault


async def test_a_file_that_the_system_refuses_to_read_stays_and_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await SavedMaintenance(tmp_path).save("x")
    (tmp_path / FILE_NAME).rename(tmp_path / "whole")
    (tmp_path / FILE_NAME).mkdir()
    heard = list[str]()
    record = SavedMaintenance(tmp_path, heard.append)
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            await record.load()
    assert record.fault.endswith("the file stays as it is and is read again")
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    assert (tmp_path / FILE_NAME).is_dir()
    (tmp_path / FILE_NAME).rmdir()
    (tmp_path / "whole").rename(tmp_path / FILE_NAME)
    assert await record.load() == "x"
    assert (record.fault, heard) == ("", ["x"])


async def test_a_write_that_was_given_up_does_not_come_after_the_word_that_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module.write_durably
    writing, may_write, written = threading.Event(), threading.Event(), threading.Event()

    def slow(path: Path, content: bytes) -> None:
        writing.set()
        assert may_write.wait(10)
        write(path, content)
        written.set()

    monkeypatch.setattr(module, "write_durably", slow)
    record = SavedMaintenance(tmp_path)
    first = asyncio.create_task(record.save("x"))
    await asyncio.to_thread(writing.wait, 10)
    first.cancel()
    await asyncio.wait([first])
    end = asyncio.create_task(record.save(None))
    await asyncio.wait([end], timeout=0.05)
    may_write.set()
    assert await end
    assert await asyncio.to_thread(written.wait, 10)
    assert await SavedMaintenance(tmp_path).load() is None
