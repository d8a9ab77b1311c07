"""One connection of a client by hand, for tests that care on which connection a request comes.

The one rule: a request that gets no answer raises `ConnectionError`; nothing is sent twice.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

VERSION = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_OF_SESSION = "2025-11-25"


class Line:
    """One connection to a node. Answers are returned as status, headers in lower case, and JSON where it is any."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str | None) -> None:
        self._reader = reader
        self._writer = writer
        self._headers = {"Host": "localhost"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        self._ids = 0
        self._session: dict[str, str] = {}

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool in the era of 2026-07-28, or in the session; returns the JSON-RPC answer."""
        status, answer = await self._called(name, arguments)
        assert status == 200, (status, answer)
        return answer

    async def call_refused(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same of whatever status, by default without arguments."""
        return (await self._called(name, arguments or {}))[1]

    async def _called(self, name: str, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        self._ids += 1
        params: dict[str, Any] = {"name": name, "arguments": arguments}
        headers = self._session
        if not headers:
            params["_meta"] = ENVELOPE
            headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": name}
        message = {"jsonrpc": "2.0", "id": self._ids, "method": "tools/call", "params": params}
        status, _, answer = await self.post(message, headers)
        return status, answer

    async def open_session(self) -> dict[str, str]:
        """Begin a session; later calls are made in it. Returns its headers."""
        client = {"protocolVersion": _OF_SESSION, "capabilities": {}, "clientInfo": {"name": "by hand", "version": "1"}}
        opened = {"jsonrpc": "2.0", "id": "first", "method": "initialize", "params": client}
        status, headers, answer = await self.post(opened, {})
        assert status == 200, answer
        self._session = {"Mcp-Session-Id": headers["mcp-session-id"], "MCP-Protocol-Version": _OF_SESSION}
        status, _, _ = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, self._session)
        assert status == 202
        return self._session

    def join_session(self, headers: dict[str, str]) -> None:
        """Make later calls in a session that was begun on another connection."""
        self._session = headers

    async def post(self, message: object, headers: Mapping[str, str]) -> tuple[int, dict[str, str], Any]:
        """POST one message to `/mcp`."""
        accepted = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        return await self.request("POST", "/mcp", orjson.dumps(message), accepted | dict(headers))

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Any request."""
        sent = {**self._headers, **(headers or {}), "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Read one answer."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            found = dict(line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in found.items()}
            raw = b""
            if "content-length" in headers:
                raw = await self._reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readline(), 16):
                    raw += (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readexactly(2)
                raw = next(line[5:] for line in reversed(raw.splitlines()) if line.startswith(b"data:"))
        except asyncio.IncompleteReadError as exc:
            raise ConnectionError("no answer came") from exc
        is_json = raw[:1] in (b"{", b"[")
        return int(head[0].split()[1]), headers, orjson.loads(raw) if is_json else raw.decode()

    def send_raw(self, written: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(written)

    async def close(self) -> None:
        """End it."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def line_to(port: int, *, token: str | None = None) -> AsyncGenerator[Line, None]:
    """Open a connection to a node on this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = Line(reader, writer, token)
    try:
        yield line
    finally:
        await line.close()
