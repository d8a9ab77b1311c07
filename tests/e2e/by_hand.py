"""Requests as a client without a library sends them, for tests that look at the raw answer."""

from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson


async def modern_request(
    url: str, method: str, params: Mapping[str, Any] | None = None, *, token: str | None = None
) -> dict[str, Any]:
    """One stateless MCP request by hand; returns the raw result. Raises AssertionError for anything else."""
    answer = await modern_answer(url, method, params, token=token)
    assert "result" in answer, answer
    result: dict[str, Any] = answer["result"]
    return result


async def modern_answer(
    url: str, method: str, params: Mapping[str, Any] | None = None, *, token: str | None = None
) -> dict[str, Any]:
    """The whole answer, which may be an error."""
    prefix = "io.modelcontextprotocol/"
    meta = {
        f"{prefix}protocolVersion": "2026-07-28",
        f"{prefix}clientInfo": {"name": "end-to-end", "version": "1"},
        f"{prefix}clientCapabilities": {},
    }
    sent: dict[str, Any] = {**(params or {}), "_meta": meta}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
        "Content-Type": "application/json",
    }
    if isinstance(name := sent.get("name", sent.get("uri")), str):
        headers["Mcp-Name"] = name
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": sent})
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        text = await response.text()
        if response.content_type == "text/event-stream":
            text = next(line[5:] for line in reversed(text.splitlines()) if line.startswith("data:"))
        answer: dict[str, Any] = orjson.loads(text)
        return answer


async def legacy_tools(url: str, features: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The raw tools that a session of 2025-11-25 is shown whose client declares these features."""
    client = {"name": "end-to-end", "version": "1"}
    info = {"protocolVersion": "2025-11-25", "capabilities": features or {}, "clientInfo": client}
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}

    async def post(session: aiohttp.ClientSession, message: dict[str, Any]) -> tuple[str, Any]:
        data = orjson.dumps({"jsonrpc": "2.0", **message})
        async with session.post(url, data=data, headers=headers) as response:
            text = await response.text()
            if response.content_type == "text/event-stream":
                text = next(line[5:] for line in reversed(text.splitlines()) if line.startswith("data:"))
            return response.headers.get("Mcp-Session-Id", ""), orjson.loads(text) if text else None

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        session_id, _ = await post(session, {"id": 1, "method": "initialize", "params": info})
        headers |= {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": "2025-11-25"}
        await post(session, {"method": "notifications/initialized"})
        _, answer = await post(session, {"id": 2, "method": "tools/list", "params": {}})
        async with session.delete(url, headers=headers):
            pass
        tools: list[dict[str, Any]] = answer["result"]["tools"]
        return tools
