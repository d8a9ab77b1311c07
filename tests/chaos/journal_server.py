"""An MCP server that writes down every execution, and that knows at any moment which calls are inside it.

Run in the test's own loop, one for each replica, so that a test can act at the very moment when chosen calls are in
flight. A call is written down at a random moment of its time here, so that some are executed before a fault and some
after it. The one rule: what is in the file was executed, what is not was not.
"""

import asyncio
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

READ, WRITE = "read", "write"
# What a call takes before it is written down, and after that; and both together.
HALF_S = (0.002, 0.015)
CALL_S = sum(HALF_S)
# SO_LINGER with no time: closing sends a reset.
RESET = struct.pack("ii", 1, 0)
_SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
_TOOLS = [
    {"name": READ, "description": "Harmless.", "inputSchema": _SCHEMA, "annotations": {"readOnlyHint": True}},
    {"name": WRITE, "description": "Never to be done twice.", "inputSchema": _SCHEMA},
]
_HINTS = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
_DISCOVERED = {**_HINTS, "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}


class JournalServer:
    """One replica's server. `inside`: tool -> IDs of the calls that it is busy with.

    `breaks_off`: whether connections are reset in the middle of answers; `broken_off`: how many were.
    """

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.url = ""
        self.inside: dict[str, set[str]] = {READ: set(), WRITE: set()}
        self.slower_by = 1.0
        self.breaks_off = False
        self.broken_off = 0
        self._rng = rng
        self._on_busy: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<JournalServer {self.path.name} inside={self.inside}>"

    def when_busy(self, act: Callable[[], None]) -> None:
        """Call `act` once, as soon as calls of both tools are inside, before any of them can be answered."""
        self._on_busy = act

    def executed(self) -> Counter[str]:
        """How often each ID was executed."""
        return Counter(self.path.read_text().split()) if self.path.exists() else Counter()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request of 2026-07-28."""
        message: dict[str, Any] = orjson.loads(await request.read())
        match message["method"]:
            case "tools/call":
                result = await self._execute(message["params"])
            case "tools/list":
                result = {**_HINTS, "tools": _TOOLS}
            case "server/discover":
                result = _DISCOVERED
            case _:
                error = {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32601, "message": "unknown"}}
                return web.json_response(error, status=404)
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        if self.breaks_off and message["method"] == "tools/call":
            self._break_off(request, orjson.dumps(answer))
        return web.json_response(answer)

    def _break_off(self, request: web.Request, answer: bytes) -> None:
        """Send the head and half of an answer, and reset the connection."""
        transport = request.transport
        assert transport is not None
        self.broken_off += 1
        half = answer[: len(answer) // 2]
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        transport.write(head.encode() + half)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()

    async def _execute(self, params: dict[str, Any]) -> dict[str, Any]:
        call_id, inside = params["arguments"]["id"], self.inside[params["name"]]
        before_s, after_s = (self._rng.uniform(*HALF_S) * self.slower_by for _ in range(2))
        inside.add(call_id)
        try:
            if self._on_busy is not None and all(self.inside.values()):
                act, self._on_busy = self._on_busy, None
                act()
            await asyncio.sleep(before_s)
            self._write_down(call_id)
            await asyncio.sleep(after_s)
        finally:
            inside.discard(call_id)
        return {"resultType": "complete", "content": [{"type": "text", "text": call_id}]}

    def _write_down(self, call_id: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, f"{call_id}\n".encode())
        finally:
            os.close(file)


@asynccontextmanager
async def journal_server(path: Path, rng: random.Random) -> AsyncGenerator[JournalServer, None]:
    """Serve on a port of its own. A call that is inside is executed, also when its caller has gone."""
    server = JournalServer(path, rng)
    app = web.Application()
    app.add_routes([web.post("/mcp", server.handle)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=False, shutdown_timeout=5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
        yield server
    finally:
        await runner.cleanup()
