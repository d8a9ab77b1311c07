"""The member `oauth` of a server's entry: read whole, or the entry is left out with each fault's place."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.config.oauth_entry import secret_of
from agent.config.servers_file import ServersFile, check_servers, read_servers
from agent.config.written_entry import as_entry
from agent.model import HttpTarget, OAuthClient, OAuthGrant

PATH = Path("/etc/servers.json")
BY_SECRET = {"client_id": "node", "client_secret": "${KEY}", "issuer": "https://id.example"}
ENVIRON = {"KEY": "canary"}


def read(oauth: object, environ: dict[str, str] | None = None, **fields: Any) -> ServersFile:
    entry = {"url": "https://crm.example/mcp", "oauth": oauth, **fields}
    return check_servers(json.dumps({"mcpServers": {"crm": entry}}), PATH, ENVIRON if environ is None else environ)


def client_of(file: ServersFile) -> OAuthClient:
    (spec,) = file.servers
    assert isinstance(spec.target, HttpTarget)
    assert spec.target.oauth is not None
    return spec.target.oauth


def test_an_entry_with_a_secret_is_for_the_node_itself_and_one_without_for_a_person() -> None:
    client = client_of(read({**BY_SECRET, "scopes": ["read", "write"]}))
    expected = OAuthClient(OAuthGrant.CLIENT, "node", "canary", scopes=("read", "write"), issuer="https://id.example")
    assert client == expected
    assert "canary" not in repr(client)
    assert client_of(read({"scopes": "read write"})) == OAuthClient(scopes=("read", "write"))
    assert client_of(read({**BY_SECRET, "grant": "authorization_code"})).grant is OAuthGrant.CODE


def test_words_of_other_programs_are_understood_and_unknown_ones_are_noted() -> None:
    file = read({"clientId": "i", "scope": "a", "redirectUri": "http://127.0.0.1:7/back", "tokenUrl": "https://x"})
    assert client_of(file) == OAuthClient(client_id="i", scopes=("a",), redirect_uri="http://127.0.0.1:7/back")
    (note,) = file.notes
    assert "mcpServers.crm.oauth.tokenUrl: is ignored; oauth has grant" in note


def test_what_is_written_is_read_again_as_it_was() -> None:
    (spec,) = read({**BY_SECRET, "scopes": ["a"], "grant": "authorization_code"}).servers
    text = json.dumps({"mcpServers": {"crm": as_entry(spec)}})
    assert check_servers(text, PATH, {}).servers == (spec,)


def test_the_file_of_a_secret_lies_beside_the_servers_file_and_is_read_at_each_use(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("first\n")
    entry = {"url": "https://c.example/mcp", "oauth": {**BY_SECRET, "client_secret": None, "client_secret_file": "key"}}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": {"crm": entry}}))
    client = client_of(read_servers(tmp_path / "servers.json", {}))
    assert secret_of(client) == "first"
    (tmp_path / "key").write_text("second")
    assert secret_of(client) == "second"
    (tmp_path / "key").write_text("\n")
    (left_out,) = read_servers(tmp_path / "servers.json", {}).left_out
    assert "oauth.client_secret_file" in left_out.reasons[0]


@pytest.mark.parametrize(
    ("oauth", "place", "text"),
    [
        ("yes", "oauth", "must be an object"),
        ({**BY_SECRET, "issuer": None}, "oauth.issuer", "it is sent to no other"),
        ({**BY_SECRET, "issuer": "http://id.example"}, "oauth.issuer", "must be a URL with https://"),
        ({**BY_SECRET, "client_id": ""}, "oauth.client_id", "is missing"),
        ({**BY_SECRET, "client_secret_file": "x"}, "oauth.client_secret", "two ways to say one thing"),
        ({**BY_SECRET, "client_secret": "${MISSING}"}, "oauth.client_secret", "MISSING is not set"),
        ({"grant": "client_credentials"}, "oauth.client_secret", "is missing"),
        ({"grant": "password"}, "oauth.grant", "must be one of"),
        ({"scopes": [7]}, "oauth.scopes", "must be an array of texts"),
        ({"scopes": ['a"b']}, "oauth.scopes", "without blanks and quotes"),
        ({"client_id": 7}, "oauth.client_id", "must be text"),
        ({"redirect_uri": "http://elsewhere.example/"}, "oauth.redirect_uri", "must be a URL with https://"),
        ({"client_id": "n", "client_secret_file": "/none", "issuer": "https://i.example"}, "secret_file", "No such"),
    ],
)
def test_an_entry_that_cannot_be_used_names_the_field_and_never_the_secret(
    oauth: object, place: str, text: str
) -> None:
    (left_out,) = read(oauth).left_out
    assert place in left_out.reasons[0]
    assert text in left_out.reasons[0]
    assert "canary" not in "".join(left_out.reasons)


def test_an_authorization_header_and_a_login_are_not_both_possible() -> None:
    (left_out,) = read({"scopes": ["a"]}, headers={"authorization": "Bearer x"}).left_out
    assert "beside a header Authorization" in left_out.reasons[0]


def test_a_login_in_the_words_of_fastmcp_says_nothing_that_is_not_so_anyway() -> None:
    file = read(None, auth="oauth")
    (spec,) = file.servers
    assert isinstance(spec.target, HttpTarget)
    assert spec.target.oauth is None
    assert file.notes == ()
