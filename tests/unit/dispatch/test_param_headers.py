"""Which `Mcp-Param-*` headers a call gets from the schema of its tool."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from agent.dispatch.param_headers import TOO_MANY, ParamHeaders, disagreement, received_headers
from agent.errors import RpcError
from agent.lossless_json.large import Crowded, read_large
from agent.model import HEADER_BYTES_MAX, Json
from agent.routing.table import Replica, Route, RouteKind
from tests.unit.lossless_json.test_proof import ended

REPLICA = Replica("peer:a", "a__add", "id-a", ours=False, hops=1)


def route(properties: dict[str, Any]) -> Route:
    definition = {"name": "add", "inputSchema": {"type": "object", "properties": properties}}
    return Route(RouteKind.TOOL, "a__add", definition, "digest", (REPLICA,), listed=True, owner="service:a")


def outgoing(asking: Route, params: Json, told: Mapping[str, str] | None = None) -> Mapping[str, str] | None:
    return ParamHeaders().outgoing("tools/call", asking, params, told)


def test_arguments_are_repeated_in_the_headers_that_their_schema_asks_for() -> None:
    asking = route({"region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer"}})
    assert outgoing(asking, {"arguments": {"region": "eu", "n": 1}}) == {"Mcp-Param-Region": "eu"}
    assert outgoing(asking, {"arguments": {"n": 1}}) is None
    assert outgoing(asking, {}) is None


def test_what_a_client_sent_goes_on_unless_the_schema_knows_better() -> None:
    asking = route({"region": {"type": "string", "x-mcp-header": "Region"}})
    told = received_headers(
        [("MCP-Param-Region", "us"), ("mcp-param-Shard", "7"), ("Cookie", "a=b"), ("X-Mcp-Param", "x")]
    )
    assert told == {"mcp-param-region": "us", "mcp-param-shard": "7"}
    arguments = {"arguments": {"region": "eu"}}
    assert outgoing(asking, arguments, told) == {"Mcp-Param-Region": "eu", "mcp-param-shard": "7"}
    # Of an argument that is not there no header may speak.
    assert outgoing(asking, {}, told) == {"mcp-param-shard": "7"}
    assert outgoing(route({}), arguments, told) == told
    assert ParamHeaders().outgoing("prompts/get", asking, arguments, told) == told


def test_one_header_in_several_lines_is_one() -> None:
    assert received_headers([("Mcp-Param-A", "1"), ("mcp-param-a", "2")]) == {"mcp-param-a": "1, 2"}


@pytest.mark.parametrize(
    "properties",
    [
        {"region": {"type": "string", "x-mcp-header": "Bad name\r\nX: y"}},
        {"region": {"type": "string", "x-mcp-header": "Q"}, "n": {"type": "integer", "x-mcp-header": "q"}},
        {"region": {"type": "string", "x-mcp-header": 5}},
        {"region": {"x-mcp-header": "Region"}},
    ],
)
def test_a_schema_that_asks_wrongly_asks_for_nothing_so_that_its_tool_can_be_called(properties: dict[str, Any]) -> None:
    assert outgoing(route(properties), {"arguments": {"region": "eu", "n": 1}}) is None


def large_arguments(text: str) -> Json:
    """As a large body has them."""
    message = orjson.dumps({"params": {"arguments": {"region": text, "rows": ["x" * 200_000]}}})
    arguments: Json = ended(read_large(message))["params"]["arguments"]
    return arguments


REGION: Json = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


@pytest.mark.parametrize("text", ["eu", "eu" * 5_000])
def test_arguments_of_a_large_body_are_repeated_as_those_of_a_small_one(text: str) -> None:
    asking, large = route(REGION["properties"]), large_arguments(text)
    assert outgoing(asking, {"arguments": large}) == outgoing(asking, {"arguments": {"region": text}})
    assert disagreement(REGION, {"arguments": large}, {"Mcp-Param-Region": text}) is None
    assert disagreement(REGION, {"arguments": large}, {"Mcp-Param-Region": "us"}) is not None
    assert disagreement(REGION, {"arguments": large}, {}) is not None


def test_a_text_that_no_header_repeats_is_refused_though_it_was_not_read() -> None:
    large = large_arguments("é" * 150_000)
    assert isinstance(large["region"], orjson.Fragment)
    assert disagreement(REGION, {"arguments": large}, {}) == disagreement(REGION, {"arguments": {"region": "é"}}, {})
    sent = outgoing(route(REGION["properties"]), {"arguments": large})
    assert sent is not None
    assert len(sent["Mcp-Param-Region"]) > HEADER_BYTES_MAX


def test_arguments_with_too_many_members_are_refused_where_a_header_has_to_repeat_one() -> None:
    crowded = Crowded({"region": orjson.Fragment(b'"eu","region":"us"')})
    assert disagreement(REGION, {"arguments": crowded}, {"Mcp-Param-Region": "eu"}) == TOO_MANY
    with pytest.raises(RpcError, match="too many members"):
        outgoing(route(REGION["properties"]), {"arguments": crowded})
    assert outgoing(route({}), {"arguments": crowded}) is None
    beside = {"region": "eu", "rows": crowded}
    assert disagreement(REGION, {"arguments": beside}, {"Mcp-Param-Region": "eu"}) is None
    assert outgoing(route(REGION["properties"]), {"arguments": beside}) == {"Mcp-Param-Region": "eu"}


COUNT: Json = {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}}


@pytest.mark.parametrize("number", [b"1." + b"0" * 300, b"-0." + b"0" * 300, b"1e" + b"0" * 300 + b"1"])
def test_a_long_number_that_may_be_a_whole_one_is_refused_where_a_header_has_to_repeat_it(number: bytes) -> None:
    arguments = {"n": orjson.Fragment(number)}
    for told in ({}, {"Mcp-Param-N": "1"}):
        assert disagreement(COUNT, {"arguments": arguments}, told) == TOO_MANY
    with pytest.raises(RpcError):
        outgoing(route(COUNT["properties"]), {"arguments": arguments})


def test_what_lies_in_a_value_that_was_not_read_is_refused_where_a_header_has_to_repeat_it() -> None:
    schema: Json = {"type": "object", "properties": {"in": {"type": "object", "properties": REGION["properties"]}}}
    arguments = {"in": orjson.Fragment(b'{"region":"eu"}')}
    for told in ({}, {"Mcp-Param-Region": "eu"}):
        assert disagreement(schema, {"arguments": arguments}, told) == TOO_MANY


def test_arguments_with_too_many_members_are_well_where_no_header_repeats_any() -> None:
    crowded = Crowded({"a": orjson.Fragment(b'"x","b":0')})
    schema: Json = {"type": "object", "description": "without an x-mcp-header"}
    assert disagreement(schema, {"arguments": crowded}, {}) is None
