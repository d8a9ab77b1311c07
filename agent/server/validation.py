"""Checks a stateless request before anything is done for it: one POST of one JSON-RPC message.

Called by `agent.server.stateless` for each request. The protocol's demands on message, headers and envelope are checked
by the SDK's pure functions; a request that is refused here is answered at once.
The one rule: a message that passes has a method, an ID, an envelope of a version that is served, and headers that say
the same.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
)
from mcp_types import HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, PARSE_ERROR, PROTOCOL_VERSION_META_KEY
from mcp_types.methods import parse_client_request
from multidict import CIMultiDictProxy
from pydantic import ValidationError

from agent.errors import MCPError
from agent.lossless_json.exact import read_json
from agent.model import Json
from agent.server.request import refuse, speaks_json

# An error about params contains the place, whose names are the client's own.
_PLACE_LEN_MAX: Final = 128


def refused_by_head(request: web.Request) -> web.Response | None:
    """The answer to a request that is refused without its body; None for the others."""
    if request.method != "POST":
        return refuse(405, "A request of this version of the protocol is a POST", headers={"Allow": "POST"})
    if speaks_json(request):
        return None
    if request.content_type != "application/json":
        return refuse(400, "Content-Type: application/json is needed")
    return refuse(406, "Accept: application/json, text/event-stream is needed")


def read_message(body: bytes, headers: CIMultiDictProxy[str], by_name: Mapping[str, str]) -> Json | web.Response:
    """The JSON-RPC request of a body, its `params` an object; or what to answer to anything else.

    `by_name`: one value of each header, by names in lower case. A notification is acknowledged and dropped: the
    protocol knows none that a client could send here.
    """
    try:
        message: Any = read_json(body)
    except orjson.JSONDecodeError as exc:
        return refuse(400, f"Parse error: {exc}", PARSE_ERROR)
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or "method" not in message:
        return refuse(400, "The body must be one JSON-RPC 2.0 request or notification")
    params, has_id = message.get("params"), "id" in message
    if (
        not isinstance(message["method"], str)
        or not (params is None or isinstance(params, dict))
        or (has_id and not _is_id(message["id"]))
    ):
        return refuse(400, "A request has a text as method, an object as params, and a text or a whole number as id")
    if not has_id:
        rejection = unsupported_protocol_version_rejection(headers.get(MCP_PROTOCOL_VERSION_HEADER, ""))
        return web.Response(status=202) if rejection is None else _rejected(None, rejection)
    rejected = _rejection(message, headers, by_name)
    return message if rejected is None else rejected


def _rejection(message: Json, headers: CIMultiDictProxy[str], by_name: Mapping[str, str]) -> web.Response | None:
    if len(by_name) < len(headers) and (twice := find_duplicated_routing_header(headers.items())) is not None:
        return refuse(400, f"{twice} header appears more than once", HEADER_MISMATCH, request_id=message["id"])
    verdict = classify_inbound_request(message, headers=by_name)
    return _rejected(message["id"], verdict) if isinstance(verdict, InboundLadderRejection) else None


def check_shape(method: str, params: Json) -> None:
    """Refuse what the protocol does not have, or has in another shape. Raises `MCPError`.

    `params` hold Python's own numbers, and the envelope that names the version.
    """
    try:
        parse_client_request(method, params["_meta"][PROTOCOL_VERSION_META_KEY], params)
    except KeyError as exc:
        raise unknown_method(method) from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:_PLACE_LEN_MAX]
        # Pydantic lists the allowed values in an order that depends on what was imported first.
        reason = "Not a word of the protocol" if first["type"] == "literal_error" else first["msg"]
        raise MCPError(code=INVALID_PARAMS, message=f"{place}: {reason}") from exc


def unknown_method(method: str) -> MCPError:
    """The error of a method that is not served."""
    return MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)


def _rejected(request_id: object, rejection: InboundLadderRejection) -> web.Response:
    status = ERROR_CODE_HTTP_STATUS[rejection.code]
    return refuse(status, rejection.message, rejection.code, request_id=request_id, data=rejection.data)


def _is_id(value: object) -> bool:
    """Whether it is a text or a whole number; beyond 64 bits, and with half a surrogate pair, those stay JSON."""
    if type(value) in (str, int):  # Not a bool, which is an int elsewhere.
        return True
    text = orjson.dumps(value) if isinstance(value, orjson.Fragment) else b""
    return text.startswith(b'"') or text.removeprefix(b"-").isdigit()
