"""One HTTP request as an ASGI application sees it: its scope, its `receive` and its `send`.

Made by `agent.server.asgi_bridge` for each request, used by one task of the application at a time. The body was read
before, within its limits, so `receive` hands it over in one piece and then waits for the end. The one rule: a client
that has gone is told to the application by `http.disconnect` and cancellation; what it still sends is dropped.
"""

import asyncio
import logging
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from agent.server.asgi_lifespan import Message, Scope

log = logging.getLogger(__name__)

# A reader that takes nothing for this long while our buffer is full is dropped; it keeps no one else waiting, but it
# holds memory and a stream. Long enough for a suspended laptop's TCP to recover once.
WRITE_TIMEOUT_S = 30.0

# These describe one connection, not the answer: aiohttp sets its own (RFC 9110, 7.6.1).
_HOP_HEADERS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection"})


class AsgiExchange:
    """The two ends of one request.

    Its one writer is the task that runs the application; the bridge calls `client_gone` and `end_stream` from the same
    event loop. `ended` is set once the application has nothing to wait for any more.
    """

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.request = request
        self.ended = asyncio.Event()
        self._body: bytes | None = body
        self._response: web.StreamResponse | None = None
        self._gone = False
        self._closing = False
        self._complete = False

    def __repr__(self) -> str:
        flags = [n for n in ("gone", "closing", "complete") if getattr(self, f"_{n}")]
        return f"<AsgiExchange {self.request.method} {self.request.path} {' '.join(flags) or 'open'}>"

    def client_gone(self) -> None:
        """The client has dropped the connection."""
        self._gone = True
        self.ended.set()

    def end_stream(self) -> None:
        """The node shuts down: ask the application to end its stream; what it still sends is delivered."""
        self._closing = True
        self.ended.set()

    async def receive(self) -> Message:
        """The whole body first, then `http.disconnect` as soon as there is nobody to answer."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take one message of the answer; waits while the client reads slower than the application writes."""
        if self._gone:
            return
        match message["type"]:
            case "http.response.start":
                assert self._response is None, "http.response.start was sent twice"
                headers = CIMultiDict(
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in message.get("headers", ())
                    if name.lower() not in _HOP_HEADERS
                )
                self._response = web.StreamResponse(status=message["status"], headers=headers)
                if "Content-Length" not in headers:
                    # A stream: its client waits for the status before there is anything to send.
                    await self._write(self._response, b"", last=False)
            case "http.response.body":
                await self._take_body(message.get("body", b""), more=message.get("more_body", False))
            case other:
                raise RuntimeError(f"not an HTTP response message: {other!r}")

    async def finish(self) -> web.StreamResponse:
        """The response to hand to aiohttp after the application has returned.

        An answer that stops in the middle is an error, so that aiohttp cuts the connection: a client must not take a
        part for the whole.
        """
        response = self._response
        if response is None:
            if self._closing:
                raise web.HTTPServiceUnavailable(text="shutting down")
            raise RuntimeError("the ASGI application returned without an answer")
        if not self._complete and not self._gone:
            if not self._closing:
                raise RuntimeError("the ASGI application returned in the middle of its answer")
            if not response.prepared:
                await response.prepare(self.request)
            await response.write_eof()
        return response

    async def _take_body(self, body: bytes, *, more: bool) -> None:
        response = self._response
        assert response is not None, "http.response.body came before http.response.start"
        if self._complete:
            raise RuntimeError("the ASGI application sent more than it announced")
        if not more and not response.prepared:
            # The whole answer at once: returned unprepared, so it goes out in one write.
            self._response = web.Response(status=response.status, headers=response.headers, body=body or None)
        else:
            await self._write(response, body, last=not more)
        if not more:
            self._complete = True
            self.ended.set()

    async def _write(self, response: web.StreamResponse, body: bytes, *, last: bool) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                if not response.prepared:
                    await response.prepare(self.request)
                if body and self.request.method != "HEAD":
                    await response.write(body)
                if last:
                    await response.write_eof()
        except ConnectionError:
            self.client_gone()
        except TimeoutError:
            drop_client(self.request)
            self.client_gone()


def drop_client(request: web.Request) -> None:
    """Break the connection of a client that has taken nothing for `WRITE_TIMEOUT_S`."""
    log.warning("MCP client stopped reading, dropped", extra={"limit_s": WRITE_TIMEOUT_S})
    if request.transport is not None:
        request.transport.abort()


def http_scope(request: web.Request, path: str, state: dict[str, Any], body_length: int) -> Scope:
    """The ASGI scope (spec 2.4) of a request whose body was read already.

    `path` is the application's canonical path: its variant with a trailing slash is mapped to it. `root_path` stays
    empty, for the application was built with its whole path. Addresses are the socket's, never the Host header's.
    """
    url = request.rel_url
    raw_path, plain_path = url.raw_path, url.path
    if plain_path.rstrip("/") == path.rstrip("/"):
        raw_path = plain_path = path
    transport = request.transport
    client = transport.get_extra_info("peername") if transport is not None else None
    server = transport.get_extra_info("sockname") if transport is not None else None
    headers = [(name.lower(), value) for name, value in request.raw_headers]
    if b"content-encoding" in (name for name, _ in headers):
        # aiohttp has decoded the body; the headers must tell of what the application gets.
        replaced = {b"content-encoding", b"content-length", b"transfer-encoding"}
        headers = [pair for pair in headers if pair[0] not in replaced]
        headers.append((b"content-length", str(body_length).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": f"{request.version.major}.{request.version.minor}",
        "method": request.method,
        "scheme": request.scheme,
        "path": plain_path,
        "raw_path": raw_path.encode("ascii"),
        "query_string": url.raw_query_string.encode("ascii"),
        "root_path": "",
        "headers": headers,
        "client": _host_and_port(client),
        "server": _host_and_port(server),
        "state": state,
    }


def _host_and_port(address: object) -> tuple[str, int] | None:
    # A unix socket's address is a path or empty; an IPv6 one has four parts.
    return (address[0], address[1]) if isinstance(address, tuple) else None
