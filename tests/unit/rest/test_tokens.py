"""Tokens: which are valid, rotation, and that none is compared or kept in the clear."""

import ast
import pickle
from pathlib import Path

import pytest

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
