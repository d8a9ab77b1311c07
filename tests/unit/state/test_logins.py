"""Logins on disk: private, for the URL that they were made for, and no reason for a node not to start."""

from pathlib import Path

import pytest

from agent.state import logins
from agent.state.logins import FILE_NAME, Login, LoginStore

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


async def test_a_file_that_the_system_refuses_to_read_is_read_again_and_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "AGAIN_AFTER_S", 0.0)
    await LoginStore(tmp_path).put("crm", LOGIN)
    (tmp_path / FILE_NAME).rename(tmp_path / "whole")
    (tmp_path / FILE_NAME).mkdir()
    store = LoginStore(tmp_path)
    assert store.get("crm", URL) is None
    other = Login("https://other.example/mcp", {"access_token": "canary-b"}, None, {})
    with pytest.raises(OSError, match="cannot be read, and is not written over: it is a folder"):
        await store.put("other", other)
    with pytest.raises(OSError, match="cannot be read"):
        await store.put("crm", None)
    assert store.get("other", other.url) == other
    (tmp_path / FILE_NAME).rmdir()
    (tmp_path / "whole").rename(tmp_path / FILE_NAME)
    assert store.get("crm", URL) == LOGIN
    await store.put("other", other)
    assert LoginStore(tmp_path).get("crm", URL) == LOGIN
    assert LoginStore(tmp_path).get("other", other.url) == other
