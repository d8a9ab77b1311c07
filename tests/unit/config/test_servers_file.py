"""The servers file: what becomes a server, what is refused and where, what is only odd."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.servers_file import SERVERS_MAX, check_servers, dotted, find_places, parse_servers, read_servers
from agent.errors import ConfigRefused
from agent.model import HttpTarget, ServerScope, StdioTarget

PATH = Path("/etc/mesh/servers.json")


def entry(**fields: Any) -> str:
    return json.dumps({"mcpServers": {"files": fields}})


def test_command_becomes_a_child_process_that_belongs_to_its_node() -> None:
    text = entry(command="npx", args=["-y", "server", ""], env={"A": "1"}, cwd="work")
    (spec,) = parse_servers(text, PATH, {})
    assert spec.target == StdioTarget("npx", ("-y", "server", ""), (("A", "1"),), "/etc/mesh/work")
    assert (spec.name, spec.scope, spec.enabled, spec.call_timeout_s) == ("files", ServerScope.NODE, True, None)


@pytest.mark.parametrize("kind", [{}, {"type": "http"}, {"type": "streamable-http"}])
def test_url_becomes_an_endpoint_that_means_the_same_everywhere(kind: dict[str, str]) -> None:
    (spec,) = parse_servers(entry(**kind, url="https://h.example/mcp", headers={"X-Key": "v"}), PATH, {})
    assert spec.target == HttpTarget("https://h.example/mcp", (("X-Key", "v"),))
    assert spec.scope is ServerScope.SERVICE


def test_mesh_part_sets_scope_and_time_out_and_disabled_is_kept() -> None:
    (spec,) = parse_servers(entry(command="x", disabled=True, mesh={"scope": "private", "call_timeout_s": 3}), PATH, {})
    assert (spec.scope, spec.call_timeout_s, spec.enabled) == (ServerScope.PRIVATE, 3.0, False)


def test_servers_keep_the_order_of_the_file() -> None:
    text = json.dumps({"mcpServers": {name: {"command": "x"} for name in ("b", "a", "c")}})
    assert [spec.name for spec in parse_servers(text, PATH, {})] == ["b", "a", "c"]


def test_variables_are_put_in_only_where_they_are_braced() -> None:
    environ = {"KEY": "secret", "EMPTY": ""}
    text = entry(
        command="run",
        args=["$KEY", "${KEY}", "${NONE:-fallback}", "${EMPTY:-fallback}", "${NONE:-}", "$${KEY}", "a${KEY}b${KEY}"],
        env={"TOKEN": "${KEY}"},
    )
    (spec,) = parse_servers(text, PATH, environ)
    assert isinstance(spec.target, StdioTarget)
    assert spec.target.args == ("$KEY", "secret", "fallback", "fallback", "", "${KEY}", "asecretbsecret")
    assert spec.target.env == (("TOKEN", "secret"),)


def test_disabled_server_needs_no_variables() -> None:
    (spec,) = parse_servers(entry(url="${NOWHERE}", disabled=True), PATH, {})
    assert not spec.enabled


def test_secrets_of_a_server_are_not_in_its_repr() -> None:
    text = json.dumps(
        {
            "mcpServers": {
                "a": {"command": "x", "env": {"KEY": "canary-1"}},
                "b": {"url": "http://h/mcp", "headers": {"Authorization": "Bearer canary-2"}},
            }
        }
    )
    assert "canary" not in repr(parse_servers(text, PATH, {}))


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{\n "mcpServers": {\n', "3", "is not JSON"),
        ('{"mcpServers": {"files":\n {"command": 1}}}', "2: mcpServers.files.command", "must be text"),
        ('{"mcpServers": {"files":\n {"command": ""}}}', "2: mcpServers.files.command", "not empty"),
        (
            '{"mcpServers": {"files": {"command": "a",\n "args": ["x",\n 5]}}}',
            "3: mcpServers.files.args[1]",
            "must be text",
        ),
        ('{"mcpServers": {"files": {"command": "a",\n "args": "x"}}}', "2: mcpServers.files.args", "array"),
        (
            '{"mcpServers": {"files": {"command": "a",\n "env": {"A=B": ""}}}}',
            "2: mcpServers.files.env.A=B",
            "variable",
        ),
        ('{"mcpServers": {"files": {"command": "a",\n "disabled": "no"}}}', "2: mcpServers.files.disabled", "true or"),
        ('{"mcpServers": {\n"files": {}}}', "2: mcpServers.files", "either command or url"),
        ('{"mcpServers": {\n"files": {"command": "a", "url": "b"}}}', "2: mcpServers.files", "either command or url"),
        ('{"mcpServers": {"files": {\n"type": "sse", "url": "http://h/"}}}', "2: mcpServers.files.type", "gave up"),
        ('{"mcpServers": {"files": {\n"type": ["http"]}}}', "2: mcpServers.files.type", "stdio, http or"),
        ('{"mcpServers": {"files":\n {"type": "stdio"}}}', "1: mcpServers.files.command", "is missing"),
        (
            '{"mcpServers": {"files": {"url": "http://h/",\n"args": []}}}',
            "2: mcpServers.files.args",
            "does not belong",
        ),
        ('{"mcpServers": {"files": {\n"url": "ftp://h/"}}}', "2: mcpServers.files.url", "http://"),
        ('{"mcpServers": {"files": {\n"url": "http://u:canary@h/"}}}', "2: mcpServers.files.url", "credentials"),
        (
            '{"mcpServers": {"files": {"url": "http://h/", "headers":\n {"A": "x\\r\\nB: y"}}}}',
            "2: mcpServers.files.headers.A",
            "header",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n"mesh": {"scop": 1}}}}',
            "2: mcpServers.files.mesh.scop",
            "scope, call_timeout_s, sticky and sessions",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n"mesh": {"scope": []}}}}',
            "2: mcpServers.files.mesh.scope",
            "one of",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n"mesh": {"sessions": ["own"]}}}}',
            "2: mcpServers.files.mesh.sessions",
            "shared or own",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n"mesh": {"call_timeout_s": true}}}}',
            "2: mcpServers.files.mesh.call_timeout_s",
            "seconds",
        ),
        ('{"mcpServers": {"files": {\n"command": "${NOT_SET}"}}}', "2: mcpServers.files.command", "NOT_SET is not set"),
        ('{"mcpServers": {\n"a__b": {"command": "x"}}}', "2: mcpServers.a__b", "'__'"),
        ('{"mcpServers": {\n"../x": {"command": "x"}}}', "2: mcpServers.../x", "letter or digit"),
        ('{"mcpServers": {"a": {"command": "x"},\n"a": {"command": "y"}}}', "2: mcpServers.a", "second time"),
        ('{"mcpServers": {"a": {"command": "x",\n"command": "y"}}}', "2: mcpServers.a.command", "second time"),
        ("[]", "1", "must be an object"),
        ('{"mcpServers": []}', "1: mcpServers", "must be an object"),
        ('{"servers": {}}', "1", "rename servers to mcpServers"),
        ("[" * 100_000, "1", "is not JSON"),
    ],
)
def test_bad_file_is_refused_with_path_line_and_field(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigRefused) as refused:
        parse_servers(text, PATH, {})
    message = str(refused.value)
    assert message.startswith(f"{PATH}:{place}:"), message
    assert words in message
    assert "canary" not in message


@pytest.mark.parametrize(("mesh", "own"), [({}, False), ({"sessions": "shared"}, False), ({"sessions": "own"}, True)])
def test_sessions_are_shared_unless_the_entry_says_otherwise(mesh: dict[str, str], *, own: bool) -> None:
    (spec,) = parse_servers(json.dumps({"mcpServers": {"files": {"command": "a", "mesh": mesh}}}), PATH, {})
    assert spec.session_pool is own


def test_more_servers_than_allowed_are_refused() -> None:
    text = json.dumps({"mcpServers": {f"s{number}": {"command": "x"} for number in range(SERVERS_MAX + 1)}})
    with pytest.raises(ConfigRefused, match=f"at most {SERVERS_MAX}"):
        parse_servers(text, PATH, {})


def test_keys_of_other_programs_are_warnings_with_their_line(caplog: pytest.LogCaptureFixture) -> None:
    text = '{"globalShortcut": "x",\n "mcpServers": {"a": {"command": "x",\n "autoApprove": []}}}'
    specs, warnings = check_servers(text, PATH, {})
    assert [spec.name for spec in specs] == ["a"]
    assert warnings == (
        f"{PATH}:1: globalShortcut: is not ours and is ignored",
        f"{PATH}:3: mcpServers.a.autoApprove: is not known and is ignored",
    )
    with caplog.at_level(logging.WARNING):
        parse_servers(text, PATH, {})
    assert len(caplog.records) == 2


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_bytes(b"\xef\xbb\xbf" + entry(command="x").encode())
    assert [spec.name for spec in read_servers(path)] == ["files"]


def test_file_that_is_missing_or_not_text_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    with pytest.raises(ConfigRefused, match=r"servers\.json: the servers file cannot be read: No such file"):
        read_servers(path)
    path.write_bytes(b'{\n"\xff"')
    with pytest.raises(ConfigRefused, match=r"servers\.json:2: is not UTF-8"):
        read_servers(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON, st.sampled_from([None, 0, 2]))
def test_every_member_of_any_json_is_found_on_the_line_that_holds_it(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    lines, duplicates = find_places(text)
    assert not duplicates
    assert set(lines) == set(_paths(value, ()))
    rows = text.splitlines()
    for path, line in lines.items():
        if path and isinstance(path[-1], str):
            assert json.dumps(path[-1]) + ":" in rows[line - 1]


def test_path_is_written_as_people_do() -> None:
    assert dotted(("mcpServers", "files", "args", 0)) == "mcpServers.files.args[0]"
    assert dotted(()) == ""


def _paths(value: Any, path: tuple[str | int, ...]) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))
