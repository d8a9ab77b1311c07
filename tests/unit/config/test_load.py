"""Settings: who wins, what is refused and with which words, and what stays secret."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.config.load import StaticPeer, load_settings, read_token_file, read_tokens_again, shown
from agent.config.table import SETTINGS
from agent.errors import ConfigRefused
from agent.model import MASK

TOKEN = "canary-0123456789-abcdefghij"


def test_nothing_set_gives_the_documented_defaults_on_loopback() -> None:
    settings = load_settings({}, {"HOME": "/home/someone"})
    assert (settings.host, settings.port, settings.port_explicit) == ("127.0.0.1", 8000, False)
    assert settings.state_dir == Path("/home/someone/.local/state/mesh-agent")
    assert (settings.token, settings.peer_tokens, settings.tokens) == (None, (), ())
    assert (settings.discovery, settings.service_name, settings.embedded_port) == ("auto", "mcp-node", 8520)
    assert settings.call_timeout_s == 600.0
    assert settings.peers == ()
    assert set(settings.origins.values()) == {"default"}
    assert not settings.warnings
    assert not settings.consul.explicit


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('port = 1001\nservice_name = "from-file"\nnode_name = "from-file"\n')
    environ = {"MESH_CONFIG_FILE": str(file), "PORT": "1002", "MESH_NODE_NAME": "from-env"}
    settings = load_settings({"port": "1003"}, environ)
    assert (settings.port, settings.node_name, settings.service_name) == (1003, "from-env", "from-file")
    assert settings.origins["port"] == "flag --port"
    assert settings.origins["node_name"] == "environment MESH_NODE_NAME"
    assert settings.origins["service_name"] == f"file {file}"
    assert settings.origins["host"] == "default"


def test_a_file_of_named_tokens_closes_a_node_that_others_can_reach_and_a_damaged_one_refuses_the_start(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(f'{{"tokens": {{"ci": {{"sha256": "{"ab" * 32}", "scopes": ["mcp"]}}}}}}')
    settings = load_settings({}, {"HOST": "0.0.0.0", "MESH_TOKENS_FILE": str(file)})
    assert [one.grant.name for one in settings.named_tokens] == ["ci"]
    assert (settings.tokens, settings.warnings) == ((), ())
    assert "ab" * 32 not in repr(settings)
    file.chmod(0o666)
    assert "can be written by others" in str(load_settings({}, {"MESH_TOKENS_FILE": str(file)}).warnings)
    file.write_text('{"tokens": {"ci": {"sha256": "ab"}}}')
    for path, words in ((file, "tokens.ci.sha256"), (tmp_path / "none", "the tokens file cannot be read")):
        with pytest.raises(ConfigRefused, match=words) as refused:
            load_settings({}, {"MESH_TOKENS_FILE": str(path)})
        assert "tokens_file (environment MESH_TOKENS_FILE)" in str(refused.value)


@pytest.mark.parametrize(
    "variable",
    [
        "MESH_TOKEN_FILE",
        "MESH_TOKENS_FILE",
        "MESH_PEER_TOKEN_FILE",
        "MESH_CONFIG_FILE",
        "MESH_TLS_CA",
    ],
)
def test_a_pipe_in_place_of_a_file_is_named_with_the_fix_and_not_waited_for(tmp_path: Path, variable: str) -> None:
    path = tmp_path / "file"
    os.mkfifo(path)
    with pytest.raises(
        ConfigRefused, match="it is a pipe and no ordinary file; put its content into a file"
    ) as refused:
        load_settings({}, {variable: str(path)})
    assert variable in str(refused.value)
    assert str(path) in str(refused.value)


def test_empty_variable_counts_as_unset() -> None:
    settings = load_settings({}, {"PORT": "", "MESH_TOKEN": " ", "MESH_NODE_NAME": ""})
    assert (settings.port, settings.port_explicit, settings.token) == (8000, False, None)


def test_default_port_given_by_the_user_is_explicit() -> None:
    assert load_settings({}, {"PORT": "8000"}).port_explicit


def test_file_takes_numbers_switches_lists_and_a_table_of_peers(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(
        "call_timeout_s = 2.5\nmetrics_public = true\nconsul_http_check = false\nallowed_hosts = ['A.example', 'b']\n"
        "[peers]\nnode-2 = 'http://10.0.0.7:8000/mcp'\n"
    )
    settings = load_settings({"config_file": str(file)}, {})
    assert (settings.call_timeout_s, settings.metrics_public, settings.consul_http_check) == (2.5, True, False)
    assert settings.allowed_hosts == ("a.example", "b")
    assert settings.peers == (StaticPeer("node-2", "http://10.0.0.7:8000/mcp"),)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"PORT": "70000"}, ["port", "environment PORT", "'70000'", "1 to 65535"]),
        ({"PORT": "0"}, ["port", "1 to 65535"]),
        ({"MESH_CALL_TIMEOUT_S": "0"}, ["call_timeout_s", "more than 0"]),
        ({"MESH_CALL_TIMEOUT_S": "nan"}, ["call_timeout_s", "more than 0"]),
        ({"MESH_WEIGHT": "0"}, ["weight", "1 to 100"]),
        ({"MESH_WORKERS": "0"}, ["workers", "1 to 64"]),
        ({"MESH_WORKERS": "65"}, ["workers", "1 to 64"]),
        ({"MESH_WORKERS": "two"}, ["workers", "whole number"]),
        ({"MESH_WEIGHT": "101"}, ["weight", "1 to 100"]),
        ({"MESH_WEIGHT": "1.5"}, ["weight", "whole number"]),
        ({"MESH_DEFAULT_SCOPE": "mine"}, ["default_scope", "service, node, private, fleet"]),
        ({"MESH_NAME_LEN_MAX": "31"}, ["name_len_max", "32 to 64"]),
        ({"MESH_NAME_LEN_MAX": "65"}, ["name_len_max", "32 to 64"]),
        ({"MESH_LIST_PAGE_SIZE": "0"}, ["list_page_size", "1 to 1000000"]),
        ({"MESH_LIST_PAGE_SIZE": "10.5"}, ["list_page_size", "whole number"]),
        ({"MESH_NODE_NAME": "a__b"}, ["node_name", "__"]),
        ({"MESH_NODE_NAME": "-a"}, ["node_name", "letter or digit"]),
        ({"MESH_NODE_NAME": "a" * 64}, ["node_name", "at most 63"]),
        ({"MESH_DISCOVERY": "dns"}, ["discovery", "auto, consul, embedded, off"]),
        ({"MESH_METRICS_PUBLIC": "perhaps"}, ["metrics_public", "1 or 0"]),
        ({"MESH_PEERS": "node-2"}, ["peers", "name=url"]),
        ({"MESH_PEERS": "node-2=ftp://x/"}, ["peers", "http://"]),
        ({"MESH_PEERS": "a=http://x/mcp,a=http://y/mcp"}, ["peers", "twice"]),
        ({"MESH_CORS_ORIGINS": "*"}, ["cors_origins", "list the origins"]),
        ({"MESH_CORS_ORIGINS": "https://app.example/x"}, ["cors_origins", "without a path"]),
        ({"MESH_ALLOWED_HOSTS": "http://x"}, ["allowed_hosts", "without a scheme"]),
        ({"HOST": "127.0.0.1:80"}, ["host", "without a scheme or a port"]),
        ({"MESH_CONFIG_FILE": "/nowhere/mesh.toml"}, ["config_file", "/nowhere/mesh.toml", "No such file"]),
        ({"MESH_TOKEN_FILE": "/nowhere/token"}, ["token_file", "environment MESH_TOKEN_FILE", "cannot be read"]),
        ({"CONSUL_HTTP_ADDR": "gopher://x"}, ["CONSUL_HTTP_ADDR"]),
    ],
)
def test_bad_value_is_refused_with_its_name_its_origin_and_the_fix(
    environ: Mapping[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigRefused) as refused:
        load_settings({}, environ)
    assert not [word for word in words if word not in str(refused.value)], str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "myhost.example", "128.0.0.1"])
def test_binding_beyond_loopback_without_a_token_is_refused_and_names_the_fix(host: str) -> None:
    with pytest.raises(ConfigRefused, match=r"MESH_TOKEN.*127\.0\.0\.1.*MESH_ALLOW_ANONYMOUS=1"):
        load_settings({}, {"HOST": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_token(host: str) -> None:
    assert load_settings({}, {"HOST": host}).token is None


def test_binding_beyond_loopback_is_allowed_with_a_token_and_warned_about_without() -> None:
    assert not load_settings({}, {"HOST": "0.0.0.0", "MESH_TOKEN": TOKEN}).warnings
    anonymous = load_settings({}, {"HOST": "0.0.0.0", "MESH_ALLOW_ANONYMOUS": "1"})
    assert any("any client that can reach" in warning for warning in anonymous.warnings)


def test_the_secret_of_the_mesh_follows_from_the_token_where_none_is_given() -> None:
    settings = load_settings({}, {"MESH_TOKEN": TOKEN})
    assert settings.peer_tokens == ()
    assert ("peer_token", MASK, "derived from the token") in shown(settings)
    assert settings.origins["peer_token"] == "derived from the token"
    own = load_settings({}, {"MESH_TOKEN": TOKEN, "MESH_PEER_TOKEN": "another-token-0123456789"})
    assert own.peer_tokens == ("another-token-0123456789",)


def test_token_file_with_two_lines_gives_two_valid_tokens_the_first_current(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("new-token-0123456789\r\nold-token-0123456789\n\n")
    settings = load_settings({}, {"MESH_TOKEN_FILE": str(file)})
    assert settings.token == "new-token-0123456789"
    assert settings.tokens == ("new-token-0123456789", "old-token-0123456789")
    assert settings.token_file == file
    assert ("peer_token", f"{MASK} {MASK}", "derived from the token") in shown(settings)


@pytest.mark.parametrize("text", ["", "\n \n", "canary\n" * 3, "two canaries\n", "canary\tcanary\n", "canary-ü\n"])
def test_unusable_token_file_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(ConfigRefused) as refused:
        read_token_file(file)
    assert str(file) in str(refused.value)
    assert "canar" not in str(refused.value)


def test_comments_in_a_token_file_are_no_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"# made on Monday\n{TOKEN}\n  # its predecessor:\nold-token-0123456789\n")
    assert read_token_file(file) == (TOKEN, "old-token-0123456789")


@pytest.mark.parametrize("name", ["MESH_TOKEN", "MESH_PEER_TOKEN"])
def test_a_token_that_can_be_guessed_is_refused_where_other_machines_can_reach_the_node(
    name: str, tmp_path: Path
) -> None:
    given = {"MESH_TOKEN": TOKEN, name: "fifteen-letters"}
    assert load_settings({}, given).peer_tokens == (("fifteen-letters",) if name == "MESH_PEER_TOKEN" else ())
    with pytest.raises(ConfigRefused, match="fewer than 16 characters") as refused:
        load_settings({}, {"HOST": "0.0.0.0", **given})
    assert "fifteen-letters" not in str(refused.value)
    file = tmp_path / "secret"
    file.write_text(TOKEN)
    file.chmod(0o600)
    settings = load_settings({}, {"HOST": "0.0.0.0", "MESH_TOKEN_FILE": str(file)})
    assert settings.warnings == ()
    file.write_text("fifteen-letters")
    with pytest.raises(ConfigRefused, match="fewer than 16 characters"):
        read_tokens_again(settings)


def test_a_secret_that_others_can_read_is_a_warning_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o640)
    (warning,) = load_settings({}, {"MESH_TOKEN_FILE": str(file)}).warnings
    assert f"chmod 600 {file}" in warning


def test_token_and_its_file_in_one_place_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with pytest.raises(ConfigRefused, match="both set") as refused:
        load_settings({}, {"MESH_TOKEN": TOKEN, "MESH_TOKEN_FILE": str(file)})
    assert TOKEN not in str(refused.value)


def test_token_file_by_flag_beats_a_token_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-flag-0123456789\n")
    settings = load_settings({"token_file": str(file)}, {"MESH_TOKEN": TOKEN})
    assert settings.tokens == ("from-the-flag-0123456789",)


def test_unknown_variable_is_a_warning_that_names_the_nearest_known_one() -> None:
    settings = load_settings({}, {"MESH_NODE_NAMES": "x", "MESH_URL": "http://known", "MESH_OTHER": ""})
    assert settings.warnings == ("environment variable MESH_NODE_NAMES is not known; did you mean MESH_NODE_NAME?",)


def test_unknown_name_in_the_file_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('tokn = "x"\n')
    with pytest.raises(ConfigRefused, match=r"tokn is not a setting; did you mean token\?"):
        load_settings({"config_file": str(file)}, {})


def test_secrets_are_in_no_repr_no_listing_and_no_refusal(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(f'peer_token = "{TOKEN}-peer"\n')
    environ = {"MESH_TOKEN": TOKEN, "MESH_CONFIG_FILE": str(file), "CONSUL_HTTP_TOKEN": f"{TOKEN}-consul"}
    settings = load_settings({}, environ)
    rows = shown(settings)
    assert TOKEN not in repr(settings)
    assert TOKEN not in repr(rows)
    assert ("token", MASK, "environment MESH_TOKEN") in rows
    assert ("peer_token", MASK, f"file {file}") in rows
    assert ("CONSUL_HTTP_TOKEN", MASK, "environment CONSUL_HTTP_TOKEN") in rows
    with pytest.raises(ConfigRefused) as refused:
        load_settings({}, {"MESH_TOKEN": f"{TOKEN} with blanks"})
    assert TOKEN not in str(refused.value)


def test_listing_has_every_setting_in_the_order_of_the_table() -> None:
    rows = shown(load_settings({"peers": "b=http://x/mcp"}, {}))
    assert [name for name, _, _ in rows] == [setting.name for setting in SETTINGS]
    assert ("peers", "b=http://x/mcp", "flag --peers") in rows


def test_guessable_token_is_warned_about() -> None:
    assert any("guessed" in warning for warning in load_settings({}, {"MESH_TOKEN": "short"}).warnings)


@pytest.mark.parametrize("name", ["MESH_STATE_DIR", "MESH_CONFIG_FILE"])
def test_a_path_below_the_home_of_a_user_that_is_not_there_is_refused_by_its_setting(name: str) -> None:
    setting = name.removeprefix("MESH_").lower()
    with pytest.raises(ConfigRefused, match=f"{setting}.*home folder of a user that this machine does not have"):
        load_settings({}, {name: "~no-such-user/x"})


def test_services_are_given_to_nodes_by_their_ids() -> None:
    one, two = "7e80fda3-856c-809b-a06e-bb00c62b98bd", "0e80fda3-856c-809b-a06e-bb00c62b98bd"
    settings = load_settings({}, {"MESH_SERVICE_NODES": f"pay={one.upper()}+{two}, notes={two}"})
    assert settings.service_nodes == {"pay": {one, two}, "notes": {two}}
    for text in ("pay", "pay=node-b", f"pay={one}|{two}", f"a__b={one}", f"pay={one},pay={two}"):
        with pytest.raises(ConfigRefused, match="service_nodes"):
            load_settings({}, {"MESH_SERVICE_NODES": text})
