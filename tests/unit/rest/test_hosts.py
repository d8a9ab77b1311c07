"""Host and Origin headers: what a node answers to, and the spellings with which attackers try."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rest.hosts import host_allowed, normal_host_names, normal_origins, origin_allowed

NAMES = normal_host_names(["Mesh.Example.", "node-1", "box:8000", "10.0.0.7", "::1", "[fe80::1]", "bad name", ""])
ORIGINS = normal_origins(
    ["https://App.example", "http://other.example:8080", "http://ten.example:80", "vscode-webview://Ab"]
)


def test_names_are_kept_as_they_are_compared() -> None:
    assert {"mesh.example", "node-1", "box"} == NAMES
    assert {"https://app.example", "http://other.example:8080", "http://ten.example", "vscode-webview://ab"} == ORIGINS


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "[2001:DB8::7]",
        "192.168.1.9:1",
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "mesh.example",
        "MESH.example.:65535",
        "node-1:8000",
        "box",
    ],
)
def test_addresses_and_our_names_are_answered_on_any_port(host: str) -> None:
    assert host_allowed([host], NAMES)


HOSTILE_HOSTS = [
    "",
    " ",
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "evil.example@127.0.0.1",
    "mesh.example.evil",
    "xmesh.example",
    "mesh.example:99999",
    "mesh.example:",
    "mesh.example:80:80",
    "mesh.example:8o",
    "mesh..example",
    ".",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "2130706433",
    "127.1",
    "256.0.0.1",
    "[::1",
    "::1",
    "[::1]evil",
    "[fe80::1%25eth0]",
    "[127.0.0.1]",
    "localhost, evil.example",
    "localhost\tevil",
    "http://localhost",
    "localhost/evil",
    "ⓛocalhost",
    "localhost\x00",
    "a" * 300,
]


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_other_hosts_are_refused(host: str) -> None:
    assert not host_allowed([host], NAMES)


def test_a_missing_or_repeated_host_is_refused() -> None:
    assert not host_allowed([], NAMES)
    assert not host_allowed(["localhost", "localhost"], NAMES)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:5173",
        "https://localhost",
        "http://127.0.0.1:8000",
        "http://127.9.9.9",
        "http://[::1]:3000",
        "https://app.example",
        "https://app.example:443",
        "HTTPS://APP.EXAMPLE",
        "http://other.example:8080",
        "http://ten.example",
        "vscode-webview://ab",
    ],
)
def test_loopback_pages_and_listed_origins_are_answered(origin: str) -> None:
    assert origin_allowed([origin], ORIGINS)


def test_a_request_without_origin_is_answered() -> None:
    assert origin_allowed([], ORIGINS)


HOSTILE_ORIGINS = [
    "",
    "null",
    "*",
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil",
    "https://evil.app.example",
    "https://app.example@evil.example",
    "https://app.example/",
    "https://app.example/path",
    "https://app.example?x",
    "https://app.example#x",
    "http://localhost.evil.example",
    "http://evil.localhost",
    "http://127.0.0.1.evil.example",
    "http://0x7f000001",
    "http://2130706433",
    "http://[::ffff:10.0.0.1]",
    "http://10.0.0.7:8000",
    "file://",
    "file://localhost",
    "chrome-extension://abc",
    "vscode-webview://other",
    "//localhost",
    "localhost",
    "http://localhost:99999",
    "http://localhost http://evil.example",
    "javascript://localhost",
]


@pytest.mark.parametrize("origin", HOSTILE_ORIGINS)
def test_other_origins_are_refused(origin: str) -> None:
    assert not origin_allowed([origin], ORIGINS)


def test_a_repeated_origin_is_refused() -> None:
    assert not origin_allowed(["http://localhost", "http://localhost"], ORIGINS)


@given(st.text(alphabet=string.printable, max_size=40))
def test_no_text_is_allowed_but_addresses_and_our_names(text: str) -> None:
    if host_allowed([text], NAMES):
        name = text.rpartition("]")[0].lstrip("[") or text.split(":", maxsplit=1)[0].lower().rstrip(".")
        assert name in NAMES | {"localhost"} or set(name) <= set(string.hexdigits + ".:")


@given(st.text(max_size=60))
def test_any_origin_gets_a_verdict(text: str) -> None:
    assert origin_allowed([text], ORIGINS) in (True, False)
