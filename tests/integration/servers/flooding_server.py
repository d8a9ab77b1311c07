"""A server of 2025-11-25 that asks far more than anybody answers, on its session's stream and on that of each call.

Hosted by the tests of hostile servers. The one rule: it keeps what it was answered, by the ID of its question.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from agent.model import Json

QUESTIONS = 100
FORM: Json = {"message": "Word?", "requestedSchema": {"type": "object", "properties": {}}}


@dataclass
class FloodingServer:
    """`answers`: what came back to its questions."""

    answers: dict[str, Json] = field(default_factory=dict)
    sessions: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one HTTP request."""
        if request.method == "GET":
            return await self._stream(request, f"aside-{self.sessions}", withdrawn=True)
        message = {} if request.method == "DELETE" else await request.json()
        match message.get("method"):
            case "initialize":
                self.sessions += 1
                who = {"serverInfo": {"name": "flood", "version": "1"}, "capabilities": {"tools": {}}}
                return answered(message, {"protocolVersion": "2025-11-25", **who}, str(self.sessions))
            case "tools/list":
                return answered(message, {"tools": [{"name": "flood", "inputSchema": {"type": "object"}}]})
            case "tools/call":
                stream = await self._stream(request, "call", withdrawn=False)
                content = [{"type": "text", "text": "enough"}]
                await tell(stream, {"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}})
                return stream
            case None if "id" in message:
                self.answers[str(message["id"])] = message
        return web.Response(status=202) if "method" not in message or "id" not in message else answered(message, {})

    async def _stream(self, request: web.Request, name: str, *, withdrawn: bool) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for number in range(QUESTIONS):
            asked = f"{name}-{number}"
            await tell(stream, {"jsonrpc": "2.0", "id": asked, "method": "elicitation/create", "params": FORM})
            if withdrawn:
                off = {"requestId": asked}
                await tell(stream, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": off})
        return stream


def answered(message: Json, result: Json, session: str | None = None) -> web.Response:
    """The response to a request; `session` begins one."""
    headers = {} if session is None else {"Mcp-Session-Id": session}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)


async def tell(stream: web.StreamResponse, message: Json) -> None:
    """Send one event."""
    await stream.write(b"data: " + json.dumps(message).encode() + b"\r\n\r\n")


@asynccontextmanager
async def flooding(server: FloodingServer) -> AsyncIterator[str]:
    """Serve it; yields its URL."""
    app = web.Application()
    app.router.add_route("*", "/mcp", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site: Any = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()
