"""The `Mcp-Param-*` headers of a forwarded request: those that a tool's schema requires, and unknown ones.

Called by the endpoints for the headers received, and by dispatch for those sent. The one rule: a header that repeats an
argument is written from the body that we send, never copied from the client.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

from agent.errors import RpcError
from agent.lossless_json.exact import read_json
from agent.lossless_json.large import Crowded
from agent.mcp_headers import (
    PARAM_HEADER,
    ParamPath,
    is_param_header,
    param_disagreement,
    param_header_map,
    param_headers,
)
from agent.model import HEADER_BYTES_MAX, Json
from agent.routing.table import Route
from agent.rpc_codes import INVALID_PARAMS

# One entry per tool definition ever called; beyond it the memory starts anew, which only costs time.
MEMORY_MAX: Final = 10_000

# Python's own limit of digits; a longer number is in no header, here and at the other end.
_INTEGER: Final = re.compile(rb"-?[0-9]{1,4300}")
_NUMBER_UNREAD: Final = re.compile(rb"-?[0-9]++[.eE]")

# As JSON: an escape takes six bytes for one of a header.
_TEXT_BYTES_MAX: Final = 6 * HEADER_BYTES_MAX
TOO_MANY: Final = "arguments: too many members to be repeated in headers"

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
    arguments = params.get("arguments") or {}
    if any(_is_hidden(arguments, path) for path in param_header_map(schema)):
        return TOO_MANY
    return param_disagreement(schema, as_repeated(arguments), headers)


class ParamHeaders:
    """Remembers, by digest, which definitions require headers; most do not."""

    def __init__(self) -> None:
        self._maps: dict[str, HeaderMap] = {}

    def outgoing(
        self, method: str, route: Route, params: Json, told: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        """The headers to send with a request, None when there are none. `told`: as from `received_headers`.

        Raises `RpcError` for arguments that cannot be looked into.
        Those that the schema knows repeat the arguments. Others may be for another hop, and pass (MCP 2026-07-28,
        custom headers: intermediaries must forward what they do not recognise).
        """
        asked_for = self._asked_for(route) if method == "tools/call" else {}
        if not asked_for:
            return told or None
        known = {f"{PARAM_HEADER}{token}".lower() for token in asked_for.values()}
        arguments = params.get("arguments")
        if any(_is_hidden(arguments, path) for path in asked_for):
            raise RpcError(INVALID_PARAMS, TOO_MANY)
        repeated = param_headers(asked_for, as_repeated(arguments)) if isinstance(arguments, dict) else {}
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


def _is_hidden(arguments: object, path: ParamPath) -> bool:
    """Whether there may be a value at this path that was not read."""
    for name in path:
        if isinstance(arguments, Crowded | orjson.Fragment):
            return True
        arguments = arguments.get(name) if isinstance(arguments, dict) else None
    # A long number may be a whole one however it is written.
    return isinstance(arguments, orjson.Fragment) and _NUMBER_UNREAD.match(orjson.dumps(arguments)) is not None


def as_repeated(arguments: Json) -> Json:
    """The same with what a header has to repeat of values that stay JSON: whole numbers, and texts.

    A copy where there are any; nested objects are included, as annotations may be there, lists are not. Of a text that
    is longer than all headers its beginning stands for it, which no header repeats either.
    """
    found: Json = {}
    if isinstance(arguments, Crowded):
        return found
    for name, value in arguments.items():
        if isinstance(value, orjson.Fragment):
            text = orjson.dumps(value)
            if _INTEGER.fullmatch(text) is not None:
                found[name] = int(text)
            elif text.startswith(b'"'):
                found[name] = _text(value, text)
        elif isinstance(value, dict) and not isinstance(value, Crowded) and (inner := as_repeated(value)) is not value:
            found[name] = inner
    return {**arguments, **found} if found else arguments


def _text(value: orjson.Fragment, text: bytes) -> object:
    if len(text) > _TEXT_BYTES_MAX:
        return text[:_TEXT_BYTES_MAX].decode("utf-8", "replace")
    read = read_json(text)
    return read if isinstance(read, str) else value  # With half a surrogate pair, no header repeats it.


def _header_map(schema: object) -> HeaderMap:
    if not isinstance(schema, dict) or not asks_for_headers(schema):
        return {}
    # An invalid annotation counts as none: its server checks none either (MCP 2026-07-28, custom headers).
    return param_header_map(schema)
