"""The command line's words and exit codes, in this process, without a node."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.cli.output import as_duration
from agent.cli.parser import main, parse
from agent.cli.tools import read_arguments
from agent.config.table import SETTINGS
from tests.ports import free_port


def run(*argv: str) -> int:
    """Run a command in this process; usage errors leave by SystemExit."""
    try:
        return main(argv)
    except SystemExit as exc:
        return int(str(exc.code))


def test_version_is_printed_for_people_and_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert capsys.readouterr().out == f"mesh-agent {__version__}\n"
    assert run("version", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "version": __version__}


@pytest.mark.parametrize("argv", [("tools", "call"), ("prompts", "get")])
def test_only_what_is_missing_is_asked_for(argv: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 1
    assert capsys.readouterr().err.endswith("the following arguments are required: NAME\n")


@pytest.mark.parametrize("command", ["version", "status", "tools ls", "tools call x", "servers reload"])
def test_quick_commands_import_neither_fastmcp_nor_the_node_nor_a_loop(command: str) -> None:
    heavy = ("fastmcp", "mcp", "pydantic", "agent.app.node", "asyncio", "aiohttp", "dataclasses")
    code = (
        "import sys\nfrom agent.cli.parser import main\n"
        f"try:\n    main({command.split()!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    environ = {"MESH_URL": f"http://127.0.0.1:{free_port()}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["run", "--nonsense"],
        ["run", "--por", "1"],
        ["peers"],
        ["peers", "add", "only-a-name"],
        ["peers", "add", "a", "http://h/mcp", "--auth-token", "visible-in-ps"],
        ["tools", "call", "x", "--args", "{"],
        ["tools", "call", "x", "--args", "[]"],
        ["tools", "call", "x", "--args", "[" * 100_000],
        ["tools", "call", "x", "deep=" + "[" * 100_000],
        ["tools", "call", "x", "no-pair"],
        ["tools", "call", "x", "--timeout", "1", "no-pair"],
        ["tools", "call", "x", "--timeout", "nan"],
        ["tools", "call", "x", "--timeout", "0"],
        ["tools", "call", "x", "a=1", "--nonsense", "b=2"],
        ["version", "a=1"],
        ["status", "--url", "ftp://x"],
        ["status", "--token", "a", "--token-file", "b"],
    ],
)
def test_usage_error_is_exit_code_one_with_a_line_on_stderr(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 1
    assert "mesh-agent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "error", "words"),
    [
        (["nonsense", "--json"], 1, "usage", "unknown command 'nonsense'"),
        (["--json", "status"], 1, "usage", "options stand after the command, as in `mesh-agent status"),
        (["version", "-o", "json", "a=1"], 1, "usage", "unrecognized arguments: a=1"),
        (["status", "--json", "--url", "ftp://x"], 1, "usage", "must start with http:// or https://"),
        (["config", "check", "--output=json", "--host", "0.0.0.0"], 2, "config_refused", "MESH_TOKEN"),
    ],
)
def test_failure_of_a_command_that_prints_json_is_one_line_of_it_with_a_code(
    argv: list[str], code: int, error: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == code
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["schema"], told["error"]["code"], told["error"]["exit"]) == (1, error, code)
    assert words in told["error"]["message"]


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["statu"], "status"),
        (["peers", "rmm"], "rm"),
        (["status", "--jsn"], "--json"),
        (["run", "--servers-fil", "x"], "--servers-file"),
    ],
)
def test_slip_in_a_command_or_flag_is_answered_with_the_nearest_one(
    argv: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 1
    assert f"did you mean {near}" in capsys.readouterr().err


@pytest.mark.parametrize(("alias", "name"), [("list", "ls"), ("remove", "rm")])
def test_commands_have_the_other_names_that_people_try(alias: str, name: str) -> None:
    more = ["x"] if name == "rm" else []
    assert parse(["peers", alias, *more]).command == parse(["peers", name, *more]).command


@pytest.mark.parametrize(("argv", "code"), [(["version"], 1), (["version", "--help"], 1), (["nonsense"], 1)])
def test_full_disk_ends_a_command_with_one_line_and_no_traceback(argv: list[str], code: int) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "agent", *argv]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("the output cannot be written: No space left" in done.stderr) == (argv[0] == "version")


def test_command_whose_output_is_closed_ends_as_if_it_were_read() -> None:
    command = f"{sys.executable} -m agent version --json >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_reader_that_has_gone_ends_a_command_as_if_it_had_read_all() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "agent", "version", "--json"]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("argv", "named"), [([], "status"), (["peers"], "add")])
def test_a_command_line_without_a_command_prints_which_there_are(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 1
    assert f"\n    {named} " in capsys.readouterr().err


def test_the_version_may_be_asked_for_as_a_flag_or_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == run("version") == 0
    assert capsys.readouterr().out == f"mesh-agent {__version__}\n" * 2


def test_secrets_cannot_be_given_as_flags_of_run() -> None:
    assert [setting.name for setting in SETTINGS if not setting.flag] == ["token", "peer_token"]
    assert run("run", "--token", "x") == 1


@pytest.mark.parametrize("command", [["run"], ["config", "show"], ["config", "check"]])
def test_refused_configuration_is_exit_code_two_and_names_the_fix(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--host", "0.0.0.0") == 2
    err = capsys.readouterr().err
    assert "MESH_TOKEN" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [["status"], ["peers", "ls"], ["tools", "ls"]])
def test_no_node_is_exit_code_four(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--url", f"http://127.0.0.1:{free_port()}") == 4
    assert "no node answers at 127.0.0.1" in capsys.readouterr().err


def test_config_show_tells_values_and_origins_and_masks_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_TOKEN", "canary-0123456789")
    assert run("config", "show", "--json", "--port", "9000") == 0
    out = capsys.readouterr().out
    rows = {row["name"]: (row["value"], row["origin"]) for row in json.loads(out)["settings"]}
    assert rows["port"] == (9000, "flag --port")
    assert rows["allow_anonymous"] == (False, "default")
    assert rows["call_timeout_s"] == (600.0, "default")
    assert rows["servers_file"] == rows["peers"] == (None, "default")
    assert rows["token"] == ("********", "environment MESH_TOKEN")
    assert "canary" not in out
    assert run("config", "show", "--metrics-public") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["metrics_public", "1", "flag", "--metrics-public"] in lines
    assert ["call_timeout_s", "600", "default"] in lines
    assert ["peers", "-", "default"] in lines


def test_config_check_reads_the_servers_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"mcpServers": {"files": {"command": sys.executable, "extra": 3}}}))
    assert run("config", "check", "--servers-file", str(path)) == 0
    out = capsys.readouterr().out
    assert f"server files: node, {sys.executable}" in out
    assert "warning:" in out
    assert run("config", "check", "--servers-file", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["servers"] == [{"name": "files", "scope": "node", "enabled": True}]
    assert run("config", "check", "--servers-file", str(path), "--node-name", "files") == 2
    assert "files: is the name of this node as well" in capsys.readouterr().err
    path.write_text('{"mcpServers": {"files": {}}}')
    assert run("config", "check", "--servers-file", str(path)) == 2
    assert f"{path}:1: mcpServers.files:" in capsys.readouterr().err


def test_config_check_names_every_fault_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script := tmp_path / "not-executable").write_text("#!/bin/sh\n")
    path = tmp_path / "servers.json"
    servers = {
        "good": {"command": sys.executable},
        "of its own PATH": {"command": "own-tool", "env": {"PATH": str(tmp_path / "bin")}},
        "missing": {"command": "no-such-command-here"},
        "line": {"command": f"{sys.executable} -m server"},
        "plain": {"command": str(script)},
        "folder": {"command": sys.executable, "cwd": "nowhere"},
        "off": {"command": "no-such-command-here", "disabled": True},
        "broken": {"command": "x", "args": "no"},
        "old": {"type": "grpc", "url": "http://h/sse", "disabled": True},
        "key": {"url": "https://h/mcp?key=canary"},
    }
    (tmp_path / "bin").mkdir()
    (tool := tmp_path / "bin" / "own-tool").write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    tool.chmod(0o755)
    path.write_text(json.dumps({"mcpServers": servers}))
    assert run("config", "check", "--servers-file", str(path), "--json") == 2
    out, python = capsys.readouterr().out, sys.executable
    told = json.loads(out)
    assert told["ok"] is False
    assert [fault.replace(str(tmp_path), "").partition(": ")[2] for fault in told["faults"]] == [
        "mcpServers.broken.args: must be an array of texts",
        "the command no-such-command-here was not found; install it or give its full path in the servers file",
        f"the command {python} was found, but not '{python} -m server': what follows it belongs into args",
        "the command /not-executable may not be executed; check its permissions (chmod +x)",
        f"the working directory /nowhere of {python} does not exist; create it or change cwd",
    ]
    assert [(entry["name"], entry["enabled"]) for entry in told["left_out"]] == [("broken", True), ("old", False)]
    assert run("config", "check", "--servers-file", str(path)) == 2
    shown = capsys.readouterr()
    assert shown.err.count("mesh-agent: ") == len(told["faults"])
    assert "server of-its-own-PATH: node, own-tool" in shown.out
    assert "canary" not in out + shown.out + shown.err
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("text", "pairs", "wanted"),
    [
        (None, [], {}),
        ('{"a": 1}', ["b=2"], {"a": 1, "b": 2}),
        (None, ["a=text", "b=true", 'c=[1,"x"]', "d=", "e=1=2", 'f="7"'], None),
    ],
)
def test_arguments_come_from_json_and_from_pairs(text: str | None, pairs: list[str], wanted: Any) -> None:
    expected = wanted if wanted is not None else {"a": "text", "b": True, "c": [1, "x"], "d": "", "e": "1=2", "f": "7"}
    assert read_arguments(text, pairs) == expected


def test_a_tools_arguments_may_stand_before_and_after_flags() -> None:
    args = parse(["tools", "call", "dice__roll", "sides=6", "--url", "http://h:1", "times=2", "--json", "seed=3"])
    assert (args.name, args.pairs) == ("dice__roll", ["sides=6", "times=2", "seed=3"])
    assert (args.url, args.json) == ("http://h:1", True)


def test_what_a_terminal_cannot_show_is_written_as_its_escape() -> None:
    code = "from agent.cli.parser import main\nmain(['version'])\nprint('na\\u00efve \\U0001f3b2')"
    environ = {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert done.stdout.splitlines()[-1] == "na\\xefve \\U0001f3b2", done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), ("x", None)],
)
def test_durations_are_written_as_people_read_them(seconds: Any, text: str | None) -> None:
    assert as_duration(seconds) == text
