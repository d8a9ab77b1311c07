"""The section `oauth` of the tokens file: read whole, or refused with each fault's place."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.authority.grant import Scope
from agent.authority.oauth import IntrospectionClient
from agent.config.oauth_rules import check_oauth_rules, read_oauth_rules
from agent.errors import ConfigRefused

PATH = Path("/etc/mesh/tokens.json")
RULE = {"claim": "scope", "value": "mesh", "scopes": ["mcp"], "tools": ["notes__*"]}
OAUTH = {"issuer": "https://id.example/realm", "audience": "https://mesh.example/mcp", "rules": [RULE]}


def test_a_section_is_read_with_its_rules_in_order(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": {}, "oauth": {**OAUTH, "rules": [RULE, {"scopes": ["read"]}]}}))
    (rules,) = read_oauth_rules(path)
    assert (rules.issuer, rules.audience, rules.name_claim) == (OAUTH["issuer"], OAUTH["audience"], "sub")
    first, second = rules.rules
    assert (first.claim, first.value, first.grant.scopes) == ("scope", "mesh", {Scope.MCP})
    assert first.grant.reach.tools == ("notes__*",)
    assert (second.claim, second.value) == ("", "")
    assert check_oauth_rules('{"tokens": {}}', PATH) == ()


@pytest.mark.parametrize(
    ("changed", "place", "text"),
    [
        ({"introspection": "yes"}, "oauth.introspection", "must be an object with client_id"),
        (
            {"introspection": {"client_id": "mesh"}},
            "oauth.introspection",
            "one of client_secret and client_secret_file",
        ),
        ({"introspection": {"client_id": "m", "client_secret": "s", "x": "y"}}, "oauth.introspection", "must be an"),
        ({"issuer": "http://id.example"}, "oauth.issuer", "must be a URL with https://"),
        ({"issuer": "https://[::1"}, "oauth.issuer", "must be a URL with https://"),
        ({"audience": "https://mesh.example/mcp?x=1"}, "oauth.audience", "no query"),
        ({"audience": None}, "oauth.audience", "must be a URL"),
        ({"rules": []}, "oauth.rules", "1 to 500 objects"),
        ({"rules": [{**RULE, "value": ""}]}, "oauth.rules[0].claim", "two texts"),
        ({"rules": [{**RULE, "scopes": ["all"]}]}, "oauth.rules[0].scopes[0]", "must be one of"),
        ({"rules": [{**RULE, "group": "x"}]}, "oauth.rules[0].group", "is not known"),
        ({"name_claim": 7}, "oauth.name_claim", "the name of a claim"),
        ({"isuer": "x"}, "oauth.isuer", "is not known"),
    ],
)
def test_a_fault_names_its_place_and_what_would_be_right(changed: dict[str, Any], place: str, text: str) -> None:
    with pytest.raises(ConfigRefused) as refused:
        check_oauth_rules(json.dumps({"tokens": {}, "oauth": {**OAUTH, **changed}}), PATH)
    assert f" {place}:" in str(refused.value)
    assert text in str(refused.value)


def test_a_section_that_is_no_object_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="oauth: must be an object like"):
        check_oauth_rules('{"tokens": {}, "oauth": "https://id.example"}', PATH)


def test_the_secret_for_questions_to_the_issuer_is_read_and_not_shown() -> None:
    asking = {"client_id": "mesh", "client_secret": "canary"}
    (rules,) = check_oauth_rules(json.dumps({"tokens": {}, "oauth": {**OAUTH, "introspection": asking}}), PATH)
    assert rules.introspection == IntrospectionClient("mesh", "canary")
    assert "canary" not in repr(rules)


OTHER = {**OAUTH, "issuer": "https://other.example"}
ASKING = {"introspection": {"client_id": "mesh", "client_secret": "canary"}}


def test_several_issuers_are_an_array_in_their_order() -> None:
    found = check_oauth_rules(json.dumps({"tokens": {}, "oauth": [OAUTH, {**OTHER, "name_claim": "email"}]}), PATH)
    assert [(rules.issuer, rules.name_claim) for rules in found] == [
        ("https://id.example/realm", "sub"),
        ("https://other.example", "email"),
    ]


@pytest.mark.parametrize(
    ("issuers", "place", "text"),
    [
        ([], "oauth", "an array of 1 to 16"),
        ([OTHER] * 17, "oauth", "an array of 1 to 16"),
        ([OAUTH, {**OTHER, "isuer": "x"}], "oauth[1].isuer", "is not known"),
        ([OAUTH, {**OTHER, "rules": [{**RULE, "value": ""}]}], "oauth[1].rules[0].claim", "two texts"),
        ([OAUTH, OAUTH], "oauth[1].issuer", "for the second time"),
        ([OAUTH, {**OTHER, "audience": "https://elsewhere.example"}], "oauth[1].audience", "the same for all issuers"),
        ([{**OAUTH, **ASKING}, {**OTHER, **ASKING}], "oauth[1].introspection", "at one issuer alone"),
    ],
)
def test_what_is_wrong_with_issuers_beside_each_other_is_named(
    issuers: list[dict[str, Any]], place: str, text: str
) -> None:
    with pytest.raises(ConfigRefused) as refused:
        check_oauth_rules(json.dumps({"tokens": {}, "oauth": issuers}), PATH)
    assert f" {place}:" in str(refused.value)
    assert text in str(refused.value)
