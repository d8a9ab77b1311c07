"""A server of others (mcp-server-time, from PyPI) behind one node, called from another."""

from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError

from tests.e2e.running import ERAS, StartNode
from tests.e2e.third_party.environment import NotInstalled, third_party_python
from tests.ports import free_port
from tests.waiting import all_of, eventually

# The first run installs it.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def time_server() -> list[str]:
    """Its command; the test is skipped aloud when it cannot be installed."""
    try:
        python = third_party_python()
    except NotInstalled as exc:
        pytest.skip(f"NO THIRD-PARTY SERVER: mcp-server-time cannot be installed: {exc}")
    return [str(python), "-m", "mcp_server_time", "--local-timezone", "UTC"]


async def test_third_partys_tools_are_the_same_through_two_nodes_as_without_any(
    time_server: list[str], start: StartNode, tmp_path: Path
) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    command, *args = time_server
    servers = {"time": {"command": command, "args": args, "mesh": {"scope": "service"}}}
    front, _ = await all_of(
        start(name, tmp_path / name, servers=own, **settings) for name, own in (("front", None), ("back", servers))
    )
    await eventually(partial(front.offers, "time__get_current_time", "time__convert_time"))
    asked = {"source_timezone": "Asia/Taipei", "time": "12:30", "target_timezone": "America/New_York"}
    async with Client(StdioTransport(command, args)) as direct:
        own = {tool.name: tool for tool in await direct.list_tools()}
        told = (await direct.call_tool("convert_time", asked)).content[0].text
    for era in ERAS:
        async with front.client(era) as client:
            through = {tool.name: tool for tool in await client.list_tools()}
            for name, tool in own.items():
                assert through[f"time__{name}"].input_schema == tool.input_schema
                assert through[f"time__{name}"].description == tool.description
            converted = await client.call_tool("time__convert_time", asked)
            assert without_today(converted.content[0].text) == without_today(told)
            now = await client.call_tool("time__get_current_time", {"timezone": "Asia/Taipei"})
            assert orjson.loads(now.content[0].text)["timezone"] == "Asia/Taipei"
            with pytest.raises(ToolError, match=r"(?i)timezone"):
                await client.call_tool("time__get_current_time", {"timezone": "Nowhere/Atlantis"})


def without_today(text: str) -> Any:
    """The answer without its dates, which change at midnight."""
    answer = orjson.loads(text)
    for side in ("source", "target"):
        answer[side]["datetime"] = answer[side]["datetime"].partition("T")[2]
        answer[side].pop("day_of_week", None)
    return answer
