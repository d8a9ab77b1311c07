"""The tokens file: what is read, and that a file with any fault is refused as a whole, with all of them."""

import hashlib
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.authority.grant import NO_TOOLS, Scope
from agent.config.tokens_file import check_tokens
from agent.errors import ConfigRefused

PATH = Path("/etc/mesh/tokens.json")
HASH = "ab" * 32
GOOD = f'"sha256": "{HASH}", "scopes": ["mcp"]'


def test_a_token_has_scopes_tools_an_end_and_rates() -> None:
    text = f"""{{"tokens": {{ // hashes alone
      "ci": {{"sha256": ["{HASH}", "{"cd" * 32}"], "scopes": ["mcp", "read"], "tools": ["kit__*", "!kit__drop"],
        "read_only": true, "expires": "2027-01-31T01:00:00+01:00", "calls_per_s": 0.5, "concurrent_calls": 2,
        "created": "2026-11-29", "comment": "of the pipeline"}},
    }}}}"""
    (token,) = check_tokens(text, PATH)
    grant = token.grant
    assert (grant.name, grant.scopes, grant.made) == ("ci", {Scope.MCP, Scope.READ}, "2026-11-29")
    assert (grant.reach.tools, grant.reach.read_only) == (("kit__*", "!kit__drop"), True)
    assert (grant.until_s, grant.calls_per_s, grant.concurrent_calls) == (1801353600.0, 0.5, 2)
    assert token.digests == (bytes.fromhex(HASH), bytes.fromhex("cd" * 32))
    assert HASH not in repr(token)


def test_an_empty_list_of_tools_is_none_of_them() -> None:
    (token,) = check_tokens(f'{{"tokens": {{"a": {{{GOOD}, "tools": []}}}}}}', PATH)
    assert token.grant.reach.tools == NO_TOOLS


@pytest.mark.parametrize(
    ("entry", "place", "words"),
    [
        ("[]", "1: tokens.ci:", "must be an object"),
        ("{}", "1: tokens.ci.sha256:", "SHA-256 of the token"),
        (f'{{"sha256": "{HASH.upper()}", "scopes": ["mcp"]}}', "1: tokens.ci.sha256:", "64 hexadecimal digits"),
        (f'{{"sha256": ["{HASH}", "{HASH}", "{HASH}"], "scopes": ["mcp"]}}', "1: tokens.ci.sha256:", "array of 2"),
        (f'{{"sha256": "{HASH}"}}', "1: tokens.ci.scopes:", "any of mcp, read, admin, metrics, peer"),
        (f'{{"sha256": "{HASH}", "scopes": ["mcp",\n"root"]}}', "2: tokens.ci.scopes[1]:", "must be one of"),
        (f'{{"sha256": "{HASH}", "scopes": [["mcp"]]}}', "1: tokens.ci.scopes[0]:", "must be one of"),
        (f'{{{GOOD}, "scope": "mcp"}}', "1: tokens.ci.scope:", "is not known"),
        (f'{{{GOOD}, "tools": "kit__*"}}', "1: tokens.ci.tools:", "must be an array"),
        (f'{{{GOOD}, "tools": ["a b"]}}', "1: tokens.ci.tools[0]:", "must be a name of tools"),
        (f'{{{GOOD}, "tools": ["!!a"]}}', "1: tokens.ci.tools[0]:", "must be a name of tools"),
        (f'{{{GOOD}, "read_only": "yes"}}', "1: tokens.ci.read_only:", "true or false"),
        (f'{{{GOOD}, "expires": "2027-01-31"}}', "1: tokens.ci.expires:", "a moment like"),
        (f'{{{GOOD}, "expires": 1801353600}}', "1: tokens.ci.expires:", "a moment like"),
        (f'{{{GOOD}, "calls_per_s": 0}}', "1: tokens.ci.calls_per_s:", "above 0"),
        (f'{{{GOOD}, "calls_per_s": true}}', "1: tokens.ci.calls_per_s:", "above 0"),
        (f'{{{GOOD}, "calls_per_s": NaN}}', "1: tokens.ci.calls_per_s:", "above 0"),
        (f'{{{GOOD}, "concurrent_calls": 1.5}}', "1: tokens.ci.concurrent_calls:", "whole number"),
        (f'{{{GOOD}, "created": 1}}', "1: tokens.ci.created:", "must be text"),
        (f'{{{GOOD}, "read_only": true, "read_only": false}}', "1: tokens.ci.read_only:", "second time"),
        (f'{{"sha256": "{HASH}", "scopes": ["peer"], "tools": ["a"]}}', "1: tokens.ci.scopes:", "peer is for nodes"),
        (f'{{"sha256": "{HASH}", "scopes": ["peer"], "read_only": true}}', "1: tokens.ci.scopes:", "peer is for nodes"),
    ],
)
def test_a_fault_refuses_the_file_with_its_place(entry: str, place: str, words: str) -> None:
    text = f'{{"tokens": {{"ci": {entry}, "good": {{"sha256": "{"ef" * 32}", "scopes": ["mcp"]}}}}}}'
    with pytest.raises(ConfigRefused) as refused:
        check_tokens(text, PATH)
    assert f"{PATH}:{place}" in str(refused.value), refused.value
    assert words in str(refused.value)
    assert HASH not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tokens": []}', '{"tokens": {"a": {'])
def test_what_is_no_tokens_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigRefused):
        check_tokens(text, PATH)


def test_names_are_plain_and_a_token_has_one_name() -> None:
    with pytest.raises(ConfigRefused, match="a name starts with"):
        check_tokens(f'{{"tokens": {{"a b": {{{GOOD}}}}}}}', PATH)
    token = "short-form-0123456789abcdef"
    entry = f'"sha256": "{hashlib.sha256(token.encode()).hexdigest()}", "scopes": ["mcp"]'
    with pytest.raises(ConfigRefused, match="is the token of MESH_TOKEN as well"):
        check_tokens(f'{{"tokens": {{"one": {{{entry}}}}}}}', PATH, [token])
    with pytest.raises(ConfigRefused, match="is the token of one as well"):
        check_tokens(f'{{"tokens": {{"one": {{{GOOD}}}, "two": {{{GOOD}}}}}}}', PATH)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigRefused) as refused:
        check_tokens('{"tokens": {"a": {"scopes": ["x"]}, "b": 7}}', PATH)
    assert str(refused.value).count("tokens.a") == 2
    assert str(refused.value).count("tokens.b") >= 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**7)
    | st.floats()
    | st.sampled_from(["mcp", HASH, "a__*", ""])
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["sha256", "scopes", "tools", "read_only", "expires", "calls_per_s", "concurrent_calls", "x"])


@given(st.dictionaries(st.text(max_size=8), st.dictionaries(FIELDS, VALUES) | VALUES, max_size=3))
def test_whatever_a_file_holds_it_is_read_or_refused(tokens: dict[str, object]) -> None:
    try:
        read = check_tokens(orjson.dumps({"tokens": tokens}).decode(), PATH)
    except ConfigRefused:
        return
    assert len(read) == len(tokens)
    assert all(token.digests and token.grant.scopes for token in read)


@given(st.text(max_size=60))
def test_no_text_is_more_than_refused(text: str) -> None:
    with pytest.raises(ConfigRefused):
        check_tokens(text, PATH)
