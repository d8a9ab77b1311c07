"""HTTP servers that answer `ping` with something else than a result, late or never, and are fine otherwise: they stay.

The times of probes are a fraction of the usual ones. The one rule: a server that lists and calls is never dialled anew.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.links import probe
from agent.model import HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.hosting import Seen, http, initialized, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import running_node
from tests.integration.servers.raw_session import raw_session

PROBE_EVERY_S = 0.05
# Of pings or of lists in place of them: three that are missed would end the connection.
PROBES = 8

PINGS: dict[str, Callable[[Seen], bytes]] = {
    "an error": lambda request: rpc_error(request, 200, -32601, "Method not found"),
    "400": lambda _: http(400, b"Bad Request", "text/plain"),
    "405": lambda _: http(405),
    "202": lambda _: http(202),
    "an empty stream": lambda _: http(200, b"", "text/event-stream"),
    "a page": lambda _: http(200, b"<html>", "text/html"),
    "never": lambda _: b"",
}


class OddlyPinged:
    """A server with sessions and one tool; `probes` counts pings, and lists after the first of them."""

    def __init__(self, to_ping: Callable[[Seen], bytes]) -> None:
        self._to_ping = to_ping
        self.opened = self.pings = self.probes = 0
        self.probed = asyncio.Event()

    async def answer(self, request: Seen) -> tuple[bytes | None, bool]:
        method = request.body.get("method")
        if method == "ping" or (method == "tools/list" and self.pings):
            self.pings += method == "ping"
            self.probes += 1
            if self.probes >= PROBES:
                self.probed.set()
        match method:
            case "initialize":
                self.opened += 1
                return initialized(request, Mcp_Session_Id=f"s{self.opened}"), True
            case "ping":
                return self._to_ping(request), True
            case "tools/list":
                return rpc_result(request, {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                return rpc_result(request, {"content": [{"type": "text", "text": "done"}]}), True
            case "notifications/initialized":
                return http(202), True
        return http(405), True


@pytest.mark.parametrize("to_ping", PINGS.values(), ids=PINGS.keys())
async def test_a_server_that_lists_and_calls_is_up_however_it_answers_ping(
    to_ping: Callable[[Seen], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_EVERY_S", PROBE_EVERY_S)
    monkeypatch.setattr(probe, "PROBE_AFTER_MISS_S", 2 * PROBE_EVERY_S)
    monkeypatch.setattr(probe, "DOUBT_PAUSE_S", PROBE_EVERY_S)
    server = OddlyPinged(to_ping)
    async with asyncio.timeout(30), scripted(server.answer) as script:
        spec = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        async with running_node("one", tmp_path, servers=[spec]) as node, raw_session(node.url) as mcp:
            await node.connected("kit")
            await server.probed.wait()
            assert (node.view("kit").connected, node.view("kit").reconnects) == (True, 0)
            answer = await mcp.request("tools/call", {"name": "kit__do", "arguments": {}})
            assert answer["result"]["content"][0]["text"] == "done"
