"""A request on the direct way and the same on the whole way: the same answers, figures and lines in the log.

The whole way is what a request gets whose body comes in chunks: aiohttp's own protocol, every middleware, a response
object. The one rule: the ways may differ in what they cost, and in nothing else.
"""

import io
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.model import Json
from agent.server.sessions.http import SESSION_HEADER
from tests.integration.servers.nodes import RunningNode
from tests.integration.stateless_requests import ALL, BOTH, Sent, answer
from tests.integration.test_stateless_answers import node_with_kit

LINE_FIELDS = ("method", "mcp_name", "public_name", "caller", "backend", "outcome", "reason", "trace")


class InChunks:
    """Sends each body in chunks."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    def request(self, method: str, url: str, *, data: io.BytesIO | None, headers: Mapping[str, str]) -> Any:
        return self._http.request(method, url, data=None if data is None else _chunks(data), headers=headers)


async def _chunks(data: io.BytesIO) -> AsyncIterator[bytes]:
    while chunk := data.read(4096):
        yield chunk


def figures(node: RunningNode) -> dict[str, float]:
    """What is counted of calls."""
    counted = ("mesh_calls_total", "mesh_call_seconds_count", "mesh_calls_in_flight", "mesh_own_name_requests_total")
    shown = (line.rpartition(" ") for line in node.metrics.render()[0].decode().splitlines())
    return {name: float(value) for name, _, value in shown if name.startswith(counted)}


async def done(node: RunningNode, http: Any, cases: Mapping[str, Sent], caplog: pytest.LogCaptureFixture) -> Json:
    """What comes of these requests, one after the other."""
    before, lines = figures(node), len(caplog.records)
    answers = {case: await answer(http, node.url, sent) for case, sent in cases.items()}
    counted = {name: value - before.get(name, 0.0) for name, value in figures(node).items()}
    written = [record for record in caplog.records[lines:] if record.name == "agent.mcp"]
    shown = [{field: vars(record).get(field) for field in LINE_FIELDS} for record in written]
    return {"answers": answers, "counted": counted, "lines": shown}


async def initialize(http: aiohttp.ClientSession, url: str) -> dict[str, str]:
    """Headers of a new session."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    async with http.post(url, json=message, headers={"Accept": BOTH}) as response:
        return {"Accept": BOTH, SESSION_HEADER: response.headers[SESSION_HEADER]}


def of_session(headers: Mapping[str, str], method: str, params: Json) -> Sent:
    return "POST", list(headers.items()), {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def test_requests_of_every_kind_get_the_same_on_both_ways(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent.mcp")
    async with node_with_kit(tmp_path) as node, aiohttp.ClientSession() as http:
        session = await initialize(http, node.url)
        calls: dict[str, tuple[str, Json]] = {
            "a call": ("tools/call", {"name": "kit__where", "arguments": {"region": "north"}}),
            "by its own name": ("tools/call", {"name": "where", "arguments": {"region": "north"}}),
            "an unknown tool": ("tools/call", {"name": "kit__nothing", "arguments": {}}),
            "wrong arguments": ("tools/call", {"name": "kit__where", "arguments": []}),
            "a failing call": ("tools/call", {"name": "kit__where", "arguments": {}}),
            "a tool of the node": ("tools/call", {"name": "search_tools", "arguments": {"query": "where"}}),
            "a list": ("tools/list", {}),
            "a resource": ("resources/read", {"uri": "kit://home"}),
            "a prompt": ("prompts/get", {"name": "kit__greet", "arguments": {"who": "x"}}),
            "an unknown method": ("nothing/at/all", {}),
        }
        of_sessions = {f"session: {case}": of_session(session, *call) for case, call in calls.items()}
        cases = {case: sent for case, sent in ALL.items() if sent[0] == "POST"} | of_sessions
        await done(node, http, cases, caplog)  # Heads are remembered now.
        direct = await done(node, http, cases, caplog)
        whole = await done(node, InChunks(http), cases, caplog)
    different = {case: (got, whole["answers"][case]) for case, got in direct["answers"].items()}
    assert {case: both for case, both in different.items() if both[0] != both[1]} == {}
    assert direct["lines"] == whole["lines"]
    assert direct["counted"] == whole["counted"]
