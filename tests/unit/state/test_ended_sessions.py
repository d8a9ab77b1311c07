"""IDs of ended sessions: kept through a restart and until they expire, bounded, and never a reason to fail."""

import logging
import time
from pathlib import Path

import pytest

from agent.state import ended_sessions
from agent.state.ended_sessions import FILE_NAME, EndedSessions

# Later than the end of any run of the tests, whose workers read this at its beginning.
LATER_S = int(time.time()) + 24 * 3600


async def test_an_ended_session_is_known_after_a_restart_until_it_expires(tmp_path: Path) -> None:
    ended = EndedSessions(tmp_path)
    await ended.add("mesh1-lasting", LATER_S)
    await ended.add("mesh1-expired", int(time.time()) - 1)
    assert "mesh1-lasting" in ended
    again = EndedSessions(tmp_path)
    assert ("mesh1-lasting" in again, "mesh1-expired" in again, "mesh1-other" in again) == (True, False, False)
    assert "mesh1" not in (tmp_path / FILE_NAME).read_text(), "an ID can be used, so none is written"
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


async def test_of_too_many_ended_sessions_the_oldest_is_forgotten_and_the_file_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended_sessions, "ENDED_MAX", 3)
    monkeypatch.setattr(ended_sessions, "LINES_MAX", 6)
    ended = EndedSessions(tmp_path)
    for number in range(20):
        await ended.add(f"mesh1-{number}", LATER_S)
        assert len((tmp_path / FILE_NAME).read_text().splitlines()) <= 6
    for table in (ended, EndedSessions(tmp_path)):
        assert [number for number in range(20) if f"mesh1-{number}" in table] == [17, 18, 19]


async def test_a_line_that_a_crash_cut_takes_no_other_one_away(tmp_path: Path) -> None:
    await EndedSessions(tmp_path).add("mesh1-one", LATER_S)
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(f"{LATER_S} 0123".encode())
    again = EndedSessions(tmp_path)
    await again.add("mesh1-two", LATER_S)
    once_more = EndedSessions(tmp_path)
    assert ("mesh1-one" in once_more, "mesh1-two" in once_more) == (True, True)


async def test_a_disk_that_refuses_is_logged_once_and_the_session_stays_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with caplog.at_level(logging.WARNING):
        ended = EndedSessions(tmp_path)
        await ended.add("mesh1-one", LATER_S)
        await ended.add("mesh1-two", LATER_S)
    assert "mesh1-one" in ended
    assert [record.message for record in caplog.records] == [
        "the ended sessions of before are ignored",
        "an ended session cannot be kept on disk",
    ]
