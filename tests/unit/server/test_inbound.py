"""The protocol as the node spells it, held against the SDK: names, codes, headers and the envelope's verdicts."""

from typing import Any, get_args

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared import inbound as sdk
from mcp_types import jsonrpc, methods, version

from agent import mcp_headers, mcp_terms, rpc_codes
from agent.errors import MCPError
from agent.server import inbound

NAMES_OF_CODES = [name for name, value in vars(rpc_codes).items() if name.isupper() and isinstance(value, int)]
NAMES_OF_TERMS = [
    *("HANDSHAKE_PROTOCOL_VERSIONS", "LATEST_HANDSHAKE_VERSION", "MODERN_PROTOCOL_VERSIONS", "LATEST_MODERN_VERSION"),
    *("PROTOCOL_VERSION_META_KEY", "CLIENT_INFO_META_KEY", "CLIENT_CAPABILITIES_META_KEY"),
    *("LOG_LEVEL_META_KEY", "SERVER_INFO_META_KEY", "NAME_BEARING_METHODS"),
]


@pytest.mark.parametrize("name", NAMES_OF_CODES)
def test_each_error_code_is_that_of_the_sdk(name: str) -> None:
    assert getattr(rpc_codes, name) == getattr(jsonrpc, name)


@pytest.mark.parametrize("name", NAMES_OF_TERMS)
def test_each_term_of_the_protocol_is_that_of_the_sdk(name: str) -> None:
    known = next(vars(module)[name] for module in (version, mcp_types, sdk) if name in vars(module))
    assert getattr(mcp_terms, name) == known


def test_statuses_levels_and_methods_are_those_of_the_sdk() -> None:
    modern = {method for method, of in methods.CLIENT_REQUESTS if of in version.MODERN_PROTOCOL_VERSIONS}
    assert rpc_codes.ERROR_CODE_HTTP_STATUS == sdk.ERROR_CODE_HTTP_STATUS
    assert get_args(mcp_types.LoggingLevel) == mcp_terms.LOG_LEVELS
    assert modern == mcp_terms.MODERN_METHODS


# Header values

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
header_values = (
    texts
    | st.text("abc=? ", max_size=8)
    | st.sampled_from(["=?base64??=", "=?base64?YQ==?=", "=?base64?YR==?=", "=?base64?/w==?=", "=?base64?a?="])
    | st.text("ab=/+ ", max_size=8).map(lambda text: f"=?base64?{text}?=")
)


def decoded_by_the_sdk(value: str) -> str | None:
    """Its reading, without its fault: it raises where a value in base64 has characters beyond ASCII."""
    try:
        return sdk.decode_header_value(value)
    except ValueError:
        return None


@given(header_values | texts.map(lambda text: f"=?base64?{text}?="))
def test_a_header_is_encoded_and_decoded_as_the_sdk_does_it(value: str) -> None:
    assert mcp_headers.encode_header_value(value) == sdk.encode_header_value(value)
    assert mcp_headers.decode_header_value(value) == decoded_by_the_sdk(value)
    assert mcp_headers.decode_header_value(mcp_headers.encode_header_value(value)) == value


# Headers that repeat arguments

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["42", "42.0", "007", "a b"])
)
NAMES = st.sampled_from(["a", "b", "Region"])


def nodes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(NAMES, inner, max_size=2) | st.just(5),
            "items": inner,
            "anyOf": st.lists(inner, max_size=2),
            "$defs": st.dictionaries(NAMES, inner, max_size=1),
            "default": inner,
            "type": st.sampled_from(["string", "integer", "boolean", "number", "object", ["string"]]),
            "x-mcp-header": st.sampled_from(["Region", "region", "Zone", "", "not a token", 5]),
        },
    )


parameters = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["string", "integer", "boolean"]),
        "x-mcp-header": st.sampled_from(["Region", "Zone", "A"]),
    }
)
honest_schemas = st.fixed_dictionaries({"properties": st.dictionaries(NAMES, parameters, max_size=3)})
schemas = st.recursive(parameters | scalars, nodes, max_leaves=6) | honest_schemas
arguments = st.dictionaries(NAMES, scalars | st.dictionaries(NAMES, scalars, max_size=2), max_size=3)
NAMES_OF_HEADERS = st.sampled_from(["mcp-param-region", "Mcp-Param-Region", "mcp-param-zone", "mcp-param-a", "Other"])
param_headers = st.dictionaries(NAMES_OF_HEADERS, header_values | scalars.map(str), max_size=3)


@given(schemas, arguments)
def test_the_headers_of_arguments_are_those_that_the_sdk_writes(schema: Any, values: dict[str, Any]) -> None:
    expected = {} if sdk.find_invalid_x_mcp_header(schema) is not None else sdk.x_mcp_header_map(schema)
    assert mcp_headers.param_header_map(schema) == expected
    assert mcp_headers.param_headers(expected, values) == sdk.mcp_param_headers(expected, values)


@given(schemas, arguments, param_headers, st.booleans())
def test_a_header_disagrees_with_its_argument_where_the_sdk_says_so(
    schema: Any, values: dict[str, Any], sent: dict[str, str], honest: bool
) -> None:
    if honest:
        sent |= sdk.mcp_param_headers(mcp_headers.param_header_map(schema), values)
    rejection = sdk.validate_mcp_param_headers(schema, values, sent)
    assert mcp_headers.param_disagreement(schema, values, sent) == (None if rejection is None else rejection.message)


# The envelope

VERSIONS = st.sampled_from(["2026-07-28", "2025-11-25", "", "x"]) | scalars
METHODS = st.sampled_from(["tools/call", "prompts/get", "resources/read", "tools/list", "x/y", ""])
metas = st.fixed_dictionaries(
    {},
    optional={
        mcp_terms.PROTOCOL_VERSION_META_KEY: VERSIONS,
        mcp_terms.CLIENT_CAPABILITIES_META_KEY: scalars,
        "x": texts,
    },
)
params = st.fixed_dictionaries({}, optional={"_meta": metas | scalars, "name": scalars, "uri": scalars}) | st.none()
requests = st.fixed_dictionaries({"method": METHODS}, optional={"params": params})
routing_headers = st.fixed_dictionaries(
    {},
    optional={"mcp-protocol-version": VERSIONS.map(str), "mcp-method": METHODS, "mcp-name": header_values},
)


def fields(error: MCPError | None) -> tuple[int, str, Any] | None:
    return None if error is None else (error.code, error.message, error.data)


@given(requests, routing_headers, st.booleans())
def test_an_envelope_gets_the_verdict_of_the_sdk(message: Any, headers: dict[str, str], honest: bool) -> None:
    asked = message.get("params")
    if honest and isinstance(asked, dict) and isinstance(meta := asked.get("_meta"), dict):
        headers |= {"mcp-method": message["method"]}
        if isinstance(said := meta.get(mcp_terms.PROTOCOL_VERSION_META_KEY), str):
            headers |= {"mcp-protocol-version": said}
        name = asked.get(mcp_terms.NAME_BEARING_METHODS.get(message["method"], ""))
        headers |= {"mcp-name": sdk.encode_header_value(name)} if isinstance(name, str) else {}
    verdict = sdk.classify_inbound_request(message, headers=headers)
    rejected = isinstance(verdict, sdk.InboundLadderRejection)
    expected = (verdict.code, verdict.message, verdict.data) if rejected else None
    assert fields(inbound.envelope_error(message, headers)) == expected


@given(
    st.lists(st.tuples(st.sampled_from(["Mcp-Name", "mcp-name", "MCP-METHOD", "mcp-method", "x"]), texts), max_size=4)
)
def test_a_repeated_routing_header_is_the_one_that_the_sdk_finds(headers: list[tuple[str, str]]) -> None:
    assert inbound.repeated_header(headers) == sdk.find_duplicated_routing_header(headers)


@given(st.sampled_from(["2026-07-28", "2025-11-25", ""]) | texts)
def test_a_version_is_served_where_the_sdk_serves_it(said: str) -> None:
    rejection = sdk.unsupported_protocol_version_rejection(said)
    expected = None if rejection is None else (rejection.code, rejection.message, rejection.data)
    assert fields(inbound.unsupported_version(said)) == expected
