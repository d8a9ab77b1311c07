"""One entry of a servers file: what cannot be meant together."""

import json
from pathlib import Path

import pytest

from agent.config.servers_file import check_servers


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
