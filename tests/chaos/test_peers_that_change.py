"""Peers that are not what they were: one returns with other tools at another address, two others have one name.

Real nodes on the embedded catalog. The one rule: a node is its ID; names and addresses follow.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.by_hand import modern_request
from tests.e2e.running import RunningNode, StartNode, running_nodes
from tests.e2e.servers_files import example
from tests.e2e.test_node_loss import told_of_changes
from tests.measured import measured
from tests.ports import free_port
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# What the clients of another node may wait for once the peer is ready.
TOLD_WITHIN_S = 2.0
# A peer that has moved is dialled where it is, and left where it was.
REDIALLED_WITHIN_S = 5.0
TOOLS = {"clock": {"peer__kit__now", "peer__kit__convert"}, "dice": {"peer__kit__roll"}}

# ESTABLISHED and CLOSE_WAIT, as the kernel writes them.
_OPEN = ("01", "08")

ENDS: tuple[tuple[str, Callable[[RunningNode], None], str, str], ...] = (
    ("killed", RunningNode.kill, "clock", "dice"),
    ("stopped", lambda node: node.process.terminate(), "dice", "clock"),
)


@pytest.fixture
async def start() -> AsyncIterator[StartNode]:
    """Start nodes of one mesh, each with a state folder that a later one may go on with."""
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port()), "MESH_LOG_FORMAT": "json"}
    async with running_nodes() as start_one:
        yield partial(start_one, **settings)


async def test_a_peer_that_returns_elsewhere_with_other_tools_is_the_same_node_and_clients_hear_of_it_soon(
    start: StartNode, tmp_path: Path
) -> None:
    front = await start("front", tmp_path / "front")
    peer = await start("peer", tmp_path / "peer", servers={"kit": example("clock")})
    await eventually(partial(lists, front, "clock"))
    node_id = (await front.peers())["peer"]["node_id"]
    async with told_of_changes(front, "auto") as modern, told_of_changes(front, "legacy") as legacy:
        for word, end, before, after in ENDS:
            known, old_port = len(front.events("MCP offer changed")), peer.port
            end(peer)
            await peer.process.wait()
            await eventually(partial(lists, front, None))
            watch = Stopwatch(front.process.pid)
            for told in (modern, legacy):
                await watch.until(partial(has_heard, told, front, None), TOLD_WITHIN_S)
            peer = await start("peer", tmp_path / "peer", servers={"kit": example(after)})
            watch = Stopwatch(front.process.pid, peer.process.pid)
            for told in (modern, legacy):
                heard_s = await watch.until(partial(has_heard, told, front, after), TOLD_WITHIN_S)
            measured(f"{word}: clients heard of it {heard_s:.1f} s after it was ready again")
            now = (await front.peers())["peer"]
            assert (now["url"], now["node_id"], now["connected"]) == (peer.url, node_id, True)
            await watch.until(partial(is_left, old_port), REDIALLED_WITHIN_S)
            # In one line, or in two where the peer is linked before its server is up, or is still there when that ends.
            changes = front.events("MCP offer changed")[known:]
            named = {kind: sorted(name for one in changes for name in one.get(kind, [])) for kind in ("added", "gone")}
            assert named == {"added": sorted(TOOLS[after]), "gone": sorted(TOOLS[before])}, changes


async def has_heard(told: asyncio.Event, front: RunningNode, example_name: str | None) -> bool:
    """Whether a client was notified, and what it would list then is what there is: one notice may be of before."""
    if not told.is_set():
        return False
    told.clear()
    return await lists(front, example_name)


async def is_left(port: int) -> bool:
    """Whether this machine has closed all its connections to a port, where the other end is gone."""
    found = [row for row in connections() if int(row[2].partition(":")[2], 16) == port and row[3] in _OPEN]
    assert not found, found
    return True


def connections() -> list[list[str]]:
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


async def lists(node: RunningNode, example_name: str | None) -> bool:
    listed = await node.tool_names()
    assert listed == (TOOLS[example_name] if example_name else set()), listed
    return True


async def test_two_nodes_of_one_name_are_both_called_and_the_clash_is_named_in_status_metric_and_log(
    start: StartNode, tmp_path: Path
) -> None:
    front = await start("front", tmp_path / "front")
    twins = await all_of(
        start("twin", tmp_path / folder, servers={"clock": example("clock")}) for folder in ("one", "two")
    )
    ids = [(await node.status())["self"]["node_id"] for node in twins]
    await eventually(partial(links_both, front))
    measured("two of one name: both linked and called")
    for node_id in ids:
        call = {"name": f"twin-{node_id[:8]}__clock__now", "arguments": {}}
        assert (await modern_request(front.url, "tools/call", call))["structuredContent"]["zone"] == "UTC"
    (conflict,) = [one for one in (await front.status())["conflicts"] if one["reason"] == "node_name"]
    assert conflict["name"] == "twin"
    assert (await front.metric("mesh_name_conflicts") or 0) >= 1
    assert [line["public_name"] for line in front.events("name conflict")].count("twin") == 1
    assert {peer["node_id"] for peer in (await front.peers()).values()} == set(ids)


async def links_both(node: RunningNode) -> bool:
    peers = await node.peers()
    assert len(peers) == 2, peers
    return all(peer["connected"] for peer in peers.values()) and bool((await node.status())["conflicts"])
