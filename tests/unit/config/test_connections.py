"""What other programs write to use a node: where, in which words, and never a token."""

import json
import tomllib
from pathlib import Path

import pytest

from agent.config.connections import CODEX, PROGRAMS, connection_of, toml_entry, with_toml_entry
from agent.errors import ConfigRefused

HOME = Path("/home/user")
URL = "http://127.0.0.1:8000/mcp"
FILE = Path("config.toml")


@pytest.mark.parametrize("short", sorted(PROGRAMS))
@pytest.mark.parametrize("wants_token", [False, True])
def test_an_entry_names_the_url_and_where_its_token_comes_from(short: str, wants_token: bool) -> None:
    made = connection_of(PROGRAMS[short], URL, wants_token=wants_token, platform="linux", home=HOME, environ={})
    text = toml_entry("mesh", URL, wants_token=wants_token) if made.entry is None else json.dumps(made.entry)
    assert URL in text
    assert ("MESH_" in text) == wants_token
    assert made.path.is_relative_to(HOME)


def test_folders_are_where_the_environment_and_the_system_have_them() -> None:
    desktop = PROGRAMS["claude-desktop"]
    mac = connection_of(desktop, URL, wants_token=False, platform="darwin", home=HOME, environ={})
    assert mac.path == HOME / "Library/Application Support/Claude/claude_desktop_config.json"
    moved = connection_of(CODEX, URL, wants_token=False, platform="linux", home=HOME, environ={"CODEX_HOME": "/c"})
    assert moved.path == Path("/c/config.toml")


def test_a_table_is_added_behind_what_is_there_and_nothing_else_changes() -> None:
    text = '# mine\nmodel = "o3"\n\n[mcp_servers.other]\ncommand = "x"'
    changed = with_toml_entry(text, "mesh", URL, FILE, wants_token=True)
    assert changed.startswith(text)
    added = {"url": URL, "bearer_token_env_var": "MESH_TOKEN"}
    assert tomllib.loads(changed)["mcp_servers"] == {"other": {"command": "x"}, "mesh": added}
    assert tomllib.loads(with_toml_entry("", "mesh", URL, FILE, wants_token=False)) == {
        "mcp_servers": {"mesh": {"url": URL}}
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[mcp_servers.mesh]\n", "has a server 'mesh' already"),
        ("mcp_servers = {}\n", "written in one line"),
        ("= nothing", "is no TOML"),
    ],
)
def test_a_file_that_takes_no_further_table_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ConfigRefused, match=why):
        with_toml_entry(text, "mesh", URL, FILE, wants_token=False)
