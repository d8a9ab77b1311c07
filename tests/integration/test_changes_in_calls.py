"""A client that lists at once after a call that changed its server's list sees the new list, from any node."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import growing_server
from tests.integration.servers.growing_server import Growing
from tests.integration.servers.hosting import Seen, http, scripted
from tests.integration.servers.nodes import catalog, client, instance, running_node

CHANGED = "notifications/tools/list_changed"


@contextlib.asynccontextmanager
async def growing(era: Era, transport: str) -> AsyncIterator[HttpTarget | StdioTarget]:
    """A growing server of its own."""
    if transport == "stdio":
        yield StdioTarget(sys.executable, (growing_server.__file__, *(["modern"] if era is Era.MODERN else [])))
        return
    server = Growing(modern=era is Era.MODERN)

    async def answer(request: Seen) -> tuple[bytes, bool]:
        if request.method != "POST":
            return http(405), True
        messages = server.answer(request.body)
        if not messages:
            return http(202), True
        if len(messages) == 1:
            return http(200, json.dumps(messages[0]).encode()), True
        events = "".join(f"event: message\ndata: {json.dumps(message)}\n\n" for message in messages)
        return http(200, events.encode(), "text/event-stream"), True

    async with scripted(answer) as script:
        yield HttpTarget(script.url)


async def tool_names(mcp: McpClient) -> list[str]:
    page = await mcp.request(Request.within("tools/list", {}, timeout_s=20))
    return [tool["name"] for tool in page["tools"] if "grow" in tool["name"]]


@pytest.mark.parametrize("client_era", list(Era))
@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("era", list(Era))
async def test_a_client_that_lists_right_after_the_call_or_the_notice_sees_the_new_list(
    era: Era, transport: str, client_era: Era, tmp_path: Path
) -> None:
    async with growing(era, transport) as target:
        garden = ServerSpec("garden", target, ServerScope.SERVICE)
        async with (
            running_node("one", tmp_path, servers=[garden]) as node,
            client(node.url, client_era) as mcp,
        ):
            await node.connected("garden")
            await node.when(lambda: "garden__grow" in node.tool_names())
            for count in range(1, 4):
                at_the_notice: list[list[str]] = []

                async def hear(method: str, _params: Json, seen: list[list[str]] = at_the_notice) -> None:
                    if method == CHANGED:
                        seen.append(await tool_names(mcp))

                call = {"name": "garden__grow", "arguments": {}}
                result = await mcp.request(Request.within("tools/call", call, timeout_s=20, on_notification=hear))
                expected = ["garden__grow", *(f"garden__grown-{number}" for number in range(count))]
                assert result["content"][0]["text"] == str(count)
                assert await tool_names(mcp) == expected
                assert all(seen == expected for seen in at_the_notice)


@pytest.mark.parametrize("client_era", list(Era))
async def test_a_client_without_notices_hears_of_no_changed_list_on_the_stream_of_its_call(
    client_era: Era, tmp_path: Path
) -> None:
    async with growing(Era.MODERN, "http") as target:
        garden = ServerSpec("garden", target, ServerScope.SERVICE)
        async with (
            running_node("one", tmp_path, servers=[garden]) as node,
            client(node.url, client_era) as mcp,
            client(f"{node.url}?notices=off", client_era) as deaf,
        ):
            await node.connected("garden")
            await node.when(lambda: "garden__grow" in node.tool_names())
            for asking, expected in ((deaf, []), (mcp, [CHANGED])):
                heard: list[str] = []

                async def hear(method: str, _params: Json, heard: list[str] = heard) -> None:
                    heard.append(method)

                call = {"name": "garden__grow", "arguments": {}}
                await asking.request(Request.within("tools/call", call, timeout_s=20, on_notification=hear))
                assert [method for method in heard if method == CHANGED] == expected


@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("era", list(Era))
async def test_a_client_of_another_node_sees_the_new_list_right_after_the_call(
    era: Era, transport: str, tmp_path: Path
) -> None:
    async with growing(era, transport) as target:
        garden = ServerSpec("garden", target, ServerScope.SERVICE)
        async with (
            running_node("one", tmp_path / "one", servers=[garden]) as one,
            running_node("two", tmp_path / "two") as two,
            client(two.url, Era.MODERN) as mcp,
        ):
            two.mesh.take_catalog(catalog(instance(one)))
            await two.when(lambda: "garden__grow" in two.tool_names())
            await mcp.request(Request.within("tools/call", {"name": "garden__grow", "arguments": {}}, timeout_s=20))
            assert await tool_names(mcp) == ["garden__grow", "garden__grown-0"]
