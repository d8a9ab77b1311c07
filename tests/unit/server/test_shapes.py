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
    MODERN_PROTOCOL_VERSIONS,
    PROTOCOL_VERSION_META_KEY,
)
from agent.server.sdk_shapes import shaped
from agent.server.shapes import surely_initialize, surely_request

# What JSON gives, half pairs of surrogates too, and what Python makes of numbers beyond all bounds.
texts = st.sampled_from(["a", "2026-07-28", "é", "\ud800", "info", ""])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2), max_leaves=6
)
NAMES = ["name", "version", "title", "icons", "form", "url", "tools", "context", "listChanged", "list", "x", "\ud800"]
objects = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=3)
anything = json_values | objects


def object_with(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with any of these members, each right or not; the reserved ones have their own names."""
    return st.fixed_dictionaries({}, optional=members)


named = st.fixed_dictionaries(
    {"name": texts, "version": texts}, optional={"icons": anything, "title": scalars, "x": anything}
)
infos = named | anything
capabilities = (
    object_with(
        roots=object_with(listChanged=scalars) | anything,
        sampling=objects,
        elicitation=objects,
        experimental=st.dictionaries(texts, objects, max_size=2) | anything,
        extensions=st.dictionaries(texts, objects, max_size=2) | anything,
        tasks=anything,
        other=anything,
    )
    | anything
)
metas = (
    st.fixed_dictionaries(
        {PROTOCOL_VERSION_META_KEY: st.just(LATEST_MODERN_VERSION), CLIENT_CAPABILITIES_META_KEY: capabilities},
        optional={
            CLIENT_INFO_META_KEY: infos,
            LOG_LEVEL_META_KEY: anything,
            "progressToken": anything,
            "progress_token": anything,
            "io_modelcontextprotocol_log_level": anything,
            "mesh-agent/x": anything,
        },
    )
    | anything
)
filters = object_with(
    toolsListChanged=scalars,
    promptsListChanged=scalars,
    resourcesListChanged=scalars,
    tools_list_changed=scalars,
    resourceSubscriptions=st.lists(texts, max_size=2) | anything,
    taskIds=st.lists(texts, max_size=2) | anything,
)
requests = object_with(
    name=texts | anything,
    uri=texts | anything,
    arguments=anything,
    notifications=filters | anything,
    requestState=anything,
    inputResponses=anything,
    task=anything,
    meta=anything,
    other=anything,
)
METHODS = st.sampled_from([*sorted(MODERN_METHODS), "ping", "x"])


@given(METHODS, requests, metas)
def test_a_request_that_is_surely_well_formed_is_one_to_the_sdk(method: str, asked: Any, meta: Any) -> None:
    params = {**asked, "_meta": meta}
    if surely_request(method, params):
        for version in MODERN_PROTOCOL_VERSIONS:
            parse_client_request(method, version, params)


@given(filters, metas)
def test_a_filter_that_is_surely_well_formed_is_read_as_the_sdk_reads_it(asked: Any, meta: Any) -> None:
    params = {"notifications": asked, "_meta": meta}
    if surely_request("subscriptions/listen", params):
        read = shaped("subscriptions/listen", params)["notifications"]
        assert read == {name: value for name, value in asked.items() if value is not None}


@given(
    st.fixed_dictionaries(
        {"protocolVersion": texts, "clientInfo": infos, "capabilities": capabilities},
        optional={"_meta": anything, "other": anything},
    )
)
def test_an_initialize_that_is_surely_well_formed_is_one_to_the_sdk(params: Any) -> None:
    if surely_initialize(params):
        for version in HANDSHAKE_PROTOCOL_VERSIONS:
            validate_client_request("initialize", version, params)


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}},
        {"elicitation": {"form": {"applyDefaults": True}, "url": {}}, "sampling": {"tools": {}}},
        {"experimental": {"x": {"y": [1, 2.5, None]}}, "extensions": {"io.modelcontextprotocol/ui": {}}, "more": 1},
    ],
)
def test_what_usual_clients_send_passes_without_the_sdk(declared: Any) -> None:
    stamp = ModernStamp(LATEST_MODERN_VERSION, "client")
    meta = {CLIENT_CAPABILITIES_META_KEY: declared, "mesh-agent/path": ["a"], "progressToken": 1}
    for method, asked in {
        "server/discover": {},
        "tools/call": {"name": "t", "arguments": {"a": [{"b": 1}]}},
        "resources/read": {"uri": "config://app"},
        "subscriptions/listen": {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a://b"]}},
    }.items():
        assert surely_request(method, stamp.params({**asked, "_meta": meta}))
    info = {"name": "c", "version": "1", "title": "C", "websiteUrl": "http://c"}
    assert surely_initialize({**initialize_params("client", declared), "clientInfo": info})


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
