"""Logins on disk: private, for the URL that they were made for, and no reason for a node not to start."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from agent.state import logins
from agent.state.logins import FILE_NAME, Login, LoginStore
from tests.hung_folder import hung_folder
from tests.waiting import eventually

URL = "https://crm.example/mcp"
LOGIN = Login(URL, {"access_token": "canary-a", "refresh_token": "canary-r"}, 12.5, {"client_id": "c"})


async def test_a_login_is_there_after_a_restart_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    await LoginStore(tmp_path).put("crm", LOGIN)
    assert LoginStore(tmp_path).get("crm", URL) == LOGIN
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert "canary" not in repr(LOGIN)


async def test_an_entry_that_leads_elsewhere_gets_no_tokens_of_its_former_url(tmp_path: Path) -> None:
    store = LoginStore(tmp_path)
    await store.put("crm", LOGIN)
    assert store.get("crm", "https://evil.example/mcp") is None
    assert store.get("other", URL) is None


async def test_a_forgotten_login_is_gone_from_the_disk(tmp_path: Path) -> None:
    store = LoginStore(tmp_path)
    await store.put("crm", LOGIN)
    await store.put("crm", None)
    await store.put("never", None)
    assert store.get("crm", URL) is None
    assert "canary" not in (tmp_path / FILE_NAME).read_text()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"schema": 2, "logins": {}}', '{"schema": 1, "logins": {"crm": {"tokens": "canary"}}}'],
)
async def test_a_damaged_file_is_put_aside_and_not_repeated(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    store = LoginStore(tmp_path)
    assert store.get("crm", URL) is None
    assert (tmp_path / f"{FILE_NAME}.unreadable").read_text() == content
    assert "canary" not in caplog.text
    await store.put("crm", LOGIN)
    assert LoginStore(tmp_path).get("crm", URL) == LOGIN


OTHER = Login("https://other.example/mcp", {"access_token": "canary-b"}, None, {})


@pytest.fixture
async def whole(tmp_path: Path) -> Path:
    """The file of a login, where the system refuses to read it."""
    await LoginStore(tmp_path).put("crm", LOGIN)
    whole = (tmp_path / FILE_NAME).rename(tmp_path / "whole")
    (tmp_path / FILE_NAME).mkdir()
    return whole


def give_back(whole: Path) -> None:
    """Let it be read again."""
    there = whole.with_name(FILE_NAME)
    there.unlink() if there.is_symlink() else there.rmdir()
    whole.rename(whole.with_name(FILE_NAME))


async def test_a_file_that_the_system_refuses_to_read_is_not_written_over_until_it_can_be_read(
    whole: Path, tmp_path: Path
) -> None:
    store = LoginStore(tmp_path)
    assert store.get("crm", URL) is None
    with pytest.raises(OSError, match="cannot be read, and is not written over: it is a folder"):
        await store.put("other", OTHER)
    with pytest.raises(OSError, match="cannot be read"):
        await store.put("crm", None)
    assert store.get("other", OTHER.url) == OTHER
    give_back(whole)
    await store.put("other", OTHER)
    assert store.get("crm", URL) == LOGIN
    assert LoginStore(tmp_path).get("crm", URL) == LOGIN
    assert LoginStore(tmp_path).get("other", OTHER.url) == OTHER


async def test_a_login_is_forgotten_with_the_file_that_could_not_be_read_when_it_was_made(
    whole: Path, tmp_path: Path
) -> None:
    store = LoginStore(tmp_path)
    give_back(whole)
    await store.put("crm", None)
    assert store.get("crm", URL) is None
    assert LoginStore(tmp_path).get("crm", URL) is None


async def test_it_is_read_again_by_itself_and_never_by_a_request(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "AGAIN_AFTER_S", 0.01)
    store = LoginStore(tmp_path)
    give_back(whole)
    assert store.get("crm", URL) is None
    async with asyncio.timeout(10):
        await store.keep_reading()
    assert store.get("crm", URL) == LOGIN


async def test_a_login_that_is_forgotten_while_the_file_is_read_again_does_not_come_back(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "AGAIN_AFTER_S", 0.01)
    store = LoginStore(tmp_path)

    async def wait_for_the_disk(count: int) -> bool:
        return len(store._disk._waiters or ()) == count

    async with store._disk:
        reading = asyncio.ensure_future(store.keep_reading())
        await eventually(partial(wait_for_the_disk, 1))
        forgetting = asyncio.ensure_future(store.put("crm", None))
        await eventually(partial(wait_for_the_disk, 2))
        give_back(whole)
    await asyncio.wait_for(asyncio.gather(reading, forgetting), 10)
    assert store.get("crm", URL) is None
    assert LoginStore(tmp_path).get("crm", URL) is None


async def test_a_file_system_that_hangs_while_it_is_read_again_holds_up_no_request(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "AGAIN_AFTER_S", 0.01)
    store, path = LoginStore(tmp_path), whole.with_name(FILE_NAME)
    path.rmdir()
    with hung_folder(tmp_path / "hung") as hung:
        path.symlink_to(hung.path / FILE_NAME)
        reading = asyncio.ensure_future(store.keep_reading())

        async def hangs() -> bool:
            return store._disk.locked()

        await eventually(hangs)
        assert store.get("crm", URL) is None
        assert store._disk.locked()
    give_back(whole)
    await asyncio.wait_for(reading, 10)
    assert store.get("crm", URL) == LOGIN
