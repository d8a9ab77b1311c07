"""The short way of stateless requests: from aiohttp's body to the backend's door, past ASGI and the SDK's server.

The endpoint routes every request through `handle`. What is regular (2026-07-28, a list or something routed, envelope
and headers that agree) is answered here; everything else goes to the bridge, whose answers are the reference. The one
rule: this way answers nothing that the other way would answer differently.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from aiohttp import web
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent.api.asgi_bridge import AsgiBridge
from agent.api.asgi_exchange import WRITE_TIMEOUT_S
from agent.api.catalogue import LISTS, Catalogue
from agent.api.forwarding import forward, logged, shaped
from agent.api.search import unwrapped
from agent.dispatch import Dispatch
from agent.model import Json

log = logging.getLogger(__name__)

_ROUTED: Final = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"})
_JSON_TYPES: Final = frozenset({"*/*", "application/*", "application/json"})
_SSE_TYPES: Final = frozenset({"*/*", "text/*", "text/event-stream"})
_PARAM_HEADER: Final = "mcp-param-"
# An answer that takes longer becomes a stream that is kept alive, so that no proxy on the way gives it up.
PING_EVERY_S: Final = 15.0
# What a socket's buffer takes at about one go; the rest of a large result waits where it is.
_SLICE_BYTES: Final = 256 << 10
_STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class NativePath:
    """The handler of one endpoint."""

    def __init__(self, *, catalogue: Catalogue, dispatch: Dispatch, bridge: AsgiBridge) -> None:
        self._catalogue = catalogue
        self._dispatch = dispatch
        self._bridge = bridge

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one HTTP request."""
        method = request.headers.get("Mcp-Method", "")
        is_list = method in LISTS
        if request.method != "POST" or not (is_list or method in _ROUTED) or not _speaks_json(request):
            return await self._bridge.handle(request)
        body = await self._bridge.read_body(request)
        if isinstance(body, web.Response):
            return body
        message = _regular(body, request)
        if message is None:
            return await self._bridge.handle(request, body)
        params: Json = message["params"]
        answer = _Answer(request, message["id"])
        try:
            with logged(method, params) as served:
                # Such a call carries the headers of call_tool, not those that the inner tool asks for.
                inner = unwrapped(method, params)
                params = inner or params
                route = self._catalogue.route(method, params)
                if is_list:
                    search = self._catalogue.wants_search(request.query, request.headers)
                    return await answer.result(self._catalogue.listing(method, params, search=search))
                if route is None or not (inner or self._param_headers_agree(method, params, request)):
                    served.handed_on = True
                    return await self._bridge.handle(request, body)
                with _KeptAlive(self._bridge, answer.ping):
                    forwarded = await forward(self._dispatch, method, route, params, answer.notify, served=served)
                return await answer.result(orjson.dumps(shaped(method, forwarded.result, modern=True)))
        except MCPError as exc:
            return await answer.error(exc)

    def _param_headers_agree(self, method: str, params: Json, request: web.Request) -> bool:
        if method != "tools/call":
            return True
        schema = self._catalogue.input_schema(params["name"])
        if schema is None:
            return True
        if not self._catalogue.has_param_headers(schema) and not any(
            name.lower().startswith(_PARAM_HEADER) for name in request.headers
        ):
            return True
        headers = {name.lower(): value for name, value in request.headers.items()}
        return validate_mcp_param_headers(schema, params.get("arguments") or {}, headers) is None


class _Answer:
    """One response: JSON, or a stream of events as soon as there is something to tell before the result."""

    def __init__(self, request: web.Request, request_id: object) -> None:
        self._request = request
        self._request_id = orjson.dumps(request_id)
        self._stream: web.StreamResponse | None = None

    async def notify(self, method: str, params: Json) -> None:
        """Tell the client something before the result."""
        await self._event(orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    async def result(self, result: bytes) -> web.StreamResponse:
        """End with a result, given as JSON."""
        parts = (b'{"jsonrpc":"2.0","id":' + self._request_id + b',"result":', result, b"}")
        if self._stream is None and len(result) > _SLICE_BYTES:
            return await self._sliced(parts)
        return await self._finish(b"".join(parts), 200)

    async def error(self, exc: MCPError) -> web.StreamResponse:
        """End with a JSON-RPC error; its code decides the HTTP status while that is still open."""
        error = exc.error.model_dump(by_alias=True, mode="json", exclude_none=True)
        body = b'{"jsonrpc":"2.0","id":' + self._request_id + b',"error":' + orjson.dumps(error) + b"}"
        return await self._finish(body, ERROR_CODE_HTTP_STATUS.get(exc.error.code, 200))

    async def _finish(self, body: bytes, status: int) -> web.StreamResponse:
        if self._stream is None:
            return web.Response(body=body, status=status, content_type="application/json")
        await self._event(body)
        async with self._write_deadline():
            await self._stream.write_eof()
        return self._stream

    async def _sliced(self, parts: Sequence[bytes]) -> web.StreamResponse:
        """Send what is large as views of itself: as one body it would be copied at each layer on its way."""
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        answer.content_length = sum(len(part) for part in parts)
        await answer.prepare(self._request)
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(part), _SLICE_BYTES):
                async with self._write_deadline():
                    await answer.write(view[start : start + _SLICE_BYTES])
        async with self._write_deadline():
            await answer.write_eof()
        return answer

    async def _event(self, data: bytes) -> None:
        async with self._write_deadline():
            stream = await self._opened()
            await stream.write(b"event: message\r\ndata: " + data + b"\r\n\r\n")

    async def ping(self) -> None:
        """Keep a slow answer's connection alive."""
        async with self._write_deadline():
            stream = await self._opened()
            await stream.write(b": ping\r\n\r\n")

    @asynccontextmanager
    async def _write_deadline(self) -> AsyncIterator[None]:
        """Drop a client that takes nothing for so long: with its connection its call ends, and the backend's work."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                yield
        except TimeoutError:
            log.warning("MCP client stopped reading, dropped", extra={"limit_s": WRITE_TIMEOUT_S})
            if self._request.transport is not None:
                self._request.transport.abort()
            # Now aiohttp cancels the request's task; an exception of ours would be laid at the backend's door.
            await asyncio.sleep(0)
            raise ConnectionResetError("the client stopped reading") from None

    async def _opened(self) -> web.StreamResponse:
        if self._stream is None:
            self._stream = web.StreamResponse(headers=_STREAM_HEADERS)
            await self._stream.prepare(self._request)
        return self._stream


class _KeptAlive:
    """Starts pinging only when an answer is slow: a timer costs a call next to nothing, a task would not."""

    def __init__(self, bridge: AsgiBridge, ping: Callable[[], Awaitable[None]]) -> None:
        self._bridge = bridge
        self._ping = ping
        self._pinger: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PING_EVERY_S, self._start)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._pinger is not None:
            self._pinger.cancel()

    def _start(self) -> None:
        self._pinger = self._bridge.start_task(self._ping_on(), "ping a slow answer")

    async def _ping_on(self) -> None:
        try:
            while True:
                await self._ping()
                await asyncio.sleep(PING_EVERY_S)
        except (ConnectionError, RuntimeError):
            return  # The client has gone; the request's own task is told by aiohttp.


def _speaks_json(request: web.Request) -> bool:
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")}
    is_json = request.content_type == "application/json"
    return is_json and not accepted.isdisjoint(_JSON_TYPES) and not accepted.isdisjoint(_SSE_TYPES)


def _regular(body: bytes, request: web.Request) -> Json | None:
    """The message, if it is a request of the stateless era whose headers and envelope agree; else None."""
    try:
        message: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return None
    request_id = message.get("id")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        return None
    headers = {name.lower(): value for name, value in request.headers.items()}
    if len(headers) < len(request.headers) and find_duplicated_routing_header(request.headers.items()) is not None:
        return None
    verdict = classify_inbound_request(message, headers=headers)
    if not isinstance(verdict, InboundModernRoute) or verdict.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return None
    return message
