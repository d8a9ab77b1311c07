"""One cell of the matrix, and the barest client of either era: what it sends and gets is what is on the wire.

Used by all tests of pairings. The one rule: the client knows nothing of the node's code; what it hides is the envelope
of its era alone.
"""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from agent.client.http.sse import SseParser
from agent.errors import RpcError
from agent.model import Era, Json
from tests.integration.servers.raw_session import ACCEPT, initialize_request
from tests.integration.stateless_requests import headers, request

LEGACY_VERSION = "2025-11-25"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
EVENT_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Cell:
    """`front`: the client's era. `url`: the node's endpoint. `server`: the name of the server behind it."""

    front: Era
    url: str
    server: str
    room: str = field(default_factory=lambda: uuid4().hex)

    @property
    def behind(self) -> Era:
        return Era(self.server.partition("-")[0])

    @property
    def is_pipe(self) -> bool:
        return not self.server.endswith("-http")

    def name(self, name: str) -> str:
        """The name of the server's tool or prompt in the mesh."""
        return f"{self.server}__{name}"

    def uri(self, uri: str) -> str:
        """The URI of the server's resource in the mesh."""
        return uri.replace("pair://", f"pair://{self.server}/", 1)


@dataclass
class Wire:
    """A client of one cell. `told`: what came before the answers, in order."""

    http: aiohttp.ClientSession
    cell: Cell
    session: dict[str, str] = field(default_factory=dict)
    told: list[Json] = field(default_factory=list)
    hear: Callable[[Json], None] = lambda _: None
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def post(self, method: str, params: Json, request_id: object = None) -> Any:
        """A POST of one request, to be used as a context."""
        request_id = next(self._ids) if request_id is None else request_id
        if self.cell.front is Era.MODERN:
            name = params.get("name") or params.get("uri") or params.get("taskId")
            told = dict(headers(method, name) if name else headers(method))
            return self.http.post(self.cell.url, json=request(method, params, id=request_id), headers=told)
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        return self.http.post(self.cell.url, json=message, headers=self.session)

    async def raw(self, method: str, params: Json, request_id: object = None) -> bytes:
        """The message that answers a request, as it came; what came before it goes to `told`."""
        answer = b""
        async with self.post(method, params, request_id) as response:
            if response.content_type == "application/json":
                content: bytes = await response.read()
                return content
            parser = SseParser(EVENT_BYTES_MAX)
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    message = json.loads(event)
                    if "method" in message:
                        self.told.append(message)
                        self.hear(message)
                    else:
                        answer = event
        return answer

    async def ask(self, method: str, params: Json, request_id: object = None) -> Json:
        """The result. Raises `RpcError`."""
        message = json.loads(await self.raw(method, params, request_id))
        if "error" in message:
            error = message["error"]
            raise RpcError(error["code"], error["message"], error.get("data"))
        result: Json = message["result"]
        return result

    async def call(self, tool: str, meta: Json | None = None, **arguments: Any) -> Json:
        """The result of a tool of the cell's server. Raises `RpcError`."""
        params: Json = {"name": self.cell.name(tool), "arguments": arguments}
        return await self.ask("tools/call", params if meta is None else {**params, "_meta": meta})

    async def grow(self) -> None:
        """Let the server change its lists: one with sessions has one for each client with a session from then on."""
        assert await self.text("grow", name=f"more-{self.cell.room}") == "done"

    async def text(self, tool: str, meta: Json | None = None, **arguments: Any) -> str:
        """The text that such a tool gives."""
        result = await self.call(tool, meta, **arguments)
        return str(result["content"][0]["text"])

    async def note(self, method: str, params: Json) -> None:
        """Tell the node something; clients with a session can."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        async with self.http.post(self.cell.url, json=message, headers=self.session) as response:
            assert response.status == 202


@asynccontextmanager
async def wire(cell: Cell, *, written: Callable[[Any], str] = json.dumps, **capabilities: Any) -> AsyncIterator[Wire]:
    """A client; `capabilities` are declared where a session begins. `written`: how it writes its messages."""
    async with aiohttp.ClientSession(headers=ACCEPT, json_serialize=written) as http:
        client = Wire(http, cell)
        if cell.front is Era.LEGACY:
            async with http.post(cell.url, json=initialize_request(LEGACY_VERSION, **capabilities)) as response:
                assert response.status == 200
                client.session = {
                    "Mcp-Session-Id": response.headers["Mcp-Session-Id"],
                    "MCP-Protocol-Version": LEGACY_VERSION,
                }
            await client.note("notifications/initialized", {})
        yield client
