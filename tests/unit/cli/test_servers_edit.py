"""`servers add` and `servers rm`: what is written, what is refused, and that no value is printed."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.output import Exit
from agent.cli.parser import main


def run(file: Path, *argv: str) -> int:
    try:
        return main(["servers", argv[0], "--servers-file", str(file), *argv[1:]])
    except SystemExit as exc:
        return int(str(exc.code))


def entries(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())["mcpServers"]
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "servers.json"


def test_a_command_and_a_url_are_added_to_a_file_that_is_made(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(file, "add", "files", "--env", "KEY=a=b", "--scope", "node", "--", "npx", "-y", "a-server", "--root") == 0
    )
    assert run(file, "add", "far", "https://example.com/mcp", "--header", "X-Key: a secret") == 0
    assert entries(file) == {
        "files": {
            "command": "npx",
            "args": ["-y", "a-server", "--root"],
            "env": {"KEY": "a=b"},
            "mesh": {"scope": "node"},
        },
        "far": {"url": "https://example.com/mcp", "headers": {"X-Key": "a secret"}},
    }
    out = capsys.readouterr().out
    assert out.splitlines() == [
        f"{name} added in {file}; a running node takes that up by itself" for name in ("files", "far")
    ]
    assert "secret" not in out
    assert not stat.S_IMODE(file.stat().st_mode) & 0o077


def test_an_entry_is_replaced_and_removed_and_what_else_is_there_stays(file: Path) -> None:
    file.write_text('{\n  // mine\n  "mcpServers": {\n    "a": {"command": "x"},\n    "b": {"command": "y"},\n  }\n}\n')
    assert run(file, "add", "a", "--", "z") == 2
    assert "// mine" in file.read_text()
    assert '"x"' in file.read_text()
    assert run(file, "add", "a", "--replace", "--", "z") == 0
    assert run(file, "rm", "b") == 0
    assert file.read_text() == ('{\n  // mine\n  "mcpServers": {\n    "a": {\n      "command": "z"\n    }\n  }\n}\n')


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("add", "a b", "--", "x"), 1, "NAME"),
        (("add", "a"), 1, "give a URL, or -- and a command"),
        (("add", "a", "http://h/mcp", "--", "x"), 1, "give a URL, or -- and a command"),
        (("add", "a", "http://h/mcp", "--env", "a=b"), 1, "a URL has no --env"),
        (("add", "a", "npx"), 2, "a would be left out"),
        (("add", "a", "http://h/mcp", "--header", "none"), 1, "--header has the form NAME: VALUE"),
        (("add", "a", "--env", "none", "--", "x"), 1, "--env has the form NAME=VALUE"),
        (("add", "a", "--header", "a: b", "--", "x"), 1, "--header is for a URL"),
        (("add", "a", "http://user:pass@h/mcp"), 2, "a would be left out"),
        (("rm", "c"), 2, "has no server c; it has kept"),
    ],
)
def test_what_cannot_be_done_says_why_and_writes_nothing(
    argv: tuple[str, ...], code: int, words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('{"mcpServers": {"kept": {"command": "x"}}}')
    assert run(file, *argv) == code
    assert words in capsys.readouterr().err
    assert file.read_text() == '{"mcpServers": {"kept": {"command": "x"}}}'


def test_without_a_servers_file_the_setting_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESH_SERVERS_FILE", raising=False)
    assert main(["servers", "rm", "a"]) == 2
    assert "MESH_SERVERS_FILE" in capsys.readouterr().err


def test_the_outcome_is_json_for_scripts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "add", "a", "--json", "--", "x") == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "servers_file": str(file),
        "name": "a",
        "outcome": "added",
    }


def test_a_file_that_says_something_twice_is_refused_in_one_line_and_stays(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"mcpServers": {"a": {"command": "true"}}, "mcpServers": {"b": {"command": "true"}}}'
    file.write_text(text)
    assert run(file, "add", "new", "--", "true") == Exit.CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert "stands twice" in line
    assert file.read_text() == text


def test_of_several_at_once_each_is_in_the_file(file: Path) -> None:
    names = ["one", "two", "three", "four"]
    command = [sys.executable, "-m", "agent", "servers", "add", "--servers-file", str(file)]
    processes = [subprocess.Popen([*command, name, "--", "true"], stdout=subprocess.DEVNULL) for name in names]
    assert [process.wait(60) for process in processes] == [0] * len(names)
    assert sorted(entries(file)) == sorted(names)
