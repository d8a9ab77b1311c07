"""Random and nearly right input to every parser: it is taken or refused, and nothing else happens."""

import json
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


@pytest.mark.parametrize("name", PARSERS)
def test_no_parser_is_brought_down_by_what_is_nested_or_long_beyond_all_measure(name: str) -> None:
    for data in (
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5_000 + b"]" * 5_000, b"9" * 100_000, b"-" * 100_000),
        *(b'"' + b"\\u0000" * 20_000 + b'"', b"a" * 200_000, b"\r\n" * 50_000, b"\xff" * 100_000, b"=;" * 50_000),
    ):
        PARSERS[name](data)
