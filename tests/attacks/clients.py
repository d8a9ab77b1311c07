"""Clients with tokens of their own, as bare as an attacker's: what they send and get is what is on the wire.

The one rule: nothing is retried and nothing hidden; a test looks at the status, the headers and the body itself.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from tests.e2e.running import CLIENT_TIMEOUT_S
from tests.e2e.servers_files import replace_file

PREFIX = "io.modelcontextprotocol/"
ERAS = ("modern", "legacy")
BOTH = "application/json, text/event-stream"
TAKES_TASKS = {"elicitation": {}, "extensions": {f"{PREFIX}tasks": {}}}


@dataclass
class Reply:
    """One answer; `body` is the last JSON of it."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def result(self) -> Any:
        assert self.status == 200, self
        assert "result" in self.body, self
        return self.body["result"]

    @property
    def error(self) -> Any:
        assert "error" in self.body, self
        return self.body["error"]


@dataclass
class Holder:
    """A client with a token, or without: requests to the node at `base`. `session`: of the last `begin`."""

    base: str
    token: str | None
    session: str | None = field(default=None)

    async def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request on a connection of its own."""
        sent = {"Accept": BOTH, **(headers or {})}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            sent["Content-Type"] = "application/json"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S)) as http,
            http.request(method, URL(self.base + path, encoded=True), data=data, headers=sent) as response,
        ):
            return Reply(response.status, response.headers, _last(await response.text()))

    async def modern(
        self,
        method: str,
        path: str = "/mcp",
        capabilities: object = None,
        meta: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Reply:
        """A stateless request."""
        headers, message = stateless(method, params, capabilities=capabilities, meta=meta)
        return await self.ask("POST", path, message, headers)

    def of_session(self) -> dict[str, str]:
        """The headers that open the session's standing stream."""
        return {**self._bearer(), "Accept": "text/event-stream", "Mcp-Session-Id": str(self.session)}

    def listening(self, **notifications: Any) -> dict[str, Any]:
        """What opens a stream of changes, for a POST of aiohttp."""
        wanted = notifications or {"toolsListChanged": True}
        headers, message = stateless("subscriptions/listen", {"notifications": wanted}, capabilities=TAKES_TASKS)
        return {"json": message, "headers": {**headers, **self._bearer(), "Accept": BOTH}}

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def begin(self, path: str = "/mcp") -> Reply:
        """Begin a session, which later requests of `legacy` are of."""
        info = {"name": "holder", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        reply = await self.ask("POST", path, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        self.session = reply.headers.get("Mcp-Session-Id")
        return reply

    async def legacy(self, method: str, path: str = "/mcp", session: str | None = None, **params: Any) -> Reply:
        """A request of the session, or of the one that is named."""
        named = session or self.session
        headers = {} if named is None else {"Mcp-Session-Id": named}
        return await self.ask("POST", path, {"jsonrpc": "2.0", "id": 2, "method": method, "params": params}, headers)

    async def request(self, era: str, method: str, path: str = "/mcp", **params: Any) -> Reply:
        """A request in either era; a session is begun where it needs one."""
        if era == "modern":
            return await self.modern(method, path, **params)
        begun = await self.begin(path)
        return begun if begun.status != 200 else await self.legacy(method, path, **params)

    async def tools(self, era: str, path: str = "/mcp") -> list[str]:
        """The names of the tools that it is shown."""
        return [tool["name"] for tool in (await self.request(era, "tools/list", path)).result["tools"]]


def stateless(
    method: str, params: Mapping[str, Any], *, capabilities: object = None, meta: Mapping[str, Any] | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """The headers and the message of a stateless request."""
    envelope = {
        f"{PREFIX}protocolVersion": "2026-07-28",
        f"{PREFIX}clientInfo": {"name": "holder", "version": "1"},
        f"{PREFIX}clientCapabilities": capabilities or {},
        **(meta or {}),
    }
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    if isinstance(name := params.get("name", params.get("uri", params.get("taskId"))), str):
        headers["Mcp-Name"] = name
    return headers, {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": envelope}}


def _last(text: str) -> Any:
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
    body = lines[-1] if lines else text
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body


def token_of(name: str) -> str:
    """The token of that name in these tests."""
    return f"mesh_{name}-canary-0123456789abcdef0123456789"


def entry(name: str, *scopes: str, **more: Any) -> dict[str, Any]:
    """Its entry in a tokens file."""
    return {"sha256": hashlib.sha256(token_of(name).encode()).hexdigest(), "scopes": list(scopes), **more}


def texts_below(folder: Path, *kept: str) -> Iterator[tuple[Path, str]]:
    """The files of a node that runs, and what is in them, but for those of these names.

    A file that the node is just writing has another name for that moment (`agent/state/durable_file.py`).
    """
    for path in folder.rglob("*"):
        if path.is_file() and path.name.removesuffix(".tmp") not in kept:
            with suppress(FileNotFoundError):
                yield path, path.read_bytes().decode("utf-8", "replace")


def write_tokens(path: Path, tokens: Mapping[str, Any]) -> Path:
    """Replace a tokens file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return replace_file(path, orjson.dumps({"tokens": tokens}, option=orjson.OPT_INDENT_2))
