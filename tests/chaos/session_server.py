"""An MCP server with sessions over HTTP (2025-11-25) that forgets them when it ends, as the SDKs of that time do.

Run as a process of its own, one for each replica: `python -m tests.chaos.session_server PORT[,PORT] [ADDRESS]`. The one
rule: a request with a session ID that it does not know is refused as python-sdk 1.30.0 does, with an invented ID and
nothing executed.
"""

import os
import socket
import sys
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web

_TOOL = {"name": "pid", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
_FORGOTTEN = {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Session not found"}}


class SessionServer:
    """`sessions`: the IDs that it gave."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one POST."""
        message: dict[str, Any] = orjson.loads(await request.read())
        method = message.get("method")
        if method == "initialize":
            session_id = uuid4().hex
            self.sessions.add(session_id)
            info = {"serverInfo": {"name": "web", "version": "1"}, "capabilities": {"tools": {}}}
            return _answer(message, {"protocolVersion": "2025-11-25", **info}, {"Mcp-Session-Id": session_id})
        if method == "server/discover":
            return web.json_response({**_FORGOTTEN, "error": {"code": -32600, "message": "Bad version"}}, status=400)
        if request.headers.get("Mcp-Session-Id") not in self.sessions:
            return web.json_response(_FORGOTTEN, status=404)
        if "id" not in message:
            return web.Response(status=202)
        match method:
            case "tools/list":
                return _answer(message, {"tools": [_TOOL]})
            case "tools/call":
                return _answer(message, {"content": [{"type": "text", "text": str(os.getpid())}]})
            case "ping":
                return _answer(message, {})
        error = {"code": -32601, "message": "Method not found"}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})


def _answer(message: dict[str, Any], result: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.post("/mcp", SessionServer().handle)])
    address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    listeners = [socket.create_server((address, int(port))) for port in sys.argv[1].split(",")]
    web.run_app(app, sock=listeners, access_log=None, print=None)
