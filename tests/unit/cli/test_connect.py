"""`mesh-agent connect`: what it prints, what it writes, and what it leaves alone."""

import json
from pathlib import Path

import pytest

from agent.cli.parser import main

TOKEN = "canary-of-the-token-0123456789"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MESH_URL", "MESH_TOKEN", "MESH_TOKEN_FILE", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "CODEX_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_a_word_nothing_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "cursor", "--url", "http://127.0.0.1:8001"]) == 0
    assert '"url": "http://127.0.0.1:8001/mcp"' in capsys.readouterr().out
    assert list(home.iterdir()) == []


def test_what_is_in_the_file_stays_as_it_was_and_a_copy_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    before = '{\n  // mine\n  "mcpServers": {"other": {"command": "x"}}\n}\n'
    path.write_text(before)
    path.chmod(0o600)
    assert main(["connect", "cursor", "--write", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert Path(answer["backup"]).read_text() == before
    changed = path.read_text()
    assert "// mine" in changed
    assert '"other": {"command": "x"}' in changed
    assert '"mesh"' in changed
    assert path.stat().st_mode & 0o777 == 0o600
    assert main(["connect", "cursor", "--write", "--name", "second"]) == 0
    assert len(list(path.parent.iterdir())) == 3


def test_an_entry_that_is_there_already_is_not_written_over(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".gemini" / "settings.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {"mesh": {"command": "x"}}}')
    assert main(["connect", "gemini", "--write"]) == 2
    assert "has a server 'mesh' already" in capsys.readouterr().err
    assert [one.name for one in path.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "program", ["claude-desktop", "claude-code", "cursor", "vscode", "windsurf", "gemini", "codex"]
)
def test_the_token_is_in_no_file_that_is_written(home: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", program, "--write", "--token", TOKEN]) == 0
    [path] = [one for one in home.rglob("*") if one.is_file()]
    assert TOKEN not in path.read_text() + capsys.readouterr().out
    assert "MESH_" in path.read_text()


def test_a_folder_in_the_place_of_the_file_is_one_line_on_stderr(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".codex" / "config.toml").mkdir(parents=True)
    assert main(["connect", "codex", "--write"]) == 2
    assert "config.toml" in capsys.readouterr().err
