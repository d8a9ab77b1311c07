"""Tokens: which are valid, rotation, and that none is compared or kept in the clear."""

import ast
import hashlib
import pickle
from pathlib import Path

import pytest

from agent.authority.grant import Grant, NamedToken
from agent.rest import security, tokens
from agent.rest.tokens import TokenTable


def test_every_valid_token_is_accepted_and_no_other_text() -> None:
    table = TokenTable(["client-1", "client-2"])
    presented = ("client-1", "client-2", "client-3", "", "client-1 ")
    assert [table.accepts(token) for token in presented] == [True, True, False, False, False]


def test_only_a_table_without_client_tokens_is_anonymous() -> None:
    assert TokenTable().anonymous
    assert not TokenTable(["client"]).anonymous


def test_a_rotation_overlaps_and_then_ends_the_old_token_at_once() -> None:
    table = TokenTable(["old"])
    table.replace(["new", "old"])
    assert [table.accepts(token) for token in ("new", "old")] == [True, True]
    table.replace(["new"])
    assert [table.accepts(token) for token in ("new", "old")] == [True, False]


def test_a_rotation_never_admits_callers_without_a_token() -> None:
    table = TokenTable(["old"])
    with pytest.raises(ValueError, match="at least one"):
        table.replace([])
    with pytest.raises(ValueError, match="empty"):
        table.replace([""])
    assert (table.anonymous, table.accepts("old"), table.accepts("")) == (False, True, False)


def test_bytes_that_are_no_text_are_refused_without_an_error() -> None:
    assert not TokenTable(["client"]).accepts(b"\xff\xfe".decode("utf-8", "surrogateescape"))


def test_a_table_holds_no_token_in_the_clear() -> None:
    table = TokenTable(["client-canary"])
    assert b"canary" not in pickle.dumps(table)
    assert repr(table) == "<TokenTable 1>"


def named(name: str, *its_tokens: str, **more: object) -> NamedToken:
    digests = tuple(hashlib.sha256(token.encode()).digest() for token in its_tokens)
    return NamedToken(Grant(name, **more), digests)  # type: ignore[arg-type]  # fields of a grant


def test_a_named_token_is_found_with_its_grant_and_both_of_two_while_one_replaces_the_other() -> None:
    table = TokenTable(["whole"], [named("ci", "old", "new"), named("ops", "other")])
    found = {token: caller.grant.name for token in ("whole", "old", "new", "other") if (caller := table.find(token))}
    assert found == {"whole": "MESH_TOKEN", "old": "ci", "new": "ci", "other": "ops"}
    table.replace(["whole"], [named("ci", "new")])
    assert [table.accepts(token) for token in ("old", "new", "other")] == [False, True, False]


def test_a_table_with_a_file_stays_closed_when_its_last_token_is_revoked() -> None:
    table = TokenTable([], [named("ci", "token")], closed=True)
    table.replace([], [])
    assert (table.anonymous, table.accepts("token"), table.accepts("")) == (False, False, False)


def test_a_file_that_is_read_again_gives_no_client_a_fresh_allowance() -> None:
    table = TokenTable([], [named("ci", "token", calls_per_s=1.0)], closed=True)

    def allowance() -> object:
        caller = table.find("token")
        assert caller is not None
        return caller.allowance

    first = allowance()
    table.replace([], [named("ci", "token", calls_per_s=1.0), named("ops", "other")])
    assert allowance() is first
    table.replace([], [named("ci", "token", calls_per_s=2.0)])
    assert allowance() is not first
    table.replace([], [named("ci", "token")])
    assert allowance() is None


def test_a_thousand_tokens_are_one_look_up_as_one_is() -> None:
    many = TokenTable([], [named(str(number), f"token {number}") for number in range(1_000)], closed=True)
    assert len(many._callers) == 1_000
    caller = many.find("token 999")
    assert caller is not None
    assert caller.grant.name == "999"


def test_no_comparison_in_the_edge_touches_a_token() -> None:
    for module in (tokens, security):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text())
        assert list(secret_comparisons(tree)) == []


def test_the_check_of_comparisons_finds_one() -> None:
    for line in ("token == other", "given.digest != known", "presented in known_tokens", "hash(x) == digest(y)"):
        assert list(secret_comparisons(ast.parse(line))) != []


def secret_comparisons(tree: ast.AST) -> list[str]:
    """Comparisons by `==`, `!=`, `in` and `not in` that name a token or a digest on either side."""
    words = ("token", "digest", "presented", "secret")
    leaky = ast.Eq | ast.NotEq | ast.In | ast.NotIn
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, leaky) for op in node.ops):
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
            names += [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]
            if any(word in name.lower() for name in names for word in words):
                found.append(ast.unparse(node))
    return found
