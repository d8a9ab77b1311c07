"""The barest client with a session: what it sends and gets is what is on the wire.

Used by the tests of sessions. The one rule: nothing is hidden, a status or a stream is looked at by the test itself.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from agent.client.http.sse import SseParser
from agent.model import Json

VERSION = "2025-06-18"
ACCEPT = {"Accept": "application/json, text/event-stream"}


@dataclass
class RawSession:
    """One session at `url`; `headers` name it."""

    http: aiohttp.ClientSession
    url: str
    headers: dict[str, str]

    def post(self, message: Any, **more: str) -> Any:
        """A POST of one message, to be used as a context."""
        return self.http.post(self.url, json=message, headers={**self.headers, **more})

    def listen(self) -> Any:
        """The GET stream, to be used as a context."""
        return self.http.get(self.url, headers=self.headers)

    async def request(self, method: str, params: Json | None = None, request_id: object = 9) -> Json:
        """The message that answers a request, which must be well."""
        async with self.post(request(method, params, request_id)) as response:
            assert response.status == 200
            return [message async for message in messages(response)][-1]

    async def note(self, method: str, params: Json | None = None) -> None:
        async with self.post({"jsonrpc": "2.0", "method": method, "params": params or {}}) as response:
            assert response.status == 202

    async def reply(self, message: Json, **outcome: Any) -> None:
        """Answer a question of the server: `result=` or `error=`."""
        async with self.post({"jsonrpc": "2.0", "id": message["id"], **outcome}) as response:
            assert response.status == 202


def request(method: str, params: Json | None = None, request_id: object = 9) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "method": method} | ({} if params is None else {"params": params})


def call(tool: str, request_id: object = 9, **arguments: Any) -> Json:
    return request("tools/call", {"name": tool, "arguments": arguments}, request_id)


def initialize_request(version: str = VERSION, **capabilities: Any) -> Json:
    client = {"name": "test", "version": "1"}
    return request("initialize", {"protocolVersion": version, "capabilities": capabilities, "clientInfo": client}, 1)


@asynccontextmanager
async def raw_session(url: str, version: str = VERSION, **capabilities: Any) -> AsyncIterator[RawSession]:
    """Open a session; it is left as it is."""
    async with aiohttp.ClientSession(headers=ACCEPT) as http:
        async with http.post(url, json=initialize_request(version, **capabilities)) as response:
            assert response.status == 200
            headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], "MCP-Protocol-Version": version}
        session = RawSession(http, url, headers)
        await session.note("notifications/initialized", {})
        yield session


async def messages(response: aiohttp.ClientResponse, event_bytes_max: int = 1 << 20) -> AsyncIterator[Json]:
    """The JSON-RPC messages of a response, whether it is JSON or a stream."""
    if response.content_type == "application/json":
        yield json.loads(await response.read())
        return
    parser = SseParser(event_bytes_max)
    async for chunk in response.content.iter_any():
        for event in parser.feed(chunk):
            yield json.loads(event)
