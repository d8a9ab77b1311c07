"""Servers of other programs: where they are found, what is taken over, and what stays as it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.config.import_plan import Plan, plan_import
from agent.config.other_programs import (
    CLAUDE_CODE,
    CLAUDE_DESKTOP,
    CURSOR,
    GEMINI,
    UNKNOWN,
    VS_CODE,
    WINDSURF,
    Program,
    Source,
    entries_of,
    source_of,
    usual_places,
)
from agent.config.relaxed_json import parse_relaxed

HOME = Path("/home/me")
OWN = Path("/etc/mesh/servers.json")


def planned(
    text: str, program: Program, *, own: Mapping[str, Any] | None = None, project: str | None = None, **environ: str
) -> Plan:
    """The plan for one file of a program."""
    source = Source(program, HOME / "file.json", Path(project) if project else None)
    root, _ = parse_relaxed(text, source.path)
    return plan_import(entries_of(root, source), own or {}, OWN.parent, ("node-1",), environ)


def taken(plan: Plan) -> dict[str, Any]:
    return {one.name: one.entry for one in plan.taken}


def test_claude_desktop_file_is_taken_over_with_safe_names() -> None:
    text = """{"globalShortcut": "", "mcpServers": {
      "filesystem": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/me/Documents"]},
      "Brave Search": {"command": "npx", "args": ["-y", "brave"], "env": {"BRAVE_API_KEY": "canary"}}}}"""
    plan = planned(text, CLAUDE_DESKTOP)
    assert taken(plan) == {
        "filesystem": {
            "command": "npx",
            "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/me/Documents"],
        },
        "Brave-Search": {"command": "npx", "args": ["-y", "brave"], "env": {"BRAVE_API_KEY": "canary"}},
    }
    assert "canary" not in repr([(one.name, one.notes) for one in plan.taken])


def test_claude_code_file_gives_the_users_servers_and_those_of_each_project() -> None:
    text = """{"numStartups": 9, "mcpServers": {
      "github": {"type": "http", "url": "https://api.example/mcp", "headers": {"Authorization": "Bearer ${GH:-none}"}},
      "linear": {"type": "sse", "url": "https://mcp.example/sse"},
      "slow": {"type": "stdio", "command": "slow", "args": [], "env": {}, "timeout": 1000}},
     "projects": {
      "/home/me/a": {"history": [], "mcpServers": {"db": {"type": "stdio", "command": "node", "args": ["db.js"]}}},
      "/home/me/b": {"mcpServers": {"db": {"command": "node", "args": ["db.js"]}, "slow": {"command": "slow"}}},
      "/home/me/c": {"mcpServers": {}}}}"""
    plan = planned(text, CLAUDE_CODE)
    assert taken(plan) == {
        "github": {
            "type": "http",
            "url": "https://api.example/mcp",
            "headers": {"Authorization": "Bearer ${GH:-none}"},
        },
        "linear": {"type": "sse", "url": "https://mcp.example/sse"},
        "slow": {"command": "slow", "mesh": {"call_timeout_s": 1.0}},
        "db": {"command": "node", "args": ["db.js"], "cwd": "/home/me/a"},
        "db-claude-code": {"command": "node", "args": ["db.js"], "cwd": "/home/me/b"},
    }
    assert [(one.name, one.differs) for one in plan.known] == [("slow", ("cwd",))]
    assert not plan.left_out


def test_cursor_files_know_the_folder_that_is_open() -> None:
    text = """{"mcpServers": {"here": {"command": "${workspaceFolder}/run", "args": ["${env:KEY}"], "envFile": ""},
      "asks": {"command": "x", "args": ["${input:key}"]}}}"""
    plan = planned(text, CURSOR, project="/home/me/app", KEY="")
    assert taken(plan) == {"here": {"command": "/home/me/app/run", "args": ["${env:KEY}"], "cwd": "/home/me/app"}}
    assert plan.taken[0].notes == ("needs KEY in the node's environment, which is not set here",)
    assert "is asked for by VS Code" in plan.left_out[0].reasons[0]
    (left_out, _) = planned(text, CURSOR).left_out
    assert "${workspaceFolder} is the folder that an editor has open" in left_out.reasons[0]


@pytest.mark.parametrize(
    "text",
    [
        '{"servers": {"a": {"type": "http", "url": "https://h/mcp"}}, "inputs": [{"id": "k"}] /* typed in */}',
        '{"editor.tabSize": 2, "mcp": {"servers": {"a": {"type": "http", "url": "https://h/mcp"},}}}',
        '{"mcp.servers": {"a": {"type": "streamable-http", "url": "https://h/mcp"}}, // flat\n}',
    ],
)
def test_vs_code_files_and_settings_are_read_with_their_comments(text: str) -> None:
    assert taken(planned(text, VS_CODE)) == {"a": {"type": "http", "url": "https://h/mcp"}}


def test_windsurf_file_keeps_url_and_switch() -> None:
    text = """{"mcpServers": {"remote": {"serverUrl": "https://h/mcp", "headers": {"K": "${env:K}"}, "disabled": true,
      "disabledTools": ["x"]}}}"""
    plan = planned(text, WINDSURF)
    assert taken(plan) == {"remote": {"url": "https://h/mcp", "headers": {"K": "${env:K}"}, "disabled": True}}
    assert "all of them are offered" in plan.taken[0].notes[0]


def test_gemini_settings_put_in_bare_variables_milliseconds_and_excluded_servers() -> None:
    text = """{"mcp": {"excluded": ["off"]}, "mcpServers": {
      "web": {"httpUrl": "https://h/mcp", "headers": {"Authorization": "Bearer $TOKEN"},
        "timeout": 5000, "trust": true},
      "py": {"command": "python", "args": ["-m", "s"], "cwd": "./servers", "env": {"A": "${A}"}},
      "off": {"command": "x"}}}"""
    plan = planned(text, GEMINI, A="set")
    assert taken(plan) == {
        "web": {
            "type": "http",
            "url": "https://h/mcp",
            "headers": {"Authorization": "Bearer ${TOKEN}"},
            "mesh": {"call_timeout_s": 5.0},
        },
        "py": {"command": "python", "args": ["-m", "s"], "cwd": "/home/me/servers", "env": {"A": "${A}"}},
        "off": {"command": "x", "disabled": True},
    }
    assert plan.taken[0].notes == (
        "mcpServers.web.trust: is not known and is ignored",
        "needs TOKEN in the node's environment, which is not set here",
    )


def test_what_is_here_is_never_replaced_and_a_different_server_gets_another_name() -> None:
    own = {
        "same": {"command": "x", "args": ["1"], "env": {"K": "mine"}},
        "other": {"command": "x"},
        "My Tool": {"command": "tool"},
        "broken": 5,
    }
    text = json.dumps(
        {
            "mcpServers": {
                "same": {"command": "x", "args": ["1"], "env": {"K": "canary"}},
                "other": {"command": "y"},
                "My Tool": {"command": "tool"},
                "My@Tool": {"command": "third"},
                "broken": {"command": "z"},
                "node-1": {"command": "n"},
            }
        }
    )
    plan = planned(text, CURSOR, own=own)
    assert [(one.name, one.differs) for one in plan.known] == [("same", ("env",)), ("My Tool", ())]
    assert taken(plan) == {
        "other-cursor": {"command": "y"},
        "My-Tool-cursor": {"command": "third"},
        "broken-cursor": {"command": "z"},
        "node-1-cursor": {"command": "n"},
    }
    again = planned(text, CURSOR, own={**own, **taken(plan)})
    assert not again.taken
    assert len(again.known) == 6


def test_env_file_is_copied_and_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PRICE=${5}\nKEY='k'\n")
    source = Source(VS_CODE, tmp_path / "mcp.json")
    found = entries_of({"servers": {"a": {"command": "x", "envFile": ".env"}}}, source)
    (one,) = plan_import(found, {}, OWN.parent, (), {}).taken
    assert one.entry == {"command": "x", "env": {"PRICE": "$${5}", "KEY": "k"}}


ENTRY = {"new": {"command": "x", "args": ["ä"]}}


@pytest.mark.parametrize(
    ("platform", "environ", "desktop"),
    [
        ("darwin", {}, HOME / "Library/Application Support"),
        ("linux", {}, HOME / ".config"),
        ("linux", {"XDG_CONFIG_HOME": "/x"}, Path("/x")),
        ("win32", {"APPDATA": "/appdata"}, Path("/appdata")),
    ],
)
def test_usual_places_are_those_of_the_platform(platform: str, environ: dict[str, str], desktop: Path) -> None:
    places = {place.path: place.program for place in usual_places(platform, HOME, environ, Path("/p"))}
    assert places[desktop / "Claude/claude_desktop_config.json"] is CLAUDE_DESKTOP
    assert places[desktop / "Code/User/mcp.json"] is places[desktop / "Code/User/settings.json"] is VS_CODE
    assert places[HOME / ".claude.json"] is places[Path("/p/.mcp.json")] is CLAUDE_CODE
    assert places[HOME / ".cursor/mcp.json"] is places[Path("/p/.cursor/mcp.json")] is CURSOR
    assert places[HOME / ".codeium/windsurf/mcp_config.json"] is WINDSURF
    assert places[HOME / ".gemini/settings.json"] is GEMINI
    assert not [path for path in (p.path for p in usual_places(platform, HOME, environ, None)) if "/p/" in str(path)]


@pytest.mark.parametrize(
    ("path", "program", "project"),
    [
        ("/p/.mcp.json", CLAUDE_CODE, "/p"),
        ("/p/.vscode/mcp.json", VS_CODE, "/p"),
        ("/home/me/.cursor/mcp.json", CURSOR, None),
        ("/home/me/.gemini/settings.json", GEMINI, None),
        ("/home/me/.config/Code/User/settings.json", VS_CODE, None),
        ("/a/claude_desktop_config.json", CLAUDE_DESKTOP, None),
        ("/a/backup.claude.json", UNKNOWN, None),
    ],
)
def test_file_that_is_named_is_known_by_its_name(path: str, program: Program, project: str | None) -> None:
    assert source_of(Path(path), HOME) == Source(program, Path(path), Path(project) if project else None)
