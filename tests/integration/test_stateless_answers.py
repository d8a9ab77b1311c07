"""What the endpoint answers to stateless requests of every kind, compared with what was recorded.

The requests stand in stateless_requests.py, the record beside it. The one rule: an answer differs from the record only
where a commit changes the record and says why.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import aiohttp
from fastmcp import FastMCP
from pydantic import Field

from agent.model import HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.nodes import RunningNode, running_node, served
from tests.integration.stateless_requests import ALL, EXPECTED, KEY, answer


def kit() -> FastMCP:
    """A server with something of each kind."""
    server = make_server()

    @server.tool
    def where(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        return region

    @server.prompt
    def greet(who: str) -> str:
        return f"Hello, {who}"

    @server.resource("kit://home")
    def home() -> str:
        return "home"

    return server


@asynccontextmanager
async def node_with_kit(folder: Path) -> AsyncIterator[RunningNode]:
    """A node with that server, and with the search tools for clients that ask for them."""
    async with served(kit()) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec], key=KEY, search_mode=False) as node:
            await node.connected("kit")
            yield node


async def test_every_stateless_request_is_answered_as_recorded(tmp_path: Path) -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    different = {}
    async with node_with_kit(tmp_path) as node, aiohttp.ClientSession() as http:
        for case, sent in ALL.items():
            got = await answer(http, node.url, sent)
            if got != expected.get(case):
                different[case] = (got, expected.get(case))
    assert different == {}
    assert expected.keys() == ALL.keys()
