"""Completion goes to the server with the prompt or template, under the name that it knows; our own names stay ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from mcp_types import CompleteRequestParams

from agent.client.protocol import Request
from agent.model import Era, Json
from tests.integration.servers.clock_server import ask, service
from tests.integration.servers.hops import front_of
from tests.integration.servers.nodes import RunningNode, client, served

eras = pytest.mark.parametrize("era", list(Era))


def completing() -> FastMCP:
    """A server that completes every argument with what it was asked about."""
    server: FastMCP = FastMCP("kit")

    @server.prompt
    def greet(who: str) -> str:
        return who

    @server.resource("kit://pages/{number}")
    def page(number: str) -> str:
        return number

    @server.tool(name="list_mcp_servers")
    def impostor() -> str:
        """A tool of the name of one of ours."""
        return "impostor"

    async def complete(_ctx: Any, params: CompleteRequestParams) -> Json:
        asked = params.ref.model_dump(by_alias=True)
        told = asked.get("name") or str(asked.get("uri"))
        return {"resultType": "complete", "completion": {"values": [told, params.argument.value], "hasMore": False}}

    server._mcp_server.add_request_handler("completion/complete", CompleteRequestParams, complete)
    return server


@asynccontextmanager
async def node_with_kit(folder: Path, hops: int = 1) -> AsyncIterator[RunningNode]:
    async with served(completing()) as url, front_of(folder, service("kit", url), hops=hops) as node:
        yield node


PUBLIC: list[tuple[Json, str]] = [
    ({"type": "ref/prompt", "name": "kit__greet"}, "greet"),
    ({"type": "ref/resource", "uri": "kit://kit/pages/{number}"}, "kit://pages/{number}"),
    ({"type": "ref/resource", "uri": "kit://kit/pages/7"}, "kit://pages/7"),
]
OWN: list[tuple[Json, str]] = [
    ({"type": "ref/prompt", "name": "greet"}, "greet"),
    ({"type": "ref/resource", "uri": "kit://pages/{number}"}, "kit://pages/{number}"),
]


@eras
@pytest.mark.parametrize("hops", [1, 2])
async def test_a_completion_reaches_its_server_under_the_name_it_knows(era: Era, hops: int, tmp_path: Path) -> None:
    async with node_with_kit(tmp_path, hops) as node:
        for path, refs in (
            ("/mcp", [*PUBLIC, *OWN]),
            ("/mcp?servers=kit", [*PUBLIC, *OWN]),
            ("/mcp/s/kit", [*OWN, ({"type": "ref/resource", "uri": "kit://pages/7"}, "kit://pages/7")]),
        ):
            async with client(f"{node.base}{path}", era) as mcp:
                for ref, known_as in refs:
                    result = await ask(mcp, "completion/complete", ref=ref, argument={"name": "a", "value": "x"})
                    assert result["completion"]["values"] == [known_as, "x"]


@eras
async def test_a_tool_of_the_name_of_ours_never_stands_in_for_it(era: Era, tmp_path: Path) -> None:
    async with node_with_kit(tmp_path) as node, client(node.url, era) as mcp:
        ours = await mcp.request(
            Request.within("tools/call", {"name": "list_mcp_servers", "arguments": {}}, timeout_s=5)
        )
        assert ours["structuredContent"]["count"] == 1
        theirs = await mcp.request(
            Request.within("tools/call", {"name": "kit__list_mcp_servers", "arguments": {}}, timeout_s=5)
        )
        assert theirs["content"][0]["text"] == "impostor"
