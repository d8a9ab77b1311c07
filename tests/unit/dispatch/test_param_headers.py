"""Which `Mcp-Param-*` headers a call gets from the schema of its tool."""

from collections.abc import Mapping
from typing import Any

import pytest

from agent.dispatch.param_headers import ParamHeaders, received_headers
from agent.model import Json
from agent.routing.table import Replica, Route, RouteKind

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
