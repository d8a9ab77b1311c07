"""The smallest client of 2025-11-25: one session, one pooled connection, no models.

The counterpart of `raw_client` for the era with sessions. The one rule: a call that does not answer as expected is an
error, never a fast sample.
"""

from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

VERSION = "2025-11-25"
SESSION_HEADER = "Mcp-Session-Id"


class RawLegacyClient:
    """A session at one endpoint."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http: aiohttp.ClientSession | None = None
        self._id = 0
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3))
        server_info = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        await self.request("initialize", server_info)
        self._headers["MCP-Protocol-Version"] = VERSION
        async with self._post({"method": "notifications/initialized"}) as response:
            assert response.status == 202, await response.text()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        async with self._http.delete(self._url, headers=self._headers):
            pass
        await self._http.close()

    @property
    def session_headers(self) -> dict[str, str]:
        """What each request of the session carries."""
        return {name: value for name, value in self._headers.items() if name.lower().startswith("mcp-")}

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return its result; the server may answer with JSON or with a stream."""
        self._id += 1
        async with self._post({"id": self._id, "method": method, "params": params}) as response:
            if SESSION_HEADER in response.headers:
                self._headers[SESSION_HEADER] = response.headers[SESSION_HEADER]
            raw = await response.read()
            if response.content_type == "text/event-stream":
                raw = next(line[5:] for line in reversed(raw.splitlines()) if line.startswith(b"data:"))
            body = orjson.loads(raw)
        assert response.status == 200, body
        result: dict[str, Any] = body["result"]
        return result

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool; an error result is an error here."""
        result = await self.request("tools/call", {"name": name, "arguments": arguments})
        assert not result.get("isError"), result
        return result

    def _post(self, message: dict[str, Any]) -> Any:
        assert self._http is not None
        data = orjson.dumps({"jsonrpc": "2.0", **message})
        return self._http.post(self._url, data=data, headers=self._headers, timeout=aiohttp.ClientTimeout(total=30))
