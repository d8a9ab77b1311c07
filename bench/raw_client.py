"""The smallest client of 2026-07-28 that is still a client: one pooled connection, one JSON body, no models.

Used by the benchmarks, so that the client costs as little as it can beside what is measured. The one rule: a call that
does not answer as expected is an error, never a fast sample.
"""

import re
import ssl
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

# At the end of a page, whatever stands after it; no definition holds the word in the benchmarks.
_CURSOR = re.compile(rb'"nextCursor":("[^"]*")')

VERSION = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class RawClient:
    """A client of one endpoint."""

    def __init__(self, url: str, *, token: str | None = None, trust: ssl.SSLContext | bool = True) -> None:
        """`token`: a bearer token to send. `trust`: as aiohttp's `ssl`, for https."""
        self._url, self._trust = url, trust
        self._authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None
        self._id = 0

    async def __aenter__(self) -> Self:
        # uvicorn closes idle connections after 5 s; a request must never meet that moment.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return its result."""
        result: dict[str, Any] = orjson.loads(_message(await self.raw(method, params)))["result"]
        return result

    async def raw(self, method: str, params: dict[str, Any] | None = None) -> bytes:
        """Send one request and return the answer's bytes, unread."""
        async with self._post(method, params or {}) as response:
            body: bytes = await response.read()
        assert response.status == 200, body
        return body

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; an error result is an error here."""
        result = await self.request("tools/call", {"name": name, "arguments": arguments})
        assert not result.get("isError"), result
        return result

    async def tool_names(self) -> set[str]:
        """The names in tools/list, all pages of it."""
        pages = [orjson.loads(page)["result"] for page in await self.pages("tools/list")]
        return {tool["name"] for page in pages for tool in page["tools"]}

    async def pages(self, method: str) -> list[bytes]:
        """Every page of a list as bytes; what is sought in them is the next cursor alone."""
        pages = [await self.raw(method)]
        while (cursor := next_cursor(pages[-1])) is not None:
            pages.append(await self.raw(method, {"cursor": cursor}))
        return pages

    def listen(self) -> Any:
        """Open a stream of list changes; use the response's `content` as an async iterator of lines."""
        return self._post("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, timeout_s=None)

    def _post(self, method: str, params: dict[str, Any], timeout_s: float | None = 30) -> Any:
        assert self._session is not None
        self._id += 1
        body = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": {**params, "_meta": ENVELOPE}}
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": method,
            **self._authorization,
        }
        if "name" in params:
            headers["Mcp-Name"] = params["name"]
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        data = orjson.dumps(body)
        return self._session.post(self._url, data=data, headers=headers, timeout=timeout, ssl=self._trust)


def next_cursor(page: bytes) -> str | None:
    """Of the page after this one."""
    found = _CURSOR.search(page)
    return None if found is None else str(orjson.loads(found[1]))


def _message(answer: bytes) -> bytes:
    """The response in an answer, which is a stream of events where it took long."""
    if answer.startswith(b"{"):
        return answer
    return [line for line in answer.split(b"\n") if line.startswith(b"data: {")][-1].removeprefix(b"data: ")
