"""What the claims of an access token allow, by the rules of an operator."""

from typing import Any

import pytest

from agent.authority.grant import Grant, Scope
from agent.authority.oauth import ClaimRule, OAuthRules

ADMIN = Grant("rule", frozenset({Scope.ADMIN}))
CLIENT = Grant("rule", frozenset({Scope.MCP}), calls_per_s=5)
RULES = OAuthRules(
    "https://id.example",
    "https://mesh.example/mcp",
    (ClaimRule("groups", "ops", ADMIN), ClaimRule("scope", "mesh", CLIENT), ClaimRule("tenant", "a b", CLIENT)),
)
RIGHT: dict[str, Any] = {"sub": "ada", "exp": 2_000_000_000}


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"groups": ["staff", "ops"]}, {Scope.ADMIN}),
        ({"groups": "ops"}, {Scope.ADMIN}),
        ({"groups": ["ops"], "scope": "mesh"}, {Scope.ADMIN}),
        ({"scope": "openid mesh"}, {Scope.MCP}),
        ({"tenant": "a b"}, {Scope.MCP}),
        ({"tenant": "a"}, None),
        ({"scope": "meshes"}, None),
        ({"groups": {"ops": True}}, None),
        ({"groups": "staff ops"}, None),
        ({}, None),
    ],
)
def test_the_first_rule_that_fits_decides(claims: dict[str, Any], scopes: set[Scope] | None) -> None:
    grant = RULES.grant_of({**RIGHT, **claims})
    assert (None if grant is None else grant.scopes) == scopes


def test_a_grant_is_its_holders_own_and_ends_with_the_token() -> None:
    grant = RULES.grant_of({**RIGHT, "scope": "mesh"})
    assert grant is not None
    assert (grant.name, grant.until_s, grant.calls_per_s) == ("ada of https://id.example", 2_000_000_000, 5)
    other = RULES.grant_of({**RIGHT, "sub": "eve", "scope": "mesh"})
    assert other is not None
    assert grant.binding != other.binding
    assert grant.realm != Grant("ada").realm


@pytest.mark.parametrize(
    "claims",
    [
        *({"sub": ""}, {"sub": 7}, {"exp": None}, {"exp": "soon"}),
        *({"exp": 10**400}, {"exp": float("nan")}, {"exp": float("inf")}, {"exp": -1}),
    ],
)
def test_a_token_without_holder_or_end_allows_nothing(claims: dict[str, Any]) -> None:
    assert RULES.grant_of({**RIGHT, "scope": "mesh", **claims}) is None


def test_an_empty_claim_fits_every_token_of_the_issuer() -> None:
    rules = OAuthRules("https://id.example", "https://mesh.example/mcp", (ClaimRule("", "", CLIENT),), "email")
    assert rules.grant_of(RIGHT) is None
    grant = rules.grant_of({**RIGHT, "email": "ada@example.org"})
    assert grant is not None
    assert grant.name == "ada@example.org of https://id.example"


@pytest.mark.parametrize("taken", ["MESH_TOKEN", "anonymous", "node 0f", "ci"])
def test_a_holder_cannot_take_the_name_by_which_another_caller_is_recorded_and_counted(taken: str) -> None:
    grant = RULES.grant_of({**RIGHT, "sub": taken, "scope": "mesh"})
    assert grant is not None
    assert grant.name != taken


@pytest.mark.parametrize(("one", "other"), [(120 * "a" + "b", 120 * "a" + "c"), ("ada", "ada\n"), ("ada", "ada\u200b")])
def test_names_that_look_alike_are_two_holders(one: str, other: str) -> None:
    names = {
        grant.name
        for name in (one, other)
        if (grant := RULES.grant_of({**RIGHT, "sub": name, "scope": "mesh"})) is not None
    }
    assert len(names) == 2
    assert all(len(name) < 130 and name.isprintable() for name in names)
