"""Checks a stateless request before anything is done for it: one POST of one JSON-RPC message.

Called by `agent.server.stateless` for each request. The protocol's demands on message, headers and envelope are checked
by pure functions of their own rooms; a request that is refused here is answered at once.
The one rule: a message that passes has a method, an ID, an envelope of a version that is served, and headers that say
the same.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy

from agent.errors import MCPError
from agent.late import Late
from agent.lossless_json.exact import read_json
from agent.mcp_terms import MODERN_METHODS
from agent.model import Json
from agent.rpc_codes import ERROR_CODE_HTTP_STATUS, HEADER_MISMATCH, METHOD_NOT_FOUND, PARSE_ERROR
from agent.server.fast_path.connection import FastRequest
from agent.server.inbound import VERSION_HEADER, envelope_error, repeated_header, unsupported_version
from agent.server.request import refuse, speaks_json
from agent.server.shapes import surely_initialize, surely_request


def _sdk_shapes() -> ModuleType:
    from agent.server import sdk_shapes  # noqa: PLC0415 - imports the SDK, which only unusual params need

    return sdk_shapes


_SDK: Final = Late(_sdk_shapes)


def refused_by_head(request: web.Request) -> web.Response | None:
    """The answer to a request that is refused without its body; None for the others."""
    if isinstance(request, FastRequest) and request.head.speaks_json:
        return None  # A POST.
    if request.method != "POST":
        return refuse(405, "A request of this version of the protocol is a POST", headers={"Allow": "POST"})
    if speaks_json(request):
        return None
    if request.content_type != "application/json":
        return refuse(400, "Content-Type: application/json is needed")
    return refuse(406, "Accept: application/json, text/event-stream is needed")


def read_message(
    body: bytes | Json | list[Any], headers: CIMultiDictProxy[str], by_name: Mapping[str, str]
) -> Json | web.Response:
    """The JSON-RPC request of a body, its `params` an object; or what to answer to anything else.

    `body`: as from `read_body`. `by_name`: one value of each header, by names in lower case. A notification is
    acknowledged and dropped: the protocol knows none that a client could send here.
    """
    try:
        message: Any = read_json(body) if isinstance(body, bytes) else body
    except orjson.JSONDecodeError as exc:
        return refuse(400, f"Parse error: {exc}", PARSE_ERROR)
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or "method" not in message:
        return refuse(400, "The body must be one JSON-RPC 2.0 request or notification")
    params, has_id = message.get("params"), "id" in message
    if (
        not isinstance(message["method"], str)
        or not (params is None or isinstance(params, dict))
        or (has_id and type(message["id"]) is not int and not _is_id(message["id"]))
    ):
        return refuse(400, "A request has a text as method, an object as params, and a text or a whole number as id")
    if not has_id:
        error = unsupported_version(headers.get(VERSION_HEADER, ""))
        return web.Response(status=202) if error is None else _rejected(None, error)
    if len(by_name) < len(headers) and (twice := repeated_header(headers.items())) is not None:
        return refuse(400, f"{twice} header appears more than once", HEADER_MISMATCH, request_id=message["id"])
    error = envelope_error(message, by_name)
    return message if error is None else _rejected(message["id"], error)


async def shaped(method: str, params: Json) -> Json:
    """The params in the protocol's shape: as they are, unless the SDK reads one otherwise. Raises `MCPError`.

    `params` hold Python's own numbers, and the envelope that names the version.
    """
    if method not in MODERN_METHODS:
        raise unknown_method(method)
    if surely_request(method, params):
        return params
    read: Json = (await _SDK.get()).shaped(method, params)
    return read


async def is_initialize(params: Json) -> bool:
    """Whether these are params of `initialize`."""
    return surely_initialize(params) or bool((await _SDK.get()).is_initialize(params))


def unknown_method(method: str) -> MCPError:
    """The error of a method that is not served."""
    return MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)


def _rejected(request_id: object, error: MCPError) -> web.Response:
    status = ERROR_CODE_HTTP_STATUS[error.code]
    return refuse(status, error.message, error.code, request_id=request_id, data=error.data)


def _is_id(value: object) -> bool:
    """Whether it is a text or a whole number; beyond 64 bits, and with half a surrogate pair, those stay JSON."""
    if type(value) in (str, int):  # Not a bool, which is an int elsewhere.
        return True
    text = orjson.dumps(value) if isinstance(value, orjson.Fragment) else b""
    return text.startswith(b'"') or text.removeprefix(b"-").isdigit()
