"""A token file that an operator rotates while we run."""

import os
from pathlib import Path

import pytest

from discovery import patient_look
from discovery.consul.environment import ConsulSettings, TokenSource, consul_settings
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def looks_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that looks may have no core for a tenth of a second, after which the token of before would count."""
    monkeypatch.setattr(patient_look, "LOOK_TIMEOUT_S", PATIENCE_S)


def test_a_fixed_token_is_given_as_it_is() -> None:
    source = TokenSource(ConsulSettings(token="fixed"))
    assert source.current() == "fixed"
    assert not source.rotates
    assert TokenSource(ConsulSettings()).current() is None


def test_the_file_beats_the_variable_and_a_rewrite_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    source = TokenSource(ConsulSettings(token="fixed", token_file=str(path)))
    assert source.rotates
    assert source.current() == "first"
    path.write_text("second-longer\n")
    assert source.current() == "second-longer"
    replacement = tmp_path / "new"
    replacement.write_text("third\n")
    replacement.replace(path)
    assert source.current() == "third"


def test_a_file_that_is_gone_empty_or_no_token_keeps_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("good")
    source = TokenSource(ConsulSettings(token_file=str(path)))
    assert source.current() == "good"
    for broken in (b"", b"two words", b"a\r\nX-Evil: 1", b"\xff\xfe"):
        path.write_bytes(broken)
        assert source.current() == "good"
    path.unlink()
    assert source.current() == "good"
    path.write_text("better")
    assert source.current() == "better"


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "token"
    settings = consul_settings({"CONSUL_HTTP_TOKEN_FILE": str(path)})
    source = TokenSource(settings)
    assert (source.current(), source.awaited_file) == (None, path)
    path.write_text("")
    assert source.awaited_file == path
    path.write_text("here\n")
    assert (source.awaited_file, source.current()) == (None, "here")
    path.unlink()
    assert (source.awaited_file, source.current()) == (None, "here")
    assert TokenSource(ConsulSettings()).awaited_file is None


async def test_a_pipe_in_its_place_is_not_waited_for_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    os.mkfifo(path)
    source = TokenSource(ConsulSettings(token_file=str(path)))
    assert source.current() is None
    refusal = await source.refusal(awaits_file=True)
    assert f"{path} cannot be read: it is a pipe and no ordinary file; put its content into a file there" in refusal
    path.unlink()
    path.write_text("good")
    assert (source.current(), await source.refusal(awaits_file=True)) == ("good", "")
    path.unlink()
    os.mkfifo(path)
    assert [source.current() for _ in range(3)] == ["good"] * 3
    said = [(one.message, getattr(one, "token_of_before", None)) for one in caplog.records]
    assert said == [("CONSUL_HTTP_TOKEN_FILE cannot be read", had_one) for had_one in (False, True)]
