"""The servers file: what becomes a server, what is refused and where, what is only odd."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS

from agent.config.servers_file import (
    SERVERS_MAX,
    check_servers,
    keep_running,
    leave_out_name_of_node,
    read_servers,
)
from agent.config.values import name_fault
from agent.config.written_entry import as_entry
from agent.errors import ConfigRefused
from agent.model import HttpTarget, HttpTransport, ServerScope, ServerSpec, Sessions, StdioTarget

PATH = Path("/etc/mesh/servers.json")


def parse_servers(text: str, path: Path, environ: dict[str, str]) -> tuple[ServerSpec, ...]:
    """The servers of a file in which nothing is left out."""
    file = check_servers(text, path, environ)
    assert not file.left_out
    return file.servers


def faults_of(text: str, environ: dict[str, str] | None = None) -> list[str]:
    """Why entries are left out, without the file's path."""
    left_out = check_servers(text, PATH, environ or {}).left_out
    return [reason.removeprefix(f"{PATH}:") for entry in left_out for reason in entry.reasons]


def entry(**fields: Any) -> str:
    return json.dumps({"mcpServers": {"files": fields}})


def test_command_becomes_a_child_process_that_belongs_to_its_node() -> None:
    text = entry(command="npx", args=["-y", "server", ""], env={"A": "1"}, cwd="work")
    (spec,) = parse_servers(text, PATH, {})
    assert spec.target == StdioTarget("npx", ("-y", "server", ""), (("A", "1"),), "/etc/mesh/work")
    assert (spec.name, spec.scope, spec.enabled, spec.call_timeout_s) == ("files", ServerScope.NODE, True, None)


@pytest.mark.parametrize(
    ("kind", "transport"),
    [
        ({}, HttpTransport.ANY),
        *(
            ({"type": word}, HttpTransport.STREAMABLE)
            for word in ("http", "streamable-http", "streamableHttp", "streamable_http", "HTTP")
        ),
        ({"transport": "streamable_http"}, HttpTransport.STREAMABLE),
        ({"transportType": "streamableHttp"}, HttpTransport.STREAMABLE),
        ({"type": "sse"}, HttpTransport.SSE),
        ({"transport": "SSE"}, HttpTransport.SSE),
    ],
)
@pytest.mark.parametrize("key", ["url", "serverUrl", "httpUrl"])
def test_url_becomes_an_endpoint_that_means_the_same_everywhere(
    kind: dict[str, str], transport: HttpTransport, key: str
) -> None:
    text = entry(**kind, **{key: "https://h.example/mcp"}, headers={"X-Key": "v"}, command="", args=[], env=None)
    (spec,) = parse_servers(text, PATH, {})
    if not kind and key == "httpUrl":
        transport = HttpTransport.STREAMABLE
    assert spec.target == HttpTarget("https://h.example/mcp", (("X-Key", "v"),), transport=transport)
    assert spec.scope is ServerScope.SERVICE
    (again,) = parse_servers(json.dumps({"mcpServers": {"files": as_entry(spec)}}), PATH, {})
    assert again == spec


def test_mesh_part_sets_scope_and_time_out_and_disabled_is_kept() -> None:
    (spec,) = parse_servers(entry(command="x", disabled=True, mesh={"scope": "private", "call_timeout_s": 3}), PATH, {})
    assert (spec.scope, spec.call_timeout_s, spec.enabled) == (ServerScope.PRIVATE, 3.0, False)


@pytest.mark.parametrize(
    ("command", "args", "mesh", "limit_s"),
    [
        ("python", [], {}, 60.0),
        ("npx", ["-y", "@modelcontextprotocol/server-memory"], {}, 300.0),
        ("/usr/local/bin/npx", [], {}, 300.0),
        ("C:\\Program Files\\nodejs\\npx.cmd", [], {}, 300.0),
        ("uvx", ["mcp-server-time"], {}, 300.0),
        ("bunx", ["x"], {}, 300.0),
        ("npm", ["--silent", "exec", "x"], {}, 300.0),
        ("npm", ["start"], {}, 60.0),
        ("pnpm", ["dlx", "x"], {}, 300.0),
        ("uv", ["tool", "run", "x"], {}, 300.0),
        ("uv", ["run", "x"], {}, 60.0),
        ("env", ["A=b", "npx", "x"], {}, 300.0),
        ("npx", [], {"start_timeout_s": 20}, 20.0),
        ("python", [], {"start_timeout_s": 400}, 400.0),
    ],
)
def test_a_command_that_may_download_its_server_gets_more_time_to_start(
    command: str, args: list[str], mesh: dict[str, object], limit_s: float
) -> None:
    (spec,) = parse_servers(entry(command=command, args=args, mesh=mesh), PATH, {})
    assert spec.start_timeout_s == limit_s


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
        ('{"mcpServers": {"files":\n {"command": 1}}}', "2: mcpServers.files.command", "must be text"),
        ('{"mcpServers": {"files":\n {"command": "${A:-}"}}}', "2: mcpServers.files.command", "not empty"),
        (
            '{"mcpServers": {"files": {"command": "a",\n "args": ["x",\n null]}}}',
            "3: mcpServers.files.args[1]",
            "must be text",
        ),
        ('{"mcpServers": {"files": {"command": "a",\n "args": "x"}}}', "2: mcpServers.files.args", "array"),
        (
            '{"mcpServers": {"files": {"command": "a",\n "env": {"A=B": ""}}}}',
            "2: mcpServers.files.env.A=B",
            "variable",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n "disabled": "maybe"}}}',
            "2: mcpServers.files.disabled",
            "true or",
        ),
        ('{"mcpServers": {"files": {"command": "a",\n "enabled": 2}}}', "2: mcpServers.files.enabled", "true or"),
        ('{"mcpServers": {\n"files": {}}}', "2: mcpServers.files", "either command or url"),
        ('{"mcpServers": {\n"files": {"command": "", "url": null}}}', "2: mcpServers.files", "either command or url"),
        ('{"mcpServers": {\n"files": []}}', "2: mcpServers.files", "must be an object"),
        ('{"mcpServers": {\n"files": {"command": "a", "url": "b"}}}', "2: mcpServers.files", "either command or url"),
        ('{"mcpServers": {"files": {\n"type": "sse", "command": "a"}}}', "1: mcpServers.files.url", "is missing"),
        ('{"mcpServers": {"files": {\n"type": ["http"]}}}', "2: mcpServers.files.type", "stdio, http or"),
        ('{"mcpServers": {"files": {\n"type": "grpc"}}}', "2: mcpServers.files.type", "stdio, http or"),
        ('{"mcpServers": {"files":\n {"type": "stdio"}}}', "1: mcpServers.files.command", "is missing"),
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
            "scope, call_timeout_s, start_timeout_s, sticky, sessions, protocol, tls, tags, user and cgroup",
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
            '{"mcpServers": {"files": {"command": "a",\n"mesh": {"start_timeout_s": 601}}}}',
            "2: mcpServers.files.mesh.start_timeout_s",
            "more than 0 and at most 600",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n"mesh": {"call_timeout_s": true}}}}',
            "2: mcpServers.files.mesh.call_timeout_s",
            "seconds",
        ),
        ('{"mcpServers": {"files": {\n"command": "${NOT_SET}"}}}', "2: mcpServers.files.command", "NOT_SET is not set"),
        (
            '{"mcpServers": {"files": {"command": "a",\n"args": ["${input:api-key}"]}}}',
            "2: mcpServers.files.args[0]",
            "${input:api-key} is asked for by VS Code",
        ),
        (
            '{"mcpServers": {"files": {\n"command": "${workspaceFolder}/run"}}}',
            "2: mcpServers.files.command",
            "the folder that an editor has open",
        ),
        (
            '{"mcpServers": {"files": {"command": "a",\n"envFile": "none.env"}}}',
            "2: mcpServers.files.envFile",
            "cannot be read: No such file",
        ),
        (
            '{"mcpServers": {"files": {"command": "a"},\n"files": {"command": "b"}}}',
            "2: mcpServers.files",
            "second time",
        ),
    ],
)
def test_unusable_entry_is_left_out_with_path_line_and_field_and_the_rest_runs(
    text: str, place: str, words: str
) -> None:
    with_another = text.replace('{"mcpServers": {', '{"mcpServers": {"another": {"command": "x"}, ', 1)
    file = check_servers(with_another, PATH, {})
    assert file.servers[0] == ServerSpec("another", StdioTarget("x"), ServerScope.NODE)
    (left_out,) = file.left_out
    (reason,) = left_out.reasons
    assert left_out.name == left_out.configured_name == "files"
    assert reason.startswith(f"{PATH}:{place}"), reason
    assert words in reason
    assert "canary" not in reason


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{\n "mcpServers": {\n', "3", "is not JSON"),
        ('{"mcpServers": {}, // open\n "a: 1}', "2", "is not JSON"),
        ('{"mcpServers": {"a": {"command": "x"}}, "mcpServers":\n{}}', "1: mcpServers", "second time"),
        ("[]", "1", "must be an object"),
        ('{"mcpServers": []}', "1: mcpServers", "must be an object"),
        ('{"other": {}}', "1", "has no mcpServers"),
        ("[" * 100_000, "1", "is not JSON"),
    ],
)
def test_file_without_entries_to_tell_apart_is_refused_with_path_and_line(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigRefused) as refused:
        check_servers(text, PATH, {})
    message = str(refused.value)
    assert message.startswith(f"{PATH}:{place}:"), message
    assert words in message


def test_all_faults_of_all_entries_are_reported_at_once() -> None:
    text = """{"mcpServers": {
      "a": {"command": "x", "args": [{}, "${NONE}", "${input:k}"], "disabled": "maybe"},
      "b": {"url": "ftp://h/", "headers": {"A B": "v"}, "mesh": {"scope": "all", "extra": 1}},
      "c": {"command": "fine"}
    }}"""
    assert [reason.partition(": ")[2].split(": ")[0] for reason in faults_of(text)] == [
        "mcpServers.a.disabled",
        "mcpServers.a.args[0]",
        "mcpServers.a.args[1]",
        "mcpServers.a.args[2]",
        "mcpServers.b.url",
        "mcpServers.b.headers.A B",
        "mcpServers.b.mesh.extra",
        "mcpServers.b.mesh.scope",
    ]


@pytest.mark.parametrize("sessions", [None, *Sessions])
def test_clients_that_can_be_asked_alone_have_sessions_unless_the_entry_says_otherwise(
    sessions: Sessions | None,
) -> None:
    mesh = {} if sessions is None else {"sessions": sessions.value}
    (spec,) = parse_servers(json.dumps({"mcpServers": {"files": {"command": "a", "mesh": mesh}}}), PATH, {})
    assert spec.sessions is (sessions or Sessions.AUTO)
    assert parse_servers(json.dumps({"mcpServers": {"files": as_entry(spec)}}), PATH, {}) == (spec,)


@pytest.mark.parametrize("version", [None, *KNOWN_PROTOCOL_VERSIONS])
def test_mesh_protocol_may_be_every_version_that_the_sdk_knows(version: str | None) -> None:
    text = json.dumps({"mcpServers": {"files": {"command": "a", "mesh": {"protocol": version}}}})
    (spec,) = parse_servers(text, PATH, {})
    assert spec.protocol == version
    assert parse_servers(json.dumps({"mcpServers": {"files": as_entry(spec)}}), PATH, {}) == (spec,)


@pytest.mark.parametrize("wrong", ["2025", "modern", 2025, True, ["2025-11-25"], {}])
def test_mesh_protocol_that_no_version_has_is_refused_with_field_and_fix(wrong: object) -> None:
    text = json.dumps({"mcpServers": {"files": {"command": "a", "mesh": {"protocol": wrong}}}})
    (left_out,) = check_servers(text, PATH, {}).left_out
    (reason,) = left_out.reasons
    assert reason.endswith(
        "mcpServers.files.mesh.protocol: must be one of 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25, 2026-07-28, "
        "in quotes; leave it out, and the node speaks what the server does"
    )


def test_more_servers_than_allowed_are_refused() -> None:
    text = json.dumps({"mcpServers": {f"s{number}": {"command": "x"} for number in range(SERVERS_MAX + 1)}})
    with pytest.raises(ConfigRefused, match=f"at most {SERVERS_MAX}"):
        parse_servers(text, PATH, {})


def test_keys_of_other_programs_are_warnings_with_their_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    text = '{"globalShortcut": "x",\n "mcpServers": {"a": {"command": "x",\n "autoApprove": []}}}'
    text = text.replace("[]", '["x"]')
    file = check_servers(text, PATH, {})
    assert [spec.name for spec in file.servers] == ["a"]
    assert file.notes == (
        f"{PATH}:1: globalShortcut: is not ours and is ignored",
        f"{PATH}:3: mcpServers.a.autoApprove: is not known and is ignored",
    )
    path = tmp_path / "servers.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        read_servers(path)
    assert len(caplog.records) == 2


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_bytes(b"\xef\xbb\xbf" + entry(command="x").encode())
    assert [spec.name for spec in read_servers(path).servers] == ["files"]


def test_file_that_is_missing_or_not_text_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    with pytest.raises(ConfigRefused, match=r"servers\.json: the servers file cannot be read: No such file"):
        read_servers(path)
    path.write_bytes(b'{\n"\xff"')
    with pytest.raises(ConfigRefused, match=r"servers\.json:2: is not UTF-8"):
        read_servers(path)


def test_entry_that_is_left_out_does_not_end_a_server_that_runs() -> None:
    running = parse_servers('{"mcpServers": {"a": {"command": "x"}, "b": {"command": "y"}}}', PATH, {})
    file = check_servers('{"mcpServers": {"a": {"command": 5}, "c": {"url": "ftp://h"}}}', PATH, {})
    kept = keep_running(file, running)
    assert [spec.name for spec in kept.servers] == ["a"]
    assert [(entry.name, entry.keeps_running) for entry in kept.left_out] == [("a", True), ("c", False)]
    again = check_servers('{"mcpServers": {"a": {"command": "z"}, "a": {"command": 6}}}', PATH, {})
    assert [spec.name for spec in keep_running(again, running).servers] == ["a"]


def test_server_that_is_called_like_its_node_is_left_out_with_the_fix() -> None:
    file = check_servers('{"mcpServers": {"a": {"command": "x"}, "b": {"command": "y"}}}', PATH, {})
    named = leave_out_name_of_node(file, "a", PATH)
    assert [spec.name for spec in named.servers] == ["b"]
    assert "is the name of this node as well; rename it" in named.left_out[0].reasons[0]
    assert leave_out_name_of_node(file, "node", PATH) is file


def test_names_that_tools_cannot_carry_get_a_safe_one_and_none_is_lost() -> None:
    names = ["My Server", "my@server", "@scope/pkg", "Ünï", "数据", "a__b", "../x", "My-Server", "", "v1.2"]
    text = json.dumps({"mcpServers": {name: {"command": "x"} for name in names}})
    file = check_servers(text, PATH, {})
    called = dict(zip(names, (spec.name for spec in file.servers), strict=True))
    assert len(set(called.values())) == len(names)
    assert not [name for name in called.values() if name_fault(name)]
    assert {name: spec.configured_name for name, spec in zip(names, file.servers, strict=True)} == {
        name: "" if name in ("My-Server", "v1.2") else name for name in names
    }
    assert (called["My-Server"], called["v1.2"]) == ("My-Server", "v1.2")
    assert called["My Server"].startswith("My-Server-")
    assert (called["@scope/pkg"], called["a__b"], called["my@server"]) == ("scope-pkg", "a-b", "my-server")
    assert any("mcpServers.@scope/pkg: is called scope-pkg here" in note for note in file.notes)


@pytest.mark.parametrize(
    ("switch", "enabled"),
    [
        ({"disabled": True}, False),
        ({"enabled": False}, False),
        ({"enabled": True}, True),
        ({"enabled": True, "disabled": True}, False),
        ({"disabled": None}, True),
        ({"disabled": "false"}, True),
        ({"disabled": "True"}, False),
        ({"enabled": "off"}, False),
        ({"enabled": 0}, False),
    ],
)
def test_both_words_for_switching_a_server_off_are_known(switch: dict[str, Any], *, enabled: bool) -> None:
    (spec,) = parse_servers(entry(command="x", **switch), PATH, {})
    assert spec.enabled is enabled


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (60, 60.0),
        (0.5, 0.5),
        (30_000, 30.0),
        (600_000, 600.0),
        (2_000, None),
        (-1, None),
        ("30s", None),
        (10**12, 86_400.0),
    ],
)
def test_timeout_is_read_in_the_unit_that_its_size_tells(timeout: Any, seconds: float | None) -> None:
    file = check_servers(entry(command="x", timeout=timeout), PATH, {})
    assert file.servers[0].call_timeout_s == seconds
    assert any("write mesh.call_timeout_s" in note for note in file.notes) is (seconds is None)
    (spec,) = parse_servers(entry(command="x", timeout=timeout, mesh={"call_timeout_s": 7}), PATH, {})
    assert spec.call_timeout_s == 7.0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"servers": {"a": {"command": "x", "type": "stdio"}}, "inputs": []}', ["a"]),
        ('{"mcp": {"servers": {"a": {"command": "x"}}}, "editor.fontSize": 12}', ["a"]),
        ('\ufeff{// mine\n"mcpServers": {/* two */ "a": {"command": "x", "args": ["//no", "/*no*/",],}, },}', ["a"]),
        ('{"mcpServers": {"a": {"type": "local", "command": "x", "tools": ["*"]}}}', ["a"]),
        ('{"mcpServers": {"a": {"httpUrl": "http://h/mcp", "url": "http://h/sse", "trust": true}}}', ["a"]),
        ('{"mcpServers": {"a": {"type": "http", "url": "http://h/mcp", "command": "x", "env": {"A": "1"}}}}', ["a"]),
        ('{"mcpServers": {}}', []),
    ],
)
def test_files_of_other_programs_are_read_as_they_are(text: str, names: list[str]) -> None:
    assert [spec.name for spec in parse_servers(text, PATH, {})] == names


def test_streamable_url_beats_the_older_one_beside_it() -> None:
    file = check_servers(entry(httpUrl="http://h/mcp", url="http://h/sse"), PATH, {})
    assert file.servers[0].target == HttpTarget("http://h/mcp", transport=HttpTransport.STREAMABLE)
    assert file.notes == (f"{PATH}:1: mcpServers.files.url: is ignored: httpUrl is there too",)


def test_url_that_looks_like_the_older_transport_is_noted_where_its_type_says_otherwise() -> None:
    file = check_servers(entry(type="http", url="http://h/sse/?key=canary"), PATH, {})
    assert file.servers[0].target == HttpTarget("http://h/sse/?key=canary", transport=HttpTransport.STREAMABLE)
    assert file.notes[0].startswith(f"{PATH}:1: mcpServers.files.url: looks like the old HTTP+SSE transport")
    assert "canary" not in file.notes[0]
    assert not check_servers(entry(url="http://h/sse/?key=canary"), PATH, {}).notes


def test_fields_that_would_narrow_a_server_say_what_is_lost() -> None:
    notes = check_servers(entry(command="x", excludeTools=["rm"], auth={"CLIENT_ID": "i"}), PATH, {}).notes
    assert [note.partition("files.")[2] for note in notes] == [
        "excludeTools: is ignored: it chooses among the server's tools, which a node does not: all of them are offered",
        "auth: is ignored: it signs in, which a node does by oauth alone: write that, or a token into headers or env",
    ]


def test_variables_of_a_child_may_be_numbers_switches_null_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("export KEY='from file'\n# no\nPORT=1\n")
    path = tmp_path / "servers.json"
    path.write_text(entry(command="x", env={"PORT": 80, "ON": True, "OFF": None}, envFile="my.env"))
    (spec,) = read_servers(path, {}).servers
    assert isinstance(spec.target, StdioTarget)
    assert dict(spec.target.env) == {"KEY": "from file", "PORT": "80", "ON": "true"}
    (tmp_path / "my.env").write_text("KEY=canary\ncanary line\n")
    (left_out,) = read_servers(path, {}).left_out
    assert f"mcpServers.files.envFile: {tmp_path / 'my.env'}:2 is not NAME=value" in left_out.reasons[0]
    assert "canary" not in left_out.reasons[0]


def test_numbers_and_switches_among_arguments_and_headers_are_written_out() -> None:
    (child,) = parse_servers(entry(command="x", args=["--port", 8080, 0.5, True, "1"]), PATH, {})
    assert child.target == StdioTarget("x", ("--port", "8080", "0.5", "true", "1"))
    (endpoint,) = parse_servers(entry(url="http://h/mcp", headers={"X-Tenant": 7, "X-Debug": False}), PATH, {})
    assert endpoint.target == HttpTarget("http://h/mcp", (("X-Tenant", "7"), ("X-Debug", "false")))


@pytest.mark.parametrize(
    ("command", "cwd", "expected"),
    [
        ("~/bin/run", "~", ("/home/me/bin/run", "/home/me")),
        ("run", "~/work", ("run", "/home/me/work")),
        ("~other/run", "a~", ("~other/run", "/etc/mesh/a~")),
    ],
)
def test_home_folder_is_put_in_for_a_tilde_as_no_shell_does_it(
    command: str, cwd: str, expected: tuple[str, str]
) -> None:
    (spec,) = parse_servers(entry(command=command, cwd=cwd, args=["~/kept"]), PATH, {"HOME": "/home/me"})
    assert spec.target == StdioTarget(expected[0], ("~/kept",), (), expected[1])


def test_editors_words_for_variables_are_put_in_where_a_node_has_them() -> None:
    text = entry(command="${userHome}${/}run", args=["${env:KEY}", "${env:NONE:-x}", "$${input:k}"])
    (spec,) = parse_servers(text, PATH, {"KEY": "k", "HOME": "/home/me"})
    assert spec.target == StdioTarget("/home/me/run", ("k", "x", "${input:k}"))
