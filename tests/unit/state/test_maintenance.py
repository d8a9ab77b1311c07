"""The file of the operator's maintenance: kept, removed at its end, and never in the way of a start."""

import os
from pathlib import Path

import pytest

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
async def test_a_damaged_file_is_named_and_is_no_maintenance(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert await SavedMaintenance(tmp_path).load() is None
    assert "the maintenance of before is not known" in caplog.text
    await SavedMaintenance(tmp_path).save("x")
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
    assert await record.load() is None
    (tmp_path / f"{FILE_NAME}.tmp").rmdir()
    await record.save("x")
    assert await record.load() == "x"


async def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    assert await SavedMaintenance(tmp_path).load() is None
