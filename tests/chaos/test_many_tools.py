"""A server with more tools than a node takes, behind two nodes: ten thousand are offered, and the rest is named.

A real server and two real nodes. The one rule: the node beside it lists what the server's own node does.
"""

import time
from functools import partial
from pathlib import Path

import pytest

from bench.processes import resident_bytes
from tests.e2e.by_hand import modern_request
from tests.e2e.processes import environment_of, spawn
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, running_nodes
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TOOLS, TOOLS_MAX = 10_050, 10_000
# Far more than a quiet machine takes.
LISTED_WITHIN_S = 150.0
HELD_MB = 200.0


async def test_ten_thousand_tools_of_a_server_are_offered_by_two_nodes_and_the_rest_is_named(tmp_path: Path) -> None:
    port = free_port()
    server = spawn(("bench.canned_server", str(port), str(TOOLS)), tmp_path / "server.log", environment_of({}))
    try:
        async with running_nodes() as start:
            kit = {"kit": {"url": f"http://127.0.0.1:{port}/mcp", "mesh": {"scope": "service"}}}
            began_s = time.monotonic()
            owner = await start("owner", tmp_path / "owner", servers=kit, MESH_DISCOVERY="off")
            await eventually(partial(lists_all, owner), LISTED_WITHIN_S)
            owner_s = time.monotonic() - began_s
            began_s = time.monotonic()
            peers = {"MESH_PEERS": f"owner={owner.url}"}
            other = await start("other", tmp_path / "other", MESH_DISCOVERY="off", **peers)
            await eventually(partial(lists_all, other), LISTED_WITHIN_S)
            other_s = time.monotonic() - began_s
            held = [resident_bytes(node.process.pid) / 2**20 for node in (owner, other)]
            conflicts = [one["reason"] for one in (await owner.status())["conflicts"]]
            first = await modern_request(other.url, "tools/list")
            name = next(tool["name"] for tool in first["tools"] if tool["name"].startswith("kit__"))
            called = await modern_request(other.url, "tools/call", {"name": name, "arguments": {"text": "x"}})
    finally:
        server.kill_and_reap()
    measured(
        f"of {TOOLS:,} tools {TOOLS_MAX:,} were listed {owner_s:.1f} s after the start, by the node beside it"
        f" {other_s:.1f} s after its own; {held[0]:.0f} and {held[1]:.0f} MB"
    )
    assert conflicts == ["limit"]
    assert called["content"]
    assert max(held) < HELD_MB


async def lists_all(node: RunningNode) -> bool:
    listed, cursor = 0, None
    while True:
        page = await modern_request(node.url, "tools/list", {} if cursor is None else {"cursor": cursor})
        listed += len(page["tools"])
        if (cursor := page.get("nextCursor")) is None:
            return listed == TOOLS_MAX + len(MANAGEMENT_TOOLS)
