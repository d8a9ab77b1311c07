"""Edits of a servers file: the change that was ordered, and everything else as its owner wrote it."""

import json
from pathlib import Path

import pytest

from agent.config.relaxed_json import parse_relaxed
from agent.config.servers_edit import with_entries, without_entry
from agent.config.servers_file import check_servers
from agent.errors import ConfigRefused

OWN = Path("/etc/mesh/servers.json")
ENTRY = {"new": {"command": "x", "args": ["ä"]}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", json.dumps({"mcpServers": ENTRY}, indent=2, ensure_ascii=False)),
        (
            '{\n  // mine\n  "mcpServers": {\n    "a": {"command": "a"} // first\n  }\n}\n',
            '{\n  // mine\n  "mcpServers": {\n    "a": {"command": "a"}, // first\n    "new": {',
        ),
        ('{"servers": {"a": {"command": "a"},}, "inputs": []}', '{"servers": {"a": {"command": "a"},\n    "new": {'),
        (
            '{"mcpServers": {"a": {"command": "a"} /* 1, 2 */, // 3\n}}',
            '{"mcpServers": {"a": {"command": "a"} /* 1, 2 */, // 3',
        ),
        (
            '{"mcpServers": {"a": {"command": "a"} /* 1, 2 */}}',
            '{"mcpServers": {"a": {"command": "a"}, /* 1, 2 */\n    "new"',
        ),
        ('{"mcpServers": {}}', '{"mcpServers": {\n    "new": {'),
        ("{}", '{\n  "mcpServers": {'),
        ('\ufeff{\r\n\t"mcpServers": {\r\n\t}\r\n}', '\ufeff{\r\n\t"mcpServers": {\r\n\t\t"new": {\r\n\t\t\t"command"'),
    ],
)
def test_new_entries_are_written_behind_what_is_there(before: str, after: str) -> None:
    text = with_entries(before, ENTRY, OWN)
    assert text.startswith(after)
    file = check_servers(text, OWN, {})
    assert file.servers[-1].name == "new"
    if before:
        for word in before.split():
            assert word.rstrip("{}],") in text
    assert check_servers(with_entries(text, {"more": {"command": "y"}}, OWN), OWN, {}).servers[-1].name == "more"


def test_file_without_a_place_for_servers_is_refused_and_not_rewritten() -> None:
    for text in ("[]", '{"mcpServers": []}', "{"):
        with pytest.raises(ConfigRefused):
            with_entries(text, ENTRY, OWN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"mcpServers": {"a": {"command": "a"}, "b": {"command": "b"}}}', '{"mcpServers": { "b": {"command": "b"}}}'),
        ('{"mcpServers": {"b": {"command": "b"}, "a": {"command": "a"}}}', '{"mcpServers": {"b": {"command": "b"}  }}'),
        ('{"mcpServers": {"a": {"command": "a"}}}', '{"mcpServers": {}}'),
        ('{"mcpServers": {"a": {"command": "a"},}}', '{"mcpServers": {}}'),
        (
            '{"servers": {"b": {"command": "b"}, "a": {"command": "}, \\"a\\": {"},},}',
            '{"servers": {"b": {"command": "b"}  },}',
        ),
        (
            '{\r\n  "mcpServers": {\r\n    // of all\r\n    "a": {\r\n    },\r\n    "b": {}\r\n  }\r\n}',
            '{\r\n  "mcpServers": {\r\n    // of all\r\n    "b": {}\r\n  }\r\n}',
        ),
        (
            '{\n  "inputs": ["a"],\n  "mcpServers": {\n    "b": {}, // kept\n    "a": {"command": "a"}\n  }\n}\n',
            '{\n  "inputs": ["a"],\n  "mcpServers": {\n    "b": {}  // kept\n  }\n}\n',
        ),
    ],
)
def test_an_entry_is_taken_out_and_nothing_else(before: str, after: str) -> None:
    text = without_entry(before, "a", OWN)
    assert text == after
    root, _ = parse_relaxed(before, OWN)
    servers = root.get("mcpServers") or root["servers"]
    del servers["a"]
    assert parse_relaxed(text, OWN)[0] == root


def test_what_was_added_last_can_be_taken_out_again_wherever_it_stands() -> None:
    text = json.dumps({"mcpServers": {"first": {"command": "x"}}}, indent=4)
    for name in ("a", "b", "c"):
        text = with_entries(text, {name: {"command": name}}, OWN)
    for name in ("b", "c", "first", "a"):
        text = without_entry(text, name, OWN)
    assert parse_relaxed(text, OWN)[0] == {"mcpServers": {}}


def test_an_entry_that_is_there_twice_is_not_taken_out_by_half() -> None:
    with pytest.raises(ConfigRefused, match="edit the file"):
        without_entry('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "a", OWN)
