"""A trace over all hops: the client's span, both nodes' and what reaches the server, in one collector."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.e2e.running import RunningNode, StartNode
from tests.integration.servers.hosting import Seen, rpc_error, rpc_result, scripted
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TRACE, CLIENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@asynccontextmanager
async def collector(port: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Spans as they come, by OTLP over HTTP."""
    spans: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        for one in orjson.loads(await request.read())["resourceSpans"]:
            node = {item["key"]: item["value"]["stringValue"] for item in one["resource"]["attributes"]}["mesh.node"]
            spans.extend({**span, "node": node} for scope in one["scopeSpans"] for span in scope["spans"])
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield spans
    finally:
        await runner.cleanup()


def trace_logged(node: RunningNode) -> str | None:
    """The trace in the newest line of a call."""
    trace: str | None = [line for line in node.events("MCP request") if line["method"] == "tools/call"][-1].get("trace")
    return trace


async def test_the_spans_of_both_nodes_are_one_trace_from_the_client_to_the_server(
    start: StartNode, tmp_path: Path
) -> None:
    told: list[str] = []

    async def answer(seen: Seen) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover":
                return rpc_result(seen, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}), True
            case "tools/list":
                return rpc_result(seen, {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                told.append(seen.body["params"]["_meta"]["traceparent"])
                return rpc_result(seen, {"content": [], "resultType": "complete"}), True
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    port = free_port()
    mesh = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    mesh["MESH_TRACES_URL"] = f"http://127.0.0.1:{port}/v1/traces"
    async with collector(port) as spans, scripted(answer) as server:
        back = await start("back", tmp_path / "back", servers={"eye": {"url": server.url}}, **mesh)
        front = await start("front", tmp_path / "front", **mesh)
        await eventually(partial(front.offers, "eye__look"))
        async with front.client() as client:
            await client.call_tool("eye__look", {}, meta={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"})

        async def came() -> bool:
            return len([span for span in spans if span["name"] == "tools/call eye__look"]) == 2

        await eventually(came)
        by_node = {span["node"]: span for span in spans if span["name"] == "tools/call eye__look"}
        assert {span["traceId"] for span in by_node.values()} == {TRACE}
        assert by_node["front"]["parentSpanId"] == CLIENT_SPAN
        assert by_node["back"]["parentSpanId"] == by_node["front"]["spanId"]
        assert told == [f"00-{TRACE}-{by_node['back']['spanId']}-01"]

        # A client without a trace: the first node begins one, and its line in the log names it, as the next one's does.
        spans.clear()
        async with front.client() as client:
            await client.call_tool("eye__look", {})
        await eventually(came)
        (begun,) = {span["traceId"] for span in spans if span["name"] == "tools/call eye__look"}

        async def all_logged() -> bool:
            assert [trace_logged(node) for node in (front, back)] == [begun, begun]
            return True

        await eventually(all_logged)
