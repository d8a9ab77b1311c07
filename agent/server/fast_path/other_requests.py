"""aiohttp's protocol for all that the fast path does not serve, with our own words for what is no request at all.

Made by `agent.server.fast_path.serving`. The one rule: what a stranger sends that cannot be read is neither repeated
nor logged as a fault of ours, and the answer names no versions.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger(__name__)

# From the first byte of a later request to the end of its head; for the first one see `agent.app.first_bytes`.
LATER_HEAD_S: Final = 10.0
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_BETWEEN: Final = b"\r\n"
_UNREADABLE: Final = "The request cannot be read as HTTP/1.1 within this node's limits"
_FAILED: Final = "Something went wrong in this node; its log says what"


class OtherRequests(RequestHandler):
    """See the module."""

    __slots__ = ("_too_slow",)

    def __init__(self, server: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._too_slow: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`. aiohttp itself waits for the rest of a head as long as for a request."""
        count, waiter = self._request_count, self._waiter
        is_of_head = count == 0 or (waiter is not None and not waiter.done())  # Else it may be of a body.
        # Where it is to close after the request under way, aiohttp drops the rest of that request's body.
        closes, ends = self._close, self._force_close
        if waiter is None:
            self._close = self._force_close = False
        super().data_received(data)
        self._close, self._force_close = self._close or closes, self._force_close or ends
        if self._request_count != count:
            self._forget_time()
        elif is_of_head and self._too_slow is None and data.strip(_BETWEEN):
            self._too_slow = self._loop.call_later(LATER_HEAD_S, self._end_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        """As `asyncio.Protocol`."""
        self._forget_time()
        super().connection_lost(exc)

    def _forget_time(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _end_slow(self) -> None:
        if self.transport is not None:
            self.transport.write(_TOO_SLOW)
        self.force_close()

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
