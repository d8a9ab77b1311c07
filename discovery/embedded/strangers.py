"""Connections to the embedded catalog that have not shown the mesh's token: few, so that a node keeps descriptors.

Made by `discovery.embedded.server`. Any program of the machine can connect; the catalog is a part of a node, which
needs descriptors for its own clients, links and children. The one rule: a stranger's connection only ever costs that of
another stranger.
"""

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

# A node that connects shows its token at once, so it is one of them for some milliseconds.
STRANGERS_MAX: Final = 32
# aiohttp's own names its version and Python's.
SERVER_NAME: Final = "mcp-mesh-agent"

log = logging.getLogger(__name__)


class _Requests(RequestHandler):
    """As aiohttp's, but what cannot be read is not repeated, and no answer names versions."""

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
            log.debug("embedded catalog: a request cannot be read", extra={"status": status})
        response = web.Response(status=status, text=HTTPStatus(status).phrase, headers={"Server": SERVER_NAME})
        response.force_close()
        return response


class Strangers:
    """A factory of protocols, like the runner's server: it counts those that no token has come through."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._handlers: dict[RequestHandler, None] = {}  # The oldest is first.

    def __repr__(self) -> str:
        return f"<Strangers {len(self._handlers)} of {STRANGERS_MAX}>"

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection; where there are too many, the oldest is closed."""
        assert self._runner.server is not None, "the runner is set up before a site is made"
        server = self._runner.server
        # As the server itself makes them, which has no place for a class of one's own.
        handler = _Requests(server, loop=asyncio.get_running_loop(), **server._kwargs)  # noqa: SLF001 - see above
        self._handlers[handler] = None
        if len(self._handlers) > STRANGERS_MAX:
            oldest = next(iter(self._handlers))
            del self._handlers[oldest]
            # Later, because it may not have its connection yet, and would keep it open then.
            asyncio.get_running_loop().call_soon(oldest.force_close)
        return handler

    def admitted(self, request: web.Request) -> None:
        """A request has shown the token, so its connection stays."""
        self._handlers.pop(request.protocol, None)


class StrangersSite(web.SockSite):
    """As `web.SockSite`, with this factory of protocols in the place of the runner's server."""

    def __init__(self, runner: web.AppRunner, listener: socket.socket, strangers: Strangers) -> None:
        super().__init__(runner, listener)
        self._strangers = strangers

    async def start(self) -> None:
        """As `web.SockSite.start`."""
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._strangers, sock=self._sock, backlog=self._backlog)
