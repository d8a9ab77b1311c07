"""Backends that forget, hang or are slow: callers of other servers never wait for them."""

import asyncio
import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from mcp.shared.exceptions import MCPError

from tests.e2e.running import ERAS, RunningNode, StartNode
from tests.e2e.servers_files import example
from tests.e2e.test_servers import child_of
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.hosting import Front, http_app, serving
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# Less than a call of a hung backend takes to be given up, so that waiting for one would show.
CALL_TIMEOUT_S = 5.0
AT_ONCE_S = 4.0


async def test_restarted_server_with_sessions_is_called_again_without_the_client_noticing(
    start: StartNode, tmp_path: Path
) -> None:
    async with http_app(make_server()) as first, http_app(make_server()) as second:
        front = Front(first, refuse_modern=400)
        async with serving(front) as base:
            node = await start("node", tmp_path, servers={"old": {"url": f"{base}/mcp"}}, MESH_DISCOVERY="off")
            await eventually(partial(node.offers, "old__echo"))
            assert (await node.servers())["old"]["protocol_era"] == "legacy"
            for era in ERAS:
                async with node.client(era) as client:
                    assert (await client.call_tool("old__echo", {"text": "before"})).content[0].text == "before"
                    # The new process knows no session: it answers 404 to the old one's.
                    front.app = second if front.app is first else first
                    assert (await client.call_tool("old__echo", {"text": "after"})).content[0].text == "after"
                    assert "old__echo" in {tool.name for tool in await client.list_tools()}
    measured(f"restarted under a session {len(ERAS)} times, no call failed")


async def test_hung_child_delays_no_other_call_and_its_own_caller_no_longer_than_its_limit(
    start: StartNode, tmp_path: Path
) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    clock = example("clock") | {"mesh": {"call_timeout_s": CALL_TIMEOUT_S}}
    owner, other = await all_of(
        start(name, tmp_path / name, servers=own, **settings)
        for name, own in (("owner", {"clock": clock, "notes": example("notes")}), ("other", None))
    )
    for node in (owner, other):
        await eventually(partial(node.offers, "owner__clock__now", "owner__notes__list"))
    os.kill(hung := child_of(owner, "clock"), signal.SIGSTOP)
    try:
        async with owner.client() as here, other.client("legacy") as there:
            waiting_since_s = time.monotonic()

            async def wait_in_vain() -> MCPError:
                with pytest.raises(MCPError) as failed:
                    await there.call_tool("owner__clock__now", {})
                return failed.value

            async with asyncio.TaskGroup() as group:
                in_vain = group.create_task(wait_in_vain(), name="wait in vain")
                for client in (here, there):
                    async with asyncio.timeout(AT_ONCE_S):
                        await client.list_tools()
                    async with asyncio.timeout(AT_ONCE_S):
                        await client.call_tool("owner__notes__list", {})
            assert time.monotonic() - waiting_since_s < CALL_TIMEOUT_S + AT_ONCE_S
            assert in_vain.result().error.code == -32001
            told = in_vain.result().error.data
            assert (told["outcome"], told["timed_out"], told["bytes_sent"]) == ("unknown", True, True)
    finally:
        with contextlib.suppress(
            ProcessLookupError
        ):  # Its node has ended it for its silence, where all this took long.
            os.kill(hung, signal.SIGCONT)
    await eventually(partial(calls_well, other, "owner__clock__now"))


async def test_hung_node_delays_neither_lists_nor_calls_to_others(start: StartNode, tmp_path: Path) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    # The first one serves the catalog, and it is not the one that hangs.
    front = await start("front", tmp_path / "front", **settings)
    hung, _ = await all_of(
        start(name, tmp_path / name, servers={"clock": example("clock")}, **settings) for name in ("hung", "well")
    )
    await eventually(partial(front.offers, "hung__clock__now", "well__clock__now"))
    hung.process.send_signal(signal.SIGSTOP)
    hung_at_s = time.monotonic()
    for era in ERAS:
        async with front.client(era) as client:
            for _ in range(3):
                async with asyncio.timeout(AT_ONCE_S):
                    await client.list_tools()
                async with asyncio.timeout(AT_ONCE_S):
                    await client.call_tool("well__clock__now", {})
    # docs/reliability.md: a hung peer is down in under 12 s.
    await eventually(partial(is_dropped, front, "hung"), 14)
    measured(f"a hung node that is not called is down after {time.monotonic() - hung_at_s:.1f} s")
    assert "hung__clock__now" not in await front.tool_names()
    hung.process.send_signal(signal.SIGCONT)
    await eventually(partial(calls_well, front, "hung__clock__now"))


async def is_dropped(node: RunningNode, peer: str) -> bool:
    peers = await node.peers()
    return peer not in peers or not peers[peer]["connected"]


async def calls_well(node: RunningNode, tool: str) -> bool:
    """To be asked again: a link that has just come back may go once more before it stays."""
    async with node.client() as client:
        assert tool in {tool.name for tool in await client.list_tools()}
        try:
            return not (await client.call_tool(tool, {})).is_error
        except MCPError as exc:
            raise AssertionError(exc.error) from exc
