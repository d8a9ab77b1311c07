"""`mesh-agent token`: the file that it writes, what it prints once, and what it refuses to touch."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from agent.cli.output import Exit
from agent.cli.parser import main
from agent.config.tokens_file import read_tokens_file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tokens.json"
    monkeypatch.setenv("MESH_TOKENS_FILE", str(path))
    return path


def made(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["token", "new", *words]) == Exit.OK
    return capsys.readouterr().out.strip()


def test_a_new_token_is_printed_once_and_its_hash_is_in_a_private_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--scope", "mcp", "--scope", "read", "--tools", "kit__*", "--tools", "!kit__drop", "--read-only")
    token = made(capsys, "ci", *flags, "--expires", "90d", "--calls-per-s", "5", "--concurrent-calls", "2")
    assert token.startswith("mesh_")
    assert len(token) >= 48
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (read,) = read_tokens_file(file)
    assert read.digests == (hashlib.sha256(token.encode()).digest(),)
    grant = read.grant
    assert (sorted(grant.scopes), grant.reach.tools, grant.reach.read_only) == (
        ["mcp", "read"],
        ("kit__*", "!kit__drop"),
        True,
    )
    assert (grant.calls_per_s, grant.concurrent_calls) == (5, 2)
    assert main(["token", "ls"]) == Exit.OK
    listed = capsys.readouterr().out
    assert "ci" in listed
    assert token not in listed
    assert main(["token", "ls", "--json"]) == Exit.OK
    row = json.loads(capsys.readouterr().out)["tokens"][0]
    assert (row["name"], row["expired"]) == ("ci", False)


def test_a_rotation_keeps_two_tokens_of_a_name_and_drops_the_older(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_tokens = [made(capsys, "ci"), made(capsys, "ci", "--rotate"), made(capsys, "ci", "--rotate")]
    digests = [hashlib.sha256(token.encode()).digest() for token in made_tokens]
    (read,) = read_tokens_file(file)
    assert read.digests == (digests[2], digests[1])


def test_a_revoked_token_is_gone_and_the_others_stay(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys, "ci")
    made(capsys, "ops", "--scope", "admin")
    assert main(["token", "revoke", "ci"]) == Exit.OK
    assert [one.grant.name for one in read_tokens_file(file)] == ["ops"]
    assert main(["token", "revoke", "ci"]) == Exit.USAGE
    assert main(["token", "new", "ops"]) == Exit.USAGE
    assert main(["token", "new", "none", "--rotate"]) == Exit.USAGE


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("a b",), Exit.USAGE),
        (("ci", "--scope", "root"), Exit.CONFIG),
        (("ci", "--expires", "soon"), Exit.USAGE),
        (("ci", "--calls-per-s", "0"), Exit.CONFIG),
        (("ci", "--tools", "a b"), Exit.CONFIG),
        (("ci", "--scope", "peer", "--read-only"), Exit.CONFIG),
    ],
)
def test_what_a_node_would_refuse_is_not_written(
    file: Path, words: tuple[str, ...], code: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "new", *words]) == code
    assert not file.exists()
    assert "mesh_" not in capsys.readouterr().out


def test_a_file_with_comments_or_a_fault_is_left_as_it_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, words in (
        ('{"tokens": {}} // ours', "has comments"),
        ('{"tokens": {"a": {}}}', "tokens.a.sha256"),
        ("{", "is not JSON"),
    ):
        file.write_text(text)
        assert main(["token", "new", "ci"]) == Exit.CONFIG
        assert words in capsys.readouterr().err
        assert file.read_text() == text


def test_without_a_tokens_file_the_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MESH_TOKENS_FILE", raising=False)
    assert main(["token", "ls"]) == Exit.CONFIG
    assert "MESH_TOKENS_FILE" in capsys.readouterr().err
