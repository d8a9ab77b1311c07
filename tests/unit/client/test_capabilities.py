"""What a caller declared, in the words of `initialize`, and what it may be asked then."""

import pytest

from agent.client.capabilities import (
    EVERY_FEATURE,
    declared_features,
    permits_requests,
    refusal,
    undeclared_features,
)
from agent.model import Json

DEEP: Json = {}
for _ in range(1_000):
    DEEP = {"a": DEEP}

FORM, URL = {"message": "Word?"}, {"mode": "url", "message": "Sign", "url": "https://example.org"}


@pytest.mark.parametrize(
    ("capabilities", "features"),
    [
        (None, {}),
        ([], {}),
        ({"sampling": True, "elicitation": None, "experimental": {}}, {}),
        ({"elicitation": {}, "tasks": {"list": {}}}, {"elicitation": {}}),
        ({"roots": {"listChanged": True}}, {"roots": {}}),
        ({"sampling": {"tools": {}, "new": {}}}, {"sampling": {"tools": {}}}),
        ({"elicitation": {"form": {"applyDefaults": True}}}, {"elicitation": {"form": {"applyDefaults": True}}}),
        ({"elicitation": {"form": DEEP}}, {"elicitation": {"form": {}}}),
        (EVERY_FEATURE, EVERY_FEATURE),
    ],
)
def test_a_server_gets_the_capabilities_that_it_may_use_and_no_others(capabilities: object, features: Json) -> None:
    assert declared_features(capabilities) == features


@pytest.mark.parametrize(("told", "passes"), [(True, True), (False, False), ("yes", False), (None, False)])
def test_changes_of_roots_are_declared_for_a_client_that_can_tell_of_them(told: object, passes: bool) -> None:
    features = declared_features({"roots": {"listChanged": told}, "sampling": {}}, sends_list_changed=True)
    assert features == {"roots": {"listChanged": True} if passes else {}, "sampling": {}}


@pytest.mark.parametrize(
    ("features", "method", "params", "code"),
    [
        ({"elicitation": {}}, "elicitation/create", FORM, None),
        ({"elicitation": {}}, "elicitation/create", URL, -32602),
        ({"elicitation": {"url": {}}}, "elicitation/create", URL, None),
        ({"elicitation": {"url": {}}}, "elicitation/create", FORM, -32602),
        ({"elicitation": {}}, "elicitation/create", {"mode": ["form"]}, -32602),
        ({}, "elicitation/create", FORM, -32601),
        ({"elicitation": True}, "elicitation/create", FORM, -32601),
        ({"sampling": {}}, "sampling/createMessage", {}, None),
        ({"sampling": {}}, "sampling/createMessage", {"tools": []}, -32602),
        ({"sampling": {"tools": {}}}, "sampling/createMessage", {"toolChoice": {}}, None),
        ({"elicitation": {}}, "sampling/createMessage", {}, -32601),
        ({"roots": {}}, "roots/list", {}, None),
        (EVERY_FEATURE, "tasks/list", {}, -32601),
    ],
)
def test_undeclared_server_requests_are_not_permitted(
    features: Json, method: str, params: Json, code: int | None
) -> None:
    refused = refusal(features, method, params)
    assert (None if refused is None else refused[0]) == code


@pytest.mark.parametrize(
    ("capabilities", "questions", "needed"),
    [
        ({"elicitation": {}}, {"a": {"method": "elicitation/create", "params": FORM}}, {}),
        (
            None,
            {
                "a": {"method": "elicitation/create", "params": FORM},
                "b": {"method": "elicitation/create", "params": URL},
            },
            {"elicitation": {"form": {}, "url": {}}},
        ),
        ({"elicitation": {}}, {"a": {"method": "elicitation/create", "params": {"mode": ["x"]}}}, {"elicitation": {}}),
        (
            {"sampling": {}},
            {"a": {"method": "sampling/createMessage", "params": {"tools": []}}, "b": {"method": "roots/list"}},
            {"sampling": {"tools": {}}, "roots": {}},
        ),
        ({}, {"a": {"method": "none/such"}, "b": "roots/list", "c": {"method": ["roots/list"]}}, {}),
        ({}, ["roots/list"], {}),
        ({}, None, {}),
    ],
)
def test_the_error_names_the_capabilities_that_are_missing(
    capabilities: object, questions: object, needed: Json
) -> None:
    assert undeclared_features(capabilities, questions) == needed


def test_pages_are_declared_as_the_client_did_and_permit_no_server_request() -> None:
    pages = {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}}
    declared = declared_features({"extensions": {**pages, "x.example/other": {}}})
    assert declared == {"extensions": pages}
    assert not permits_requests(declared)
    assert permits_requests({**declared, "roots": {}})
