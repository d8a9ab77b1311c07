"""The one shape of every REST answer, and the one place where failures become answers.

Handlers return `success(...)`, read bodies with `read_json` and raise; `envelope_middleware` around them turns the
exception into the error envelope, or under `/mcp` into a JSON-RPC error, whose text alone clients of MCP show. The one
rule: an error names the field and the fix, and never repeats a value that the client sent or a detail of ours that it
need not know.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from agent.errors import (
    AuthRefused,
    ConfigRefused,
    DialledOurselves,
    DialRefused,
    IdentityRefused,
    MeshError,
    OverrideRefused,
    ProtocolBroken,
    Unreachable,
)
from agent.harmless_text import one_line
from agent.lossless_json.exact import is_deeper_than
from agent.rpc_codes import INTERNAL_ERROR, INVALID_REQUEST
from agent.server.request import refuse

if TYPE_CHECKING:
    from pydantic import ValidationError

log = logging.getLogger(__name__)

REST_BODY_BYTES_MAX = 64 * 1024  # The largest honest body is a URL and a token, a few hundred bytes.
REST_BODY_TIMEOUT_S = 10.0
JSON_DEPTH_MAX = 64  # Far deeper than any body of ours, far less than what exhausts a stack.
ERRORS_SHOWN_MAX = 20
FIELD_CHARS_MAX = 64

_MCP_PATH = "/mcp"
_OUR_FAULT = 500
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    411: "length_required",
    413: "body_too_large",
    415: "unsupported_media_type",
    417: "expectation_failed",
    429: "too_many_requests",
    503: "unavailable",
}
# Pydantic's type of error -> the fix.
_FIXES = {
    "missing": "add it",
    "extra_forbidden": "remove it",
    "string_type": "send text",
    "model_type": "send a JSON object",
    "enum": "use one of the values named",
}
# Its messages for these repeat the value that was sent.
_ECHOING = {"union_tag_invalid": "The tag is not one of the known ones"}

_MESH_FAILURES: dict[type[MeshError], tuple[int, str]] = {
    AuthRefused: (502, "peer_auth_refused"),
    ConfigRefused: (422, "config_refused"),
    DialRefused: (403, "address_refused"),
    DialledOurselves: (409, "own_node"),
    IdentityRefused: (502, "peer_identity_refused"),
    ProtocolBroken: (502, "peer_protocol_broken"),
    Unreachable: (502, "peer_unreachable"),
}


class RequestRefused(MeshError):
    """A request that cannot be served as it is; `status` is the HTTP status, `code` the envelope's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return JSON as it is."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def success(data: Any, message: str, *, status: int = 200) -> web.Response:
    """Return the success envelope; `data` is any value that orjson can write."""
    return json_response({"success": True, "data": data, "message": message}, status)


def failure(
    status: int, code: str, message: str, *, detail: Any = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return the error envelope. `code` is for programs and never changes, `message` is for people."""
    body = {"success": False, "message": message, "error": {"code": code, "detail": detail}}
    return json_response(body, status, headers)


def is_mcp_path(path: str) -> bool:
    """Whether clients of MCP come to this path: an endpoint, or a path below that may be none."""
    return path == _MCP_PATH or path.startswith(f"{_MCP_PATH}/")


def refused(
    request: web.Request,
    status: int,
    code: str,
    message: str,
    *,
    detail: Any = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return an error in the words of the request's path: `failure`, or a JSON-RPC error that names no ID."""
    if not is_mcp_path(request.rel_url.path_safe):
        return failure(status, code, message, detail=detail, headers=headers)
    data = {"code": code} if detail is None else {"code": code, "detail": detail}
    rpc_code = INTERNAL_ERROR if status == _OUR_FAULT else INVALID_REQUEST
    return refuse(status, message, rpc_code, headers=headers, data=data)


async def read_json(request: web.Request) -> Any:
    """Read a REST body of at most 64 KiB and 64 levels. Raises RequestRefused (400, 408, 413)."""
    body = await _read_bounded(request)
    if not body.strip():
        raise RequestRefused(400, "invalid_json", "The body is empty; send a JSON object")
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestRefused(
            400, "invalid_json", f"The body is not JSON: line {exc.lineno}, column {exc.colno}"
        ) from exc
    if is_deeper_than(parsed, JSON_DEPTH_MAX):
        raise RequestRefused(400, "invalid_json", f"The body is nested more than {JSON_DEPTH_MAX} levels deep")
    return parsed


@web.middleware
async def envelope_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn any exception of a handler into an answer; belongs before all middlewares that may raise."""
    try:
        return await handler(request)
    except ConnectionError:
        # The client has gone. aiohttp notices that a moment later and cancels this task; an exception before that would
        # be logged as a fault of ours, with a trace.
        await asyncio.sleep(0)
        raise
    except web.HTTPRedirection:
        raise  # An answer, not a failure.
    except Exception as exc:  # the edge: nothing but an answer may leave it
        if request.writer.output_size > 0:
            raise  # An answer has begun; aiohttp cuts the connection, so that no client takes the part for the whole.
        return describe_failure(exc, request)


def describe_failure(exc: Exception, request: web.Request) -> web.StreamResponse:
    """Return the answer to a request that ended in `exc`; logs a trace when we did not expect it."""
    match exc:
        case OverrideRefused() | RequestRefused():
            return refused(request, exc.status, exc.code, str(exc))
        case _ if _is_invalid(exc):
            faults = _faults(exc)
            shown = "; ".join(f"{fault['field']}: {fault['problem']}" for fault in faults)
            return refused(request, 422, "invalid_input", f"Invalid input: {shown}", detail=faults)
        case web.HTTPException():
            return _describe_http(exc, request)
        case web.RequestPayloadError():
            return refused(request, 400, "bad_request", "The body cannot be decoded")
        case MeshError() if type(exc) in _MESH_FAILURES:
            status, code = _MESH_FAILURES[type(exc)]
            return refused(request, status, code, str(exc))
        case _:
            log.error("request failed", extra={"method": request.method}, exc_info=exc)
            return refused(request, 500, "internal_error", "Something went wrong in this node; its log says what")


def _describe_http(exc: web.HTTPException, request: web.Request) -> web.StreamResponse:
    headers = {name: value for name, value in exc.headers.items() if name in ("Allow", "Retry-After")}
    message = exc.reason
    if isinstance(exc, web.HTTPNotFound):
        message = "There is nothing at this path"
    elif isinstance(exc, web.HTTPMethodNotAllowed):
        message = f"{one_line(request.method, 16)} is not allowed here; use {headers.get('Allow', 'another method')}"
    return refused(request, exc.status, _CODES.get(exc.status, "http_error"), message, headers=headers)


def _is_invalid(exc: Exception) -> "TypeGuard[ValidationError]":
    """Whether pydantic refused the input; it is imported only when there is some (`agent.rest.peer_request`)."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(exc, pydantic.ValidationError)


def _faults(exc: "ValidationError") -> list[dict[str, str]]:
    """Name each bad field; values stay out, for one may be a token in the wrong place."""
    faults = []
    for error in exc.errors(include_input=False, include_url=False, include_context=False)[:ERRORS_SHOWN_MAX]:
        kind = error["type"]
        problem = _ECHOING.get(kind, error["msg"]).removeprefix("Value error, ")
        if kind in _FIXES:
            problem = f"{problem} ({_FIXES[kind]})"
        field = ".".join(str(part) for part in error["loc"]) or "body"
        faults.append({"field": one_line(field, FIELD_CHARS_MAX), "problem": one_line(problem, 300)})
    return faults


async def _read_bounded(request: web.Request) -> bytes:
    too_large = RequestRefused(413, "body_too_large", f"The body is larger than {REST_BODY_BYTES_MAX} bytes")
    if (request.content_length or 0) > REST_BODY_BYTES_MAX:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(REST_BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > REST_BODY_BYTES_MAX:
                    raise too_large
    except TimeoutError:
        message = f"The body did not arrive within {REST_BODY_TIMEOUT_S:g} s"
        raise RequestRefused(408, "request_timeout", message) from None
    return bytes(body)
