"""A 2026-07-28 server on a bare `asyncio.Protocol`: `python -m bench.bare_server PORT BYTES`.

Cheaper than `bench.canned_server`: several processes in front of it are measured, and not it. One tool, `echo`, which
answers with a canned text; its stream of list changes stays open and says nothing. It takes earlier clients, too, and
gives them all the same session. `GET /count` says how many requests for MCP it was sent.
"""

import asyncio
import re
import sys

import orjson

from bench.canned_server import DISCOVERED, SCHEMA

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LISTED = {
    "resultType": "complete",
    "ttlMs": 0,
    "cacheScope": "private",
    "tools": [{"name": "echo", "description": "Return a text.", "inputSchema": SCHEMA}],
}
INITIALIZED = {"capabilities": {"tools": {}}, "serverInfo": {"name": "bare", "version": "1"}}
ANSWERS = {
    "ping": b"{}",
    "tools/list": orjson.dumps(LISTED),
    "server/discover": orjson.dumps(DISCOVERED),
}
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
SESSION = b"Mcp-Session-Id: bare\r\n"
NO_STREAM = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: POST, DELETE\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection, whose requests are answered in their order."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        assert self._transport is not None
        received = self._received + data
        while (end := received.find(b"\r\n\r\n") + 4) > 3:
            found = LENGTH.search(received, 0, end)
            whole = end + (int(found[1]) if found else 0)
            if len(received) < whole:
                break
            has_body = found is not None and int(found[1]) > 0
            self._transport.write(_answer(received[end:whole]) if has_body else _without_body(received))
            received = received[whole:]
        self._received = received


class Count:
    """Of the requests that were sent to this server."""

    requests = 0


def _without_body(head: bytes) -> bytes:
    if head.startswith(b"GET /count "):
        return _written(b"%d" % Count.requests)
    Count.requests += b" /mcp" in head[:12]
    return NO_STREAM if head.startswith(b"GET /mcp") else HEALTHY


def _answer(body: bytes) -> bytes:
    Count.requests += 1
    message = orjson.loads(body)
    if "id" not in message:
        return ACCEPTED
    number = orjson.dumps(message["id"])
    if message["method"] == "initialize":
        opened = orjson.dumps({**INITIALIZED, "protocolVersion": message["params"]["protocolVersion"]})
        return _written(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (number, opened), more=SESSION)
    if message["method"] == "subscriptions/listen":
        return _silent_stream(message)
    result = ANSWERS.get(message["method"])
    if result is None:
        error = b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32601,"message":"unknown"}}' % number
        return _written(error, b"404 Not Found")
    return _written(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (number, result))


def _written(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n" % (status, more, len(body))
    return head + body


def _silent_stream(message: dict[str, object]) -> bytes:
    """The head of a stream, and its first event."""
    params = message["params"]
    assert isinstance(params, dict)
    granted = {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {
            "notifications": params["notifications"],
            "_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]},
        },
    }
    event = b"data: " + orjson.dumps(granted) + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return b"%b%x\r\n%b\r\n" % (head, len(event), event)


async def main() -> None:
    """Serve until killed."""
    text = "sixteen bytes ok" * (int(sys.argv[2]) // 16)
    ANSWERS["tools/call"] = orjson.dumps({"content": [{"type": "text", "text": text}], "resultType": "complete"})
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
