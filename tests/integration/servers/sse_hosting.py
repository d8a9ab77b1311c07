"""Servers of the old HTTP+SSE transport: FastMCP's own application for it, and one by hand for what that never does.

Used by the tests of that transport. The one rule: whatever is misbehaviour is said by the test.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from fastmcp import FastMCP

from agent.model import Json
from tests.integration.servers.hosting import Asgi, Front, serving
from tests.ports import free_port


@asynccontextmanager
async def sse_served(
    server: FastMCP, seen: list[dict[str, str]] | None = None, wrap: Callable[[Asgi], Asgi] = lambda app: app
) -> AsyncIterator[str]:
    """The URL of the stream; `seen` takes the heads of all requests. `wrap`: what stands in front."""
    app = server.http_app(transport="sse")
    async with app.router.lifespan_context(app):
        front = Front(wrap(app))
        front.seen = front.seen if seen is None else seen
        async with serving(front) as base:
            yield f"{base}/sse"


@dataclass
class OldServer:
    """A hand-written server of the old transport under aiohttp, for what SDKs do not do.

    `endpoint`: what its streams name, `{session}` put in. `answers`: from a call's name to what it does before the POST
    is answered. `name`: what it says that it is. `refuses`: no stream is opened any more. `forgets_calls`: it knows no
    session that calls something. `hangs`: nor is a stream refused; how many are `hung`. `starts`: set, it waits with
    the answer to `initialize`. `knocks`: how often it was knocked at. `initialized`: sessions. `keeps`:
    connections, for another request.
    """

    endpoint: str = "/messages?session={session}"
    knows_one_stream: bool = False
    name: str = "old"
    refuses: bool = False
    forgets_calls: bool = False
    hangs: bool = False
    hung: int = 0
    starts: asyncio.Event | None = None
    knocks: int = 0
    initialized: int = 0
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    answers: dict[str, Callable[["OldServer", str], Awaitable[Json]]] = field(default_factory=dict)
    streams: dict[str, web.StreamResponse] = field(default_factory=dict)
    ended: dict[str, asyncio.Event] = field(default_factory=dict)
    posted: list[Json] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    keeps: bool = True
    url: str = ""
    runner: web.AppRunner | None = None
    sites: list[web.TCPSite] = field(default_factory=list)

    async def open_stream(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            raise web.HTTPNotFound
        if self.hangs:
            self.hung += 1
            await self.goes_on.wait()
        session = str(len(self.ended) + 1)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        self.streams[session], self.ended[session] = stream, asyncio.Event()
        await stream.write(f"event: endpoint\ndata: {self.endpoint.format(session=session)}\n\n".encode())
        await self.ended[session].wait()
        return stream

    async def knocked(self, _request: web.Request) -> web.Response:
        self.knocks += 1
        return web.Response(status=405)

    async def take(self, request: web.Request) -> web.Response:
        session, message = request.query.get("session", ""), await request.json()
        if session not in self.streams or (self.forgets_calls and message.get("method") == "tools/call"):
            return web.Response(status=404, text="Could not find session")
        if self.knows_one_stream:
            session = list(self.streams)[-1]
        self.posted.append(message)
        self.changed.set()
        if message.get("method") == "initialize":
            self.initialized += 1
            if self.starts is not None:
                await self.starts.wait()
            info: Json = {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": self.name},
            }
            await self.send(session, {"id": message["id"], "result": info})
        elif "id" in message and "method" in message:
            answer = self.answers.get((message.get("params") or {}).get("name", ""))
            result = {"content": []} if answer is None else await answer(self, session)
            await self.send(session, {"id": message["id"], "result": result})
        return web.Response(status=202, text="Accepted")

    async def send(self, session: str, message: Json) -> None:
        if session in self.streams:
            await self.streams[session].write(b"data: " + orjson.dumps({"jsonrpc": "2.0", **message}) + b"\n\n")

    def forget(self) -> None:
        """Know no session any more, as after a restart behind a proxy that holds the streams."""
        self.streams.clear()

    def end_streams(self) -> None:
        self.streams.clear()
        for ended in self.ended.values():
            ended.set()

    async def listen_again(self, port: int = 0) -> None:
        """Listen, at the same port as before where it did."""
        assert self.runner is not None
        port = urlsplit(self.url).port or port
        self.sites.append(site := web.TCPSite(self.runner, "127.0.0.1", port))
        await site.start()
        self.url = self.url or f"http://127.0.0.1:{self.runner.addresses[0][1]}/sse"

    async def drain(self) -> None:
        """Take no more connections; the streams stay."""
        await self.sites.pop().stop()

    async def when(self, condition: Callable[[], bool]) -> None:
        """Wait for what is posted."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def old_server(server: OldServer, port: int = 0) -> AsyncIterator[OldServer]:
    async def take(request: web.Request) -> web.Response:
        response = await server.take(request)
        if not server.keeps:
            response.force_close()
        return response

    app = web.Application()
    app.router.add_get("/sse", server.open_stream)
    app.router.add_post("/messages", take)
    app.router.add_post("/sse", server.knocked)
    server.runner = runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    # None of those that the kernel gives to connections: while it is away, one of them could have it.
    await server.listen_again(port or free_port())
    try:
        yield server
    finally:
        server.goes_on.set()
        server.end_streams()
        await runner.cleanup()
