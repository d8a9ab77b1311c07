"""Tokens: what each opens, rotation, and that none is compared or kept in the clear."""

import ast
import pickle
from pathlib import Path

import pytest

from agent.rest import security, tokens
from agent.rest.tokens import PEER_GRACE_S, Access, TokenTable


def test_each_kind_of_token_opens_its_own() -> None:
    table = TokenTable(["client-1", "client-2"], ["peer-1"])
    assert [table.access(token) for token in ("client-1", "client-2", "peer-1", "peer-2", "", "client-1 ")] == [
        Access.FULL,
        Access.FULL,
        Access.PEER,
        None,
        None,
        None,
    ]


def test_a_token_of_both_kinds_opens_everything() -> None:
    assert TokenTable(["same"], ["same"]).access("same") is Access.FULL


def test_only_a_table_without_client_tokens_is_anonymous() -> None:
    assert TokenTable().anonymous
    assert TokenTable([], ["peer"]).anonymous
    assert not TokenTable(["client"]).anonymous


def test_a_rotation_overlaps_and_then_ends_the_old_token() -> None:
    now_s = 0.0
    table = TokenTable(["old"], ["old-peer"], clock=lambda: now_s)
    table.replace(["new", "old"], ["new-peer", "old-peer"])
    assert [table.access(t) for t in ("new", "old", "new-peer", "old-peer")] == [Access.FULL] * 2 + [Access.PEER] * 2
    now_s = PEER_GRACE_S
    table.replace(["new"], ["new-peer"])
    now_s += PEER_GRACE_S
    assert [table.access(t) for t in ("new", "old", "new-peer", "old-peer")] == [Access.FULL, None, Access.PEER, None]


def test_a_rotation_in_one_step_leaves_peers_a_while_and_clients_none() -> None:
    now_s = 100.0
    table = TokenTable(["old"], ["old-peer"], clock=lambda: now_s)
    table.replace(["new"], ["new-peer"])
    assert [table.access(t) for t in ("new", "old", "new-peer", "old-peer")] == [
        Access.FULL,
        None,
        Access.PEER,
        Access.PEER,
    ]
    now_s += PEER_GRACE_S / 2
    table.replace(["new"], ["new-peer"])  # The file was touched.
    now_s += PEER_GRACE_S / 2 - 0.1
    assert table.access("old-peer") is Access.PEER
    now_s += 0.1
    assert table.access("old-peer") is None
    now_s -= 1.0
    assert table.access("old-peer") is None, "once over, it is gone"


def test_a_peer_token_keeps_its_while_when_other_tokens_are_replaced_meanwhile() -> None:
    now_s = 0.0
    table = TokenTable(["old"], ["a"], clock=lambda: now_s)
    table.replace(["old"], ["b"])
    now_s += PEER_GRACE_S / 2
    table.replace(["new"], ["b"])
    table.replace(["new"], ["c"])
    assert [table.access(token) for token in "abc"] == [Access.PEER] * 3
    now_s += PEER_GRACE_S / 2
    assert [table.access(token) for token in "abc"] == [None, Access.PEER, Access.PEER]
    now_s += PEER_GRACE_S / 2
    assert [table.access(token) for token in "abc"] == [None, None, Access.PEER]


def test_a_client_token_that_was_one_is_no_peers_token_afterwards() -> None:
    table = TokenTable(["same"], ["same"])
    table.replace(["new"], ["new"])
    assert table.access("same") is Access.PEER
    table = TokenTable(["old"], [])
    table.replace(["new"], [])
    assert table.access("old") is None


def test_a_rotation_never_admits_callers_without_a_token() -> None:
    table = TokenTable(["old"])
    with pytest.raises(ValueError, match="at least one"):
        table.replace([], ["peer"])
    with pytest.raises(ValueError, match="empty"):
        table.replace([""], [])
    assert (table.anonymous, table.access("old"), table.access("")) == (False, Access.FULL, None)


def test_bytes_that_are_no_text_are_refused_without_an_error() -> None:
    assert TokenTable(["client"]).access(b"\xff\xfe".decode("utf-8", "surrogateescape")) is None


def test_a_table_holds_no_token_in_the_clear() -> None:
    table = TokenTable(["client-canary"], ["peer-canary"])
    assert b"canary" not in pickle.dumps(table)
    assert repr(table) == "<TokenTable full=1 peer=1>"


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
