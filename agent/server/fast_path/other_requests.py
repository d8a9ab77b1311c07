"""aiohttp's protocol for all that the fast path does not serve, with our own words for what is no request at all.

Made by `agent.server.fast_path.serving`. The one rule: what a stranger sends that cannot be read is neither repeated
nor logged as a fault of ours, and the answer names no versions.
"""

import logging
from http import HTTPStatus
from typing import Final

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger(__name__)

_UNREADABLE: Final = "The request cannot be read as HTTP/1.1 within this node's limits"
_FAILED: Final = "Something went wrong in this node; its log says what"


class OtherRequests(RequestHandler):
    """See the module."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """As `RequestHandler.handle_error`: the connection's last answer."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            super().handle_error(request, status, exc, message)  # For its words in the log; it raises in mid-answer.
        else:
            log.debug("request refused unread", extra={"client": request.remote, "status": status})
        ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        error = {"code": "internal_error" if ours else "bad_request", "detail": None}
        body = {"success": False, "message": _FAILED if ours else _UNREADABLE, "error": error}
        response = web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
        response.headers["Server"] = "mcp-mesh-agent"
        response.force_close()
        return response
