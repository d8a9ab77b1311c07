"""Hosts for the test servers: ASGI applications under uvicorn, and a raw HTTP server that answers by script.

Used by the client tests. The one rule: everything is closed before the context manager returns.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from agent.client.http.request import KNOCK
from tests.waiting import accepted_are_served

Asgi = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: Asgi, certificate: Path | None = None, port: int = 0) -> AsyncIterator[str]:
    """Run an ASGI application under uvicorn without its lifespan; gives the base URL.

    `certificate`: a file with a key and its certificate, to be served by TLS.
    """
    tls = {} if certificate is None else {"ssl_certfile": str(certificate)}
    config = uvicorn.Config(app, host="127.0.0.1", port=port, lifespan="off", log_config=None, ws="none", **tls)
    config.load()
    server = _QuietServer(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.force_exit = True
        await server.shutdown()
        # Of a connection that was accepted just before, its protocol has heard since then.
        for connection in list(server.server_state.connections):
            connection.shutdown()
        # sse-starlette starts one per loop and never ends it.
        watchers = {task for task in asyncio.all_tasks() if "_shutdown_watcher" in repr(task.get_coro())}
        for watcher in watchers:
            watcher.cancel()
        if watchers:
            await asyncio.wait(watchers)


class Front:
    """An ASGI application whose insides can be exchanged, and which can be made legacy only.

    `refuse_modern`: the status that modern requests get; None lets them through.
    """

    def __init__(self, app: Asgi, refuse_modern: int | None = None, reason: bytes = b"") -> None:
        self.app = app
        self.refuse_modern = refuse_modern
        self.reason = reason
        self.seen: list[dict[str, str]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append({"http-method": scope["method"], **headers})
        version = headers.get("mcp-protocol-version")
        modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        if self.refuse_modern is None or not modern:
            await self.app(scope, receive, send)
            return
        kind = b"application/json" if self.reason else b"text/plain"
        head = {"type": "http.response.start", "status": self.refuse_modern, "headers": [(b"content-type", kind)]}
        await send(head)
        await send({"type": "http.response.body", "body": self.reason})


@contextlib.asynccontextmanager
async def http_app(server: FastMCP | Server[Any]) -> AsyncIterator[Asgi]:
    """The HTTP application of FastMCP, or of the SDK for a server of its low level, alive."""
    app = server.http_app() if isinstance(server, FastMCP) else server.streamable_http_app(host="127.0.0.1")
    async with app.router.lifespan_context(app):
        yield app


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    raw: bytes

    @property
    def is_knock(self) -> bool:
        """Whether it means nothing, and asks only whether anybody answers."""
        return self.raw == KNOCK


@dataclass
class Script:
    """A raw HTTP server's answers. `answer` returns the bytes to send and whether to keep the connection.

    None for the bytes: reset the connection.
    """

    answer: Callable[[Seen], Awaitable[tuple[bytes | None, bool]]]
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    server: asyncio.Server | None = None

    def stop(self) -> None:
        """Take no more connections and close those that are there."""
        assert self.server is not None
        self.server.close()
        self.close_connections()

    def close_connections(self) -> None:
        """Close what is open, at once: the other side's kernel knows it before this returns."""
        for writer in self.writers:
            # Asked first: of a TLS connection that was closed twice, CPython has forgotten all else.
            sock = None if writer.is_closing() else writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.shutdown(socket.SHUT_RDWR)
        self.writers.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            keep = True
            while keep:
                request = await _read_request(reader, number)
                self.seen.append(request)
                data, keep = await self.answer(request)
                if data is None:
                    reset(writer)
                    return
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def scripted(
    answer: Callable[[Seen], Awaitable[tuple[bytes | None, bool]]], *, port: int = 0
) -> AsyncIterator[Script]:
    """Run a script on a port of its own, or on one that is free again; open connections are reset at the end."""
    script = Script(answer)
    server = script.server = await asyncio.start_server(script.serve, "127.0.0.1", port)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    try:
        yield script
    finally:
        server.close()
        await accepted_are_served()
        for writer in script.writers:
            if not writer.is_closing():
                writer.transport.abort()
        await server.wait_closed()


def http(status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> bytes:
    """A complete HTTP answer."""
    lines = [f"HTTP/1.1 {status} Some Reason", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def rpc_result(request: Seen, result: dict[str, Any]) -> bytes:
    """A JSON-RPC result as a complete HTTP answer."""
    return http(200, orjson.dumps({"jsonrpc": "2.0", "id": request.body["id"], "result": result}))


def rpc_error(request: Seen, status: int, code: int, message: str, data: Any = None) -> bytes:
    """A JSON-RPC error as a complete HTTP answer."""
    error = {"code": code, "message": message, "data": data}
    return http(status, orjson.dumps({"jsonrpc": "2.0", "id": request.body.get("id"), "error": error}))


def discovered(request: Seen) -> bytes:
    """The answer of a modern server to `server/discover`."""
    return rpc_result(
        request, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
    )


def initialized(request: Seen, version: str = "2025-11-25", **headers: str) -> bytes:
    """The answer of a legacy server to `initialize`."""
    result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "script", "version": "1"}}
    return http(200, orjson.dumps({"jsonrpc": "2.0", "id": request.body["id"], "result": result}), **headers)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as a crashed host does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, json.loads(body) if body not in (b"", KNOCK) else {}, connection, body)
