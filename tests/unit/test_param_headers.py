"""Which `Mcp-Param-*` headers a call gets from the schema of its tool."""

from typing import Any

import pytest

from agent.core.route_table import Replica, Route, RouteKind
from agent.links.param_headers import ParamHeaders

REPLICA = Replica("peer:a", "a__add", "id-a", ours=False, hops=1)


def route(properties: dict[str, Any]) -> Route:
    definition = {"name": "add", "inputSchema": {"type": "object", "properties": properties}}
    return Route(RouteKind.TOOL, "a__add", definition, "digest", (REPLICA,), listed=True, owner="service:a")


def test_arguments_are_repeated_in_the_headers_that_their_schema_asks_for() -> None:
    asking = route({"region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer"}})
    assert ParamHeaders().of(asking, {"arguments": {"region": "eu", "n": 1}}) == {"Mcp-Param-Region": "eu"}
    assert ParamHeaders().of(asking, {"arguments": {"n": 1}}) == {}
    assert ParamHeaders().of(asking, {}) is None


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
    assert ParamHeaders().of(route(properties), {"arguments": {"region": "eu", "n": 1}}) is None
