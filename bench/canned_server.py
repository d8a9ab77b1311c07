"""A 2026-07-28 server that costs next to nothing: `python -m bench.canned_server PORT[,PORT...] [TOOLS [MS]]`.

Answers an echo from canned parts, so that what stands in front of it is measured and not the server. Its tools/list has
TOOLS entries of an ordinary size, a call takes MS milliseconds, and its stream of list changes stays open and says
nothing.
"""

import asyncio
import socket
import sys
from typing import Any

import orjson
from aiohttp import web

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "ttlMs": 0,
    "cacheScope": "private",
}


def main() -> None:
    """Serve until killed."""
    ports, tools = sys.argv[1].split(","), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    delay_s = int(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0
    names = ["echo", *(f"tool_{number}" for number in range(1, tools))]
    description = "Return the text that was given, unchanged, as one block of content."
    listing = {
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "tools": [{"name": name, "description": description, "inputSchema": SCHEMA} for name in names],
    }
    listed = orjson.dumps(listing)

    async def handle(request: web.Request) -> web.StreamResponse:
        message: dict[str, Any] = orjson.loads(await request.read())
        match message["method"]:
            case "tools/call":
                if delay_s:
                    await asyncio.sleep(delay_s)
                text = message["params"]["arguments"]["text"]
                result = orjson.dumps({"content": [{"type": "text", "text": text}], "resultType": "complete"})
            case "tools/list":
                result = listed
            case "server/discover":
                result = orjson.dumps(DISCOVERED)
            case "subscriptions/listen":
                return await silent_stream(request, message)
            case _:
                error = {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32601, "message": "unknown"}}
                return web.Response(body=orjson.dumps(error), status=404, content_type="application/json")
        head = b'{"jsonrpc":"2.0","id":' + orjson.dumps(message["id"]) + b',"result":'
        return web.Response(body=head + result + b"}", content_type="application/json")

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=8 << 20)
    app.add_routes([web.post("/mcp", handle), web.get("/healthz", health)])
    sockets = [socket.create_server(("127.0.0.1", int(port)), backlog=512) for port in ports]
    web.run_app(app, sock=sockets, print=None, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)


async def silent_stream(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    """Grant every subscription, and send nothing."""
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    acknowledged = {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {
            "notifications": message["params"]["notifications"],
            "_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]},
        },
    }
    await stream.write(b"data: " + orjson.dumps(acknowledged) + b"\n\n")
    await asyncio.Event().wait()
    return stream


if __name__ == "__main__":
    main()
