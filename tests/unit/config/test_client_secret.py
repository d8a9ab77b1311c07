"""The secret of an OAuth client: read at each use, never from a pipe or a file without end, and never in the loop."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from agent.config import client_secret
from agent.config.client_secret import ClientSecret
from agent.config.oauth_entry import SECRET_BYTES_MAX
from tests.hung_folder import hung_folder
from tests.waiting import eventually


async def test_a_secret_is_that_of_the_entry_or_what_its_file_says_now(tmp_path: Path) -> None:
    assert await ClientSecret("of the entry", "").current() == "of the entry"
    path = tmp_path / "secret"
    secret = ClientSecret("", str(path))
    for text in ("first", "second"):
        path.write_text(f"{text}\n")
        assert await secret.current() == text
    assert "second" not in repr(secret)


async def test_a_pipe_a_device_and_a_file_without_end_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(4 << 30)
    (tmp_path / "long").write_text("x" * (SECRET_BYTES_MAX + 1))
    for path, why in (
        (tmp_path / "pipe", "it is a pipe"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path / "huge", "larger than"),
        (tmp_path / "long", "larger than"),
    ):
        with pytest.raises(OSError, match=why):
            await ClientSecret("", str(path)).current()


async def test_a_file_system_that_hangs_holds_up_neither_the_loop_nor_the_next_one_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_secret, "READ_TIMEOUT_S", 0.2)
    with hung_folder(tmp_path / "hung") as hung:
        secret = ClientSecret("", str(hung.path / "secret"))
        turns, turning, loop = 0, True, asyncio.get_running_loop()

        def turn() -> None:
            nonlocal turns
            turns += 1
            if turning:
                loop.call_soon(turn)  # No timer: a busy machine lets few of those be on time.

        turn()
        began_s = time.monotonic()
        for _ in range(3):
            with pytest.raises(OSError, match="its file system does not answer"):
                await secret.current()
        assert time.monotonic() - began_s >= 0.6
        turning = False
        assert turns > 10
        assert sum(thread.name == "look" for thread in threading.enumerate()) == 1

    async def is_over() -> bool:
        return secret._look is None

    await eventually(is_over)  # The file system has ended.
