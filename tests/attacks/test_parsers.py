"""Random and nearly right input to every parser: it is taken or refused, and nothing else happens."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.parsers import PARSERS

# Words that parsers know, so that examples come past their first look.
WORDS = [
    *(
        "tokens",
        "sha256",
        "scopes",
        "mcp",
        "tools",
        "expires",
        "calls_per_s",
        "read_only",
        "a" * 64,
        "2027-01-31T00:00:00Z",
    ),
    *(
        "oauth",
        "issuer",
        "audience",
        "rules",
        "claim",
        "value",
        "https://id.example/x",
        "mcpServers",
        "command",
        "args",
    ),
    *(
        "env",
        "url",
        "headers",
        "mesh",
        "scope",
        "tls",
        "user",
        "tags",
        "timeout",
        "views",
        "servers",
        "aliases",
        "alone",
    ),
    *("jsonrpc", "2.0", "id", "method", "params", "result", "error", "share", "authority", "membership", "association"),
    *(
        "name",
        "description",
        "inputSchema",
        "annotations",
        "properties",
        "type",
        "object",
        "x-mcp-header",
        "$ref",
        "#/a",
    ),
    *("seq", "time", "act", "who", "prev", "hash", "${HOME}", "${A:-b}", "~", "..", "%2e%2e", "\x00", "\u202e", "::1"),
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
MEMBERS = st.sampled_from(WORDS) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MEMBERS, inner, max_size=5), max_leaves=20
)
PIECES = st.sampled_from([*WORDS, *'{}[]":,;=.-/?#@%&\r\n\t ', "\r\n\r\n", "data: ", "http://", "0x7f", "Set-Cookie: "])


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


INPUT = (
    st.binary(max_size=200)
    | st.lists(PIECES, max_size=40).map(lambda pieces: "".join(pieces).encode())
    | VALUES.map(as_json)
    | st.tuples(VALUES.map(as_json), st.integers(0, 200), st.binary(max_size=3)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    )
)


@pytest.mark.parametrize("name", PARSERS)
@given(INPUT)
def test_a_parser_takes_or_refuses_whatever_it_is_given(name: str, data: bytes) -> None:
    PARSERS[name](data)


# A right example of each parser that reads objects, so that a single wrong part gets as far as the code that reads it.
RIGHT: dict[str, Any] = {
    "tokens file": {
        "tokens": {
            "ci": {
                "sha256": ["a" * 64],
                "scopes": ["mcp", "read"],
                "tools": ["github__*"],
                "read_only": False,
                "expires": "2027-01-31T00:00:00Z",
                "calls_per_s": 5,
                "concurrent_calls": 2,
                "comment": "x",
            }
        }
    },
    "rules for OAuth": {
        "oauth": [
            {
                "issuer": "https://id.example",
                "audience": "https://mesh.example/mcp",
                "name_claim": "email",
                "rules": [{"claim": "scope", "value": "mesh", "scopes": ["mcp"], "tools": ["a__*"], "calls_per_s": 1}],
                "introspection": {"client_id": "mesh", "client_secret": "x"},
            },
            {"issuer": "https://b.example", "audience": "https://mesh.example/mcp", "rules": [{"scopes": ["mcp"]}]},
        ]
    },
    "servers file": {
        "mcpServers": {
            "child": {"command": "sh", "args": ["-c", "true"], "env": {"A": "${HOME}"}, "cwd": "/", "timeout": 5},
            "remote": {
                "url": "https://crm.example/mcp",
                "headers": {"X-Key": "${HOME}"},
                "enabled": True,
                "oauth": {"client_id": "mesh", "scopes": ["a"], "redirect_uri": "http://127.0.0.1:1/back"},
                "mesh": {
                    "scope": "service",
                    "sessions": "auto",
                    "protocol": "2025-11-25",
                    "tags": ["a"],
                    "sticky": True,
                },
            },
        },
        "views": {"small": {"servers": ["a*"], "tools": ["a__*"], "aliases": {"b": "a__b"}, "title": "x"}},
    },
    "views": {"views": {"small": {"servers": ["a*"], "tags": ["x"], "descriptions": {"a__b": "x"}, "alone": True}}},
    "handshakes": {"share": "AAAA", "authority": "127.0.0.1:80", "membership": "AAAA", "name": "node"},
    "cards and origins": {
        "capabilities": {
            "tools": {"listChanged": True},
            "extensions": {"io.example/x": {"node_id": "0a", "name": "n"}},
        },
        "serverInfo": {"name": "n", "version": "1"},
        "instructions": "x",
        "node": "n",
        "node_id": "0a" * 16,
        "server": "kit",
        "tool": "pid",
        "scope": "service",
        "supportedVersions": ["2026-07-28"],
    },
    "definitions": {
        "name": "a",
        "description": "x",
        "annotations": {"readOnlyHint": True},
        "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}},
        "arguments": [{"name": "a", "required": True}],
    },
    "claims and challenges": {
        "sub": "ada",
        "email": "a@b.c",
        "exp": 2_000_000_000,
        "scope": "mesh x",
        "iss": "https://a",
    },
    "catalogs": {
        "Node": {"Node": "m", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": {"a": "b"}},
        "Service": {
            "ID": "a",
            "Service": "mcp-node",
            "Address": "",
            "Port": 8000,
            "Tags": ["x"],
            "Weights": {"Passing": 1},
            "Meta": {"node_id": "0a" * 16, "name": "n", "epoch": "1", "scheme": "http", "mcp_path": "/mcp"},
        },
        "Checks": [{"CheckID": "c", "Status": "passing", "Output": "x", "ServiceID": "a"}],
        "Name": "mcp-node",
        "ID": "a",
        "Address": "10.0.0.1",
        "Port": 1,
        "Check": {"TTL": "5s", "HTTP": "http://a/"},
    },
    "files of the state": {
        "schema": 1,
        "node_id": "0a" * 16,
        "epoch": 1,
        "key": "0a" * 32,
        "logins": {
            "a": {"url": "http://a", "tokens": {"access_token": "x"}, "client": {}, "issuer": {}, "resource": {}}
        },
    },
    "responses": {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "x"}]}},
}
WRONG: tuple[Any, ...] = (
    *("", "https://[", "http://[::1]:x/", "http://a:99999999", "//", "\x00", "\udc80", "${", "~", "!", "[", "é" * 300),
    *(None, True, 0, -1, 10**400, float("nan"), [], {}, [[]], [None], {"": ""}, {"a": {"a": None}}),
)


def with_one_wrong(value: Any) -> Iterator[Any]:
    """Every value that differs from this in one part, at any depth."""
    yield from WRONG
    if isinstance(value, dict):
        for name, part in value.items():
            yield {other: value[other] for other in value if other != name}
            yield from ({**value, name: wrong} for wrong in with_one_wrong(part))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from ([*value[:number], wrong, *value[number + 1 :]] for wrong in with_one_wrong(part))


@pytest.mark.parametrize("name", RIGHT)
def test_a_parser_takes_or_refuses_what_is_right_but_for_one_part(name: str) -> None:
    for value in with_one_wrong(RIGHT[name]):
        PARSERS[name](as_json(value))


@pytest.mark.parametrize("name", PARSERS)
def test_no_parser_is_brought_down_by_what_is_nested_or_long_beyond_all_measure(name: str) -> None:
    for data in (
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5_000 + b"]" * 5_000, b"9" * 100_000, b"-" * 100_000),
        *(b'"' + b"\\u0000" * 20_000 + b'"', b"a" * 200_000, b"\r\n" * 50_000, b"\xff" * 100_000, b"=;" * 50_000),
    ):
        PARSERS[name](data)
