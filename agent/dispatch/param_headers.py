"""The `Mcp-Param-*` headers of a forwarded request: those that a tool's schema requires, and unknown ones.

Called by the endpoints for the headers received, and by dispatch for those sent. The one rule: a header that repeats an
argument is written from the body that we send, never copied from the client.
"""

import re
from collections.abc import Generator, Iterable, Mapping
from typing import Final

import orjson

from agent.errors import MCPError, RpcError
from agent.lossless_json.unread import Unread, arguments_at
from agent.mcp_headers import (
    PARAM_HEADER,
    ParamPath,
    is_param_header,
    param_disagreement,
    param_header_map,
    param_headers,
)
from agent.model import Json
from agent.routing.table import Route

# One entry per tool definition ever called; beyond it the memory starts anew, which only costs time.
MEMORY_MAX: Final = 10_000

# Python's own limit of digits; a longer number is in no header, here and at the other end.
_INTEGER: Final = re.compile(rb"-?[0-9]{1,4300}")

HeaderMap = Mapping[ParamPath, str]


def received_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those of a request's headers that repeat arguments, or may, by names in lower case."""
    told: dict[str, str] = {}
    for name, value in headers:
        if is_param_header(name):
            key = name.lower()
            told[key] = f"{told[key]}, {value}" if key in told else value
    return told


def asks_for_headers(schema: Json) -> bool:
    """Whether a tool's schema may ask for any; a scan of the bytes, for most have no such annotation to walk to."""
    return b"x-mcp-header" in orjson.dumps(schema)


def disagreement(schema: Json, params: Json, headers: Mapping[str, str]) -> str | None:
    """Where a client's headers do not say what the arguments of its call say, if its tool's schema asks for headers."""
    arguments = arguments_at(params, lambda: param_header_map(schema))
    return param_disagreement(schema, with_whole_numbers(arguments or {}), headers)


def looked_into(schema: object, arguments: Unread) -> Generator[None, None, None]:
    """The steps of looking into large arguments for a call's headers; what asks for these then finds it remembered.

    Raises `MCPError` for arguments that hold too many values to be looked into.
    """
    yield from arguments.look_at(_header_map(schema))


class ParamHeaders:
    """Remembers, by digest, which definitions require headers; most do not."""

    def __init__(self) -> None:
        self._maps: dict[str, HeaderMap] = {}

    def outgoing(
        self, method: str, route: Route, params: Json, told: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        """The headers to send with a request, None when there are none. `told`: as from `received_headers`.

        Those that the schema knows repeat the arguments. Others may be for another hop, and pass (MCP 2026-07-28,
        custom headers: intermediaries must forward what they do not recognise). Raises `RpcError` for arguments that
        hold too many values to be looked into.
        """
        asked_for = self._asked_for(route) if method == "tools/call" else {}
        if not asked_for:
            return told or None
        known = {f"{PARAM_HEADER}{token}".lower() for token in asked_for.values()}
        try:
            arguments = arguments_at(params, lambda: asked_for)
        except MCPError as exc:
            raise RpcError(exc.code, exc.message) from exc
        repeated = param_headers(asked_for, with_whole_numbers(arguments)) if isinstance(arguments, dict) else {}
        return {name: value for name, value in (told or {}).items() if name not in known} | repeated or None

    def asks(self, route: Route) -> bool:
        """Whether the tool of a route requires any."""
        return bool(self._asked_for(route))

    def _asked_for(self, route: Route) -> HeaderMap:
        header_map = self._maps.get(route.digest)
        if header_map is None:
            if len(self._maps) >= MEMORY_MAX:
                self._maps.clear()
            header_map = self._maps[route.digest] = _header_map(route.definition.get("inputSchema"))
        return header_map


def with_whole_numbers(arguments: Json) -> Json:
    """The same with integers beyond 64 bits as Python's, since a header repeats every integer.

    A copy where there are any; nested objects are included, as annotations may be there, lists are not.
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
    if not isinstance(schema, dict) or not asks_for_headers(schema):
        return {}
    # An invalid annotation counts as none: its server checks none either (MCP 2026-07-28, custom headers).
    return param_header_map(schema)
