"""Params that are recognised without the SDK: what passes, it accepts, and what usual clients send, passes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types.methods import parse_client_request, validate_client_request

from agent.client.negotiation import ModernStamp, initialize_params
from agent.mcp_terms import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_MODERN_VERSION,
    LOG_LEVEL_META_KEY,
    MODERN_METHODS,
    PROTOCOL_VERSION_META_KEY,
)
from agent.server.sdk_shapes import shaped
from agent.server.shapes import surely_initialize, surely_request

# What JSON gives, half pairs of surrogates too, and what Python makes of numbers beyond all bounds.
# JSON has no others.
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
texts = st.sampled_from(["a", "2026-07-28", "é", "\ud800", "info", ""])
scalars = st.none() | st.booleans() | st.integers() | FLOATS | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2), max_leaves=6
)
NAMES = [
    "src",
    "sizes",
    "requests",
    "cancel",
    "name",
    "version",
    "title",
    "icons",
    "form",
    "url",
    "tools",
    "context",
    "listChanged",
    "list",
    "x",
    "\ud800",
]
objects = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3)
anything = json_values | objects

USUAL_INFO = {"name": "c", "version": "1", "title": "C", "icons": [{"src": "data:,", "sizes": ["any"]}]}
USUAL_CAPABILITIES = {
    "roots": {"listChanged": True},
    "sampling": {"tools": {}, "context": {}},
    "elicitation": {"form": {"applyDefaults": True}, "url": {}},
    "experimental": {"x": {"y": [1, 2.5, None]}},
    "extensions": {"io.modelcontextprotocol/ui": {}},
    "tasks": {"list": {}, "cancel": {}, "requests": {"sampling": {"createMessage": {}}, "elicitation": {"create": {}}}},
}
USUAL_META = {
    PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
    CLIENT_CAPABILITIES_META_KEY: USUAL_CAPABILITIES,
    CLIENT_INFO_META_KEY: USUAL_INFO,
    LOG_LEVEL_META_KEY: "info",
    "progressToken": 1,
    "mesh-agent/path": ["a"],
}
USUAL = {
    "server/discover": {"_meta": USUAL_META},
    "tools/call": {"_meta": USUAL_META, "name": "t", "arguments": {"a": [{"b": 1}]}},
    "resources/read": {"_meta": USUAL_META, "uri": "config://app"},
    "subscriptions/listen": {
        "_meta": USUAL_META,
        "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a://b"], "taskIds": ["t"]},
    },
}
USUAL_INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": USUAL_CAPABILITIES, "clientInfo": USUAL_INFO}


@st.composite
def nearly(draw: st.DrawFn, usual: Any) -> Any:
    """The value, with one of its parts replaced, left out or added to."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(usual, dict | list) or not usual:
        return draw(anything)
    if isinstance(usual, list):
        return [draw(nearly(usual[0])), *usual[1:]]
    name = draw(st.sampled_from(sorted(usual)))
    match draw(st.integers(0, 4)):
        case 0:
            return {key: value for key, value in usual.items() if key != name}
        case 1:
            return {**usual, draw(st.sampled_from([*NAMES, "task", "progress_token", "requestState"])): draw(anything)}
        case _:
            return {**usual, name: draw(nearly(usual[name]))}


@given(st.sampled_from(sorted(USUAL)), st.data())
def test_a_request_that_is_nearly_usual_passes_only_where_the_sdk_accepts_it(method: str, data: st.DataObject) -> None:
    params = data.draw(nearly(USUAL[method]))
    if isinstance(params, dict) and surely_request(method, params):
        parse_client_request(method, LATEST_MODERN_VERSION, params)


@pytest.mark.parametrize("member", ["progressToken", CLIENT_INFO_META_KEY, LOG_LEVEL_META_KEY])
def test_a_null_in_the_envelope_passes_only_where_the_sdk_accepts_it(member: str) -> None:
    params = {**USUAL["tools/call"], "_meta": {**USUAL_META, member: None}}
    if surely_request("tools/call", params):
        parse_client_request("tools/call", LATEST_MODERN_VERSION, params)


@given(nearly(USUAL_INITIALIZE))
def test_an_initialize_that_is_nearly_usual_passes_only_where_the_sdk_accepts_it(params: Any) -> None:
    if isinstance(params, dict) and surely_initialize(params):
        for version in HANDSHAKE_PROTOCOL_VERSIONS:
            validate_client_request("initialize", version, params)


@given(nearly(USUAL["subscriptions/listen"]["notifications"]))
def test_a_filter_that_is_surely_well_formed_is_read_as_the_sdk_reads_it(asked: Any) -> None:
    params = {"notifications": asked, "_meta": USUAL_META}
    if surely_request("subscriptions/listen", params):
        read = shaped("subscriptions/listen", params)["notifications"]
        assert read == {name: value for name, value in asked.items() if value is not None}


@pytest.mark.parametrize("method", sorted({*MODERN_METHODS, "ping", "x"} - USUAL.keys()))
def test_requests_that_a_node_forwards_or_does_not_know_are_left_to_the_sdk(method: str) -> None:
    assert not surely_request(method, {"_meta": USUAL_META, "name": "t"})


def test_what_usual_clients_send_passes_without_the_sdk() -> None:
    for method, params in USUAL.items():
        assert surely_request(method, params)
        stamped = ModernStamp(LATEST_MODERN_VERSION, "client").params({**params, "_meta": {"mesh-agent/path": ["a"]}})
        assert surely_request(method, stamped)
    assert surely_initialize(USUAL_INITIALIZE)
    for declared in ({}, {"roots": {}, "sampling": {}, "elicitation": {}}, {"more": 1}):
        assert surely_initialize(initialize_params("client", declared))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"protocolVersion": "2025-11-25", "capabilities": {}},
        {"protocolVersion": 1, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
        {"protocolVersion": "2025-11-25", "capabilities": [], "clientInfo": {"name": "c", "version": "1"}},
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c"}},
    ],
)
def test_what_is_no_initialize_is_left_to_the_sdk(params: Any) -> None:
    assert not surely_initialize(params)
