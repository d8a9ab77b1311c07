"""One entry of a servers file: what cannot be meant together."""

import json
from pathlib import Path

import pytest

from agent.config.server_entry import Surroundings, read_entry
from agent.config.servers_file import check_servers
from agent.config.variables import untouched
from agent.config.written_entry import as_entry
from agent.model import ServerScope

AROUND = Surroundings(Path("/etc"), untouched, "/root")


@pytest.mark.parametrize(
    ("mesh", "fault"),
    [
        ({"sessions": "own", "protocol": "2026-07-28"}, "sessions: cannot be own where protocol is 2026-07-28"),
        ({"sessions": "own", "protocol": "2025-11-25"}, None),
        ({"sessions": "shared", "protocol": "2026-07-28"}, None),
    ],
)
def test_sessions_for_all_are_refused_of_a_version_without_any(mesh: dict[str, str], fault: str | None) -> None:
    text = json.dumps({"mcpServers": {"files": {"command": "a", "mesh": mesh}}})
    left_out = [reason for one in check_servers(text, Path("/etc/servers.json"), {}).left_out for reason in one.reasons]
    assert [fault in reason for reason in left_out if fault] == ([True] if fault else [])
    assert bool(left_out) == (fault is not None)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"command": "a", "mesh": {"user": "nobody"}}, None),
        ({"command": "a", "mesh": {"user": "1001"}}, None),
        ({"command": "a", "mesh": {"user": 1001}}, "user: must be the name or number of a user, in quotes"),
        ({"command": "a", "mesh": {"user": "root; id"}}, "user: must be the name or number of a user, in quotes"),
        ({"url": "http://127.0.0.1:1/mcp", "mesh": {"user": "nobody"}}, "user: is for a command"),
        ({"command": "a", "mesh": {"cgroup": True}}, None),
        ({"command": "a", "mesh": {"cgroup": "yes"}}, "cgroup: must be true or false"),
        ({"url": "http://127.0.0.1:1/mcp", "mesh": {"cgroup": True}}, "cgroup: is for a command"),
    ],
)
def test_a_user_and_a_control_group_are_for_a_command_alone(entry: dict[str, object], fault: str | None) -> None:
    file = check_servers(json.dumps({"mcpServers": {"files": entry}}), Path("/etc/servers.json"), {})
    left_out = [reason for one in file.left_out for reason in one.reasons]
    assert [fault in reason for reason in left_out if fault] == ([True] if fault else [])
    for spec in file.servers:
        assert read_entry("files", as_entry(spec), ("mcpServers", "files"), AROUND).spec == spec


def test_a_default_scope_is_that_of_entries_that_name_none() -> None:
    text = json.dumps({"mcpServers": {"a": {"command": "x"}, "b": {"command": "x", "mesh": {"scope": "node"}}}})
    file = check_servers(text, Path("/etc/servers.json"), {}, ServerScope.SERVICE)
    assert [spec.scope for spec in file.servers] == [ServerScope.SERVICE, ServerScope.NODE]
