"""Log messages of servers with sessions, which all callers share: each gets those of its call, by its own level."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.client.connect import McpClient
from agent.client.legacy_notifications import LEVELS, LOG_LEVEL_META_KEY, is_wanted
from agent.client.protocol import Request
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import logging_server, warm
from tests.integration.servers.hops import front_of
from tests.integration.servers.logging_server import Talker
from tests.integration.servers.nodes import client, served
from tests.waiting import UNREPAIRED_S

pytestmark = pytest.mark.usefixtures("warm_servers")


@asynccontextmanager
async def backend(transport: str) -> AsyncIterator[ServerSpec]:
    if transport == "stdio":
        target = StdioTarget(sys.executable, (*warm.COMMAND, logging_server.__name__), cwd=str(warm.ROOT))
        yield ServerSpec("kit", target, ServerScope.SERVICE)
        return
    async with served(Talker().server) as url:
        yield ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)


async def heard(
    mcp: McpClient, level: str | None, tool: str = "talk", began: asyncio.Event | None = None
) -> tuple[list[str], str]:
    """The levels of the messages that came with a call, and those that the server was set to.

    `began` is set by progress.
    """
    levels: list[str] = []

    async def hear(method: str, params: Json) -> None:
        if began is not None and method == "notifications/progress":
            began.set()
            return
        assert method == "notifications/message"
        assert params == {"level": params["level"], "logger": "talker", "data": f"said {params['level']}"}
        levels.append(params["level"])

    params: Json = {"name": f"kit__{tool}", "arguments": {}}
    if level is not None:
        params["_meta"] = {LOG_LEVEL_META_KEY: level, "progressToken": "t"}
    result = await mcp.request(Request.within("tools/call", params, timeout_s=15, on_notification=hear))
    return levels, result["content"][0]["text"]


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_each_caller_gets_the_messages_of_its_call_by_its_own_level(
    transport: str, hops: int, tmp_path: Path
) -> None:
    async with (
        backend(transport) as spec,
        front_of(tmp_path, spec, hops=hops) as node,
        client(node.url, Era.MODERN) as modern,
        client(node.url, Era.LEGACY) as legacy,
    ):
        assert await heard(modern, None) == ([], ""), "no client asked, and nothing was set"
        assert await heard(modern, "warning") == (["warning", "error"], "warning")
        await legacy.request(Request.within("logging/setLevel", {"level": "notice"}, timeout_s=10))
        assert await heard(legacy, None) == (["notice", "warning", "error"], "warning,notice")
        assert await heard(modern, "error") == (["error"], "warning,notice"), "the other caller is still present"
        assert await heard(modern, None) == ([], "warning,notice")


async def test_a_session_that_sets_no_level_gets_what_is_usual(tmp_path: Path) -> None:
    async with (
        backend("http") as spec,
        front_of(tmp_path, spec) as node,
        client(node.url, Era.LEGACY) as legacy,
    ):
        assert await heard(legacy, None) == (["info", "notice", "warning", "error"], "info")


async def test_messages_on_a_pipe_belong_to_no_call_while_two_are_under_way(tmp_path: Path) -> None:
    async with backend("stdio") as spec, front_of(tmp_path, spec) as node, client(node.url, Era.MODERN) as mcp:
        async with asyncio.timeout(UNREPAIRED_S), asyncio.TaskGroup() as group:
            began = asyncio.Event()
            held = group.create_task(heard(mcp, "debug", "hold", began), name="held")
            await began.wait()
            assert await heard(mcp, "debug") == ([], "debug")
        assert held.result() == ([], "debug")
        assert (await heard(mcp, "debug"))[0] == ["debug", "info", "notice", "warning", "error"]


def test_messages_are_wanted_from_the_asked_level_on() -> None:
    assert [level for level in LEVELS if is_wanted({"level": level}, "critical")] == ["critical", "alert", "emergency"]
    assert not is_wanted({"level": "emergency"}, None)
    assert is_wanted({"level": "something new"}, "emergency")
