"""A real node that can open nothing for a while, as its descriptors are used up: nothing ends, all is back at once.

Its limit is lowered while it runs, below what it has open, and every connection to its servers is reset meanwhile. The
one rule: a lack of the node's own is no fault of a server's, a peer's or an operator's file.
"""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.fault_proxy import fault_proxy
from tests.chaos.test_hanging_servers import PATHS, server
from tests.chaos.test_silent_crowds import has_lasted
from tests.e2e.by_hand import modern_answer
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example, write_servers
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.ports import free_port
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150), pytest.mark.usefixtures("quick_servers")]

# Standard streams and a few more: whatever is opened has a higher number.
FEW = 8
# A hung peer is down within 12 s.
SHORT_FOR_S = 14.0
# A lack is looked at again after a second; the rest is for the answers, and the test machine's.
BACK_WITHIN_S = 6.0
SAYS = "this node lacks what it needs"


async def test_a_node_that_is_out_of_descriptors_loses_no_link_no_peer_and_no_file_and_is_whole_again_at_once(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(running_nodes())
        proxies = {}
        for kind in PATHS:
            port = free_port()
            await stack.enter_async_context(server(tmp_path, kind, port))
            proxies[kind] = await stack.enter_async_context(fault_proxy(port))
        servers = {
            kind: {"url": f"http://127.0.0.1:{proxy.port}{PATHS[kind]}", "mesh": {"scope": "service"}}
            for kind, proxy in proxies.items()
        } | {"dice": example("dice")}
        other = await start("other", tmp_path / "other", servers={"dice": example("dice")}, MESH_DISCOVERY="off")
        node = await start("node", tmp_path / "node", servers=servers, MESH_DISCOVERY="off")
        body = {"peer_name": "other", "peer_url": other.url}
        assert (await node.request("POST", "/api/v1/mcp/peers", body))[0] == 201
        tools = [*(f"{kind}__pid" for kind in PATHS), "node__dice__roll", "other__dice__roll"]
        await eventually(partial(node.offers, *tools))
        downs, ready = len(node.events("MCP link down")), len(node.events("MCP link ready"))
        async with steady_calls(node, "node__dice__roll", eras=["auto"]) as tally:
            await tally.grows(10)
            with few_descriptors(node):
                began_s = time.monotonic()
                for proxy in proxies.values():
                    proxy.reset()
                write_servers(node.log_path.parent, {**servers, "late": example("dice")})
                await eventually(partial(has_lasted, began_s, SHORT_FOR_S))
                await tally.grows(10)
                assert len(node.events(SAYS)) == 1
            watch = Stopwatch(node.process.pid)
            called = (partial(answers, node, tool) for tool in (*tools, "node__late__roll"))
            took_s = max(await all_of(watch.until(one, BACK_WITHIN_S) for one in called))
            await tally.grows(10)
        measured(f"whole again {took_s:.1f} s after it had descriptors again, of which it had none for {SHORT_FOR_S} s")
        assert tally.failures == []
        assert [(one["backend"], one["reason"]) for one in node.events("MCP link down")[downs:]] == []
        assert len(node.events("MCP link ready")) == ready + 1


async def test_children_and_servers_that_cannot_be_opened_for_want_of_descriptors_are_opened_as_soon_as_there_are_some(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(running_nodes())
        port = free_port()
        process = await stack.enter_async_context(server(tmp_path, "session", port))
        servers = {
            "web": {"url": f"http://127.0.0.1:{port}/mcp", "mesh": {"scope": "service"}},
            "dice": example("dice"),
        }
        node = await start("node", tmp_path / "node", servers=servers, MESH_DISCOVERY="off")
        await eventually(partial(node.offers, "web__pid", "node__dice__roll"))
        before = await attempts(node)
        with few_descriptors(node):
            began_s = time.monotonic()
            process.kill_and_reap()
            await stack.enter_async_context(server(tmp_path, "session", port))
            end_children(node)
            await eventually(partial(has_lasted, began_s, SHORT_FOR_S))
        watch = Stopwatch(node.process.pid)
        called = (partial(answers, node, tool) for tool in ("web__pid", "node__dice__roll"))
        took_s = max(await all_of(watch.until(one, BACK_WITHIN_S) for one in called))
        measured(f"opened {took_s:.1f} s after there were descriptors again")
        # The child was lost once, and the server's death was not seen; no dial counts without a descriptor for it.
        after = await attempts(node)
        assert (after["web"], after["dice"]) == (before["web"], before["dice"] + 1)


@contextmanager
def few_descriptors(node: RunningNode) -> Iterator[None]:
    limits = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (FEW, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, limits)


def end_children(node: RunningNode) -> None:
    """End the processes that the node has started."""
    tasks = Path(f"/proc/{node.process.pid}/task")
    for children in tasks.glob("*/children"):
        for pid in map(int, children.read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):  # It ends by itself just now.
                if b"agent.examples" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


async def attempts(node: RunningNode) -> dict[str, int]:
    return {name: one["attempts"] for name, one in (await node.servers()).items()}


async def answers(node: RunningNode, tool: str) -> bool:
    async with asyncio.timeout(5):
        return "result" in await modern_answer(node.url, "tools/call", {"name": tool, "arguments": {}})
