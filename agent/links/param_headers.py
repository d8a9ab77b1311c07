"""The `Mcp-Param-*` headers that a tool's schema asks for, computed from the arguments of a call.

Called by dispatch for every forwarded tools/call. The one rule: the headers sent agree with the body sent, whatever
the client in front of us sent itself.
"""

import re
from collections.abc import Mapping
from typing import Final

import orjson
from mcp.shared.inbound import find_invalid_x_mcp_header, mcp_param_headers, x_mcp_header_map

from agent.core.route_table import Route
from agent.model import Json

# One entry per tool definition ever called; beyond it the memory starts anew, which only costs time.
MEMORY_MAX: Final = 10_000

# As many digits as Python makes a number of; what has more is in no header, here and at the other end.
_INTEGER: Final = re.compile(rb"-?[0-9]{1,4300}")

HeaderMap = Mapping[tuple[str, ...], str]


class ParamHeaders:
    """Remembers, by digest, which definitions ask for headers; most never do."""

    def __init__(self) -> None:
        self._maps: dict[str, HeaderMap] = {}

    def of(self, route: Route, params: Json) -> Mapping[str, str] | None:
        """Return the headers to send with this call, None when there are none."""
        header_map = self._maps.get(route.digest)
        if header_map is None:
            if len(self._maps) >= MEMORY_MAX:
                self._maps.clear()
            header_map = self._maps[route.digest] = _header_map(route.definition.get("inputSchema"))
        arguments = params.get("arguments")
        if not header_map or not isinstance(arguments, dict):
            return None
        return mcp_param_headers(header_map, with_whole_numbers(arguments))


def with_whole_numbers(arguments: Json) -> Json:
    """The same with integers beyond 64 bits as such: a header repeats every integer, whatever a message is read with.

    A copy where there are any; objects within objects are looked at, as annotations may be there, lists are not.
    """
    found: Json = {}
    for name, value in arguments.items():
        if isinstance(value, orjson.Fragment):
            text = orjson.dumps(value)
            if _INTEGER.fullmatch(text) is not None:
                found[name] = int(text)
        elif isinstance(value, dict) and (inner := with_whole_numbers(value)) is not value:
            found[name] = inner
    return {**arguments, **found} if found else arguments


def _header_map(schema: object) -> HeaderMap:
    # A scan of the bytes spares walking every schema that has no such annotation.
    if not isinstance(schema, dict) or b"x-mcp-header" not in orjson.dumps(schema):
        return {}
    # What asks for them wrongly asks for none: its server checks none either (MCP 2026-07-28, custom headers).
    return x_mcp_header_map(schema) if find_invalid_x_mcp_header(schema) is None else {}
