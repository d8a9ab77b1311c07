"""A clean-up script takes nodes that are well out of Consul's catalog, again and again, while calls run.

A real Consul and three real nodes. The one rule: what the catalog forgets while it answers keeps its link, its calls
and its place in all lists, and one that leaves by itself goes as fast as ever.
"""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.consul_process import RunningConsul
from tests.e2e.running import RunningNode, running_nodes, stop_node
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually, settled

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(180)]

NAMES = ("one", "two", "three")
ROUNDS, ROUNDS_OF_ALL = 4, 2
# A node misses itself at once, and its agent sends it to the servers at once; the rest is the machine's.
BACK_WITHIN_S = 10.0
# docs/reliability.md: half a second for peers to learn of it; the rest is the machine's.
GONE_WITHIN_S = 5.0


@pytest.fixture
async def nodes(consul: RunningConsul, tmp_path: Path) -> AsyncIterator[list[RunningNode]]:
    """Three, linked with each other; the second has the clock."""
    async with running_nodes() as start:
        servers = {name: {"clock": example("clock")} if name == "two" else {} for name in NAMES}
        nodes = await all_of(
            start(name, tmp_path / name, servers=servers[name], CONSUL_HTTP_ADDR=consul.url) for name in NAMES
        )
        for node in nodes:
            await eventually(partial(node.sees, *others_of(node)))
            await eventually(partial(node.offers, *(["two__clock__now"] if node.name != "two" else [])))
        yield nodes


async def test_nodes_that_a_script_deregisters_again_and_again_keep_their_links_and_calls(
    consul: RunningConsul, nodes: list[RunningNode]
) -> None:
    # That of a node's own server comes after peers have called it.
    notices = [await settled(partial(notices_of, node)) for node in nodes]
    links = [await links_of(node) for node in nodes]
    took_s = []
    async with (
        steady_calls(nodes[0], "two__clock__now") as near,
        steady_calls(nodes[2], "two__clock__now") as far,
    ):
        for _ in range(ROUNDS):
            for node in nodes:
                took_s.append(await removed_and_back(consul, node))
                await all_of(tally.grows() for tally in (near, far))
        for _ in range(ROUNDS_OF_ALL):
            took_s += await all_of(removed_and_back(consul, node) for node in nodes)
            await all_of(tally.grows() for tally in (near, far))
        for node in nodes:
            await eventually(partial(follows_all, node))
        await all_of(tally.grows() for tally in (near, far))
    measured(f"{len(took_s)} removals, back after {min(took_s):.2f} to {max(took_s):.2f} s")
    assert near.failures == far.failures == []
    assert [await links_of(node) for node in nodes] == links
    assert [await notices_of(node) for node in nodes] == notices


async def test_a_node_that_leaves_by_itself_is_gone_at_once(nodes: list[RunningNode]) -> None:
    one, two, three = nodes
    async with steady_calls(one, "two__clock__now") as tally:
        await tally.grows()
        assert await stop_node(three) == 0
        watch = Stopwatch(one.process.pid, two.process.pid)
        for node in (one, two):
            left = {"one", "two"} - {node.name}
            await watch.until(partial(node.sees, *left), GONE_WITHIN_S)
            # Nothing of it is held.
            gone_s = await watch.until(partial(follows, node, 2), GONE_WITHIN_S)
        await tally.grows()
    measured(f"gone from all {gone_s:.1f} s after its end")
    assert tally.failures == []
    for node in (one, two):
        assert "their links stay" not in node.log_path.read_text("utf-8")


async def notices_of(node: RunningNode) -> float | None:
    return await node.metric("mesh_list_changes_total", kind="tools")


def others_of(node: RunningNode) -> set[str]:
    return {*NAMES} - {node.name}


async def links_of(node: RunningNode) -> tuple[dict[str, tuple[Any, ...]], int]:
    """Its peers with what has become of their links, and how many links it has ever made."""
    peers = {name: (peer["connected"], peer["reconnects"]) for name, peer in (await node.peers()).items()}
    return peers, node.log_path.read_text("utf-8").count("MCP link ready")


async def removed_and_back(consul: RunningConsul, node: RunningNode) -> float:
    """Let a script remove a node's entry; seconds until the catalog has it again."""
    row = await row_of(consul, node)
    place = {"Datacenter": "dc1", "Node": row["Node"]["Node"], "ServiceID": row["Service"]["ID"]}
    await consul.call("PUT", "/v1/catalog/deregister", place)
    watch = Stopwatch(node.process.pid)
    return await watch.until(partial(has_newer_row, consul, node, row["Service"]["CreateIndex"]), BACK_WITHIN_S)


async def row_of(consul: RunningConsul, node: RunningNode) -> Any:
    rows = await consul.call("GET", "/v1/health/service/mcp-node?passing")
    found = [row for row in rows if row["Service"]["Port"] == node.port]
    assert len(found) == 1, rows
    return found[0]


async def has_newer_row(consul: RunningConsul, node: RunningNode, index: int) -> bool:
    return bool((await row_of(consul, node))["Service"]["CreateIndex"] > index)


async def follows_all(node: RunningNode) -> bool:
    return await follows(node, len(NAMES))


async def follows(node: RunningNode, count: int) -> bool:
    """Whether the catalog is trusted, and has so many passing instances and no other."""
    found = {health: await node.metric("mesh_instances", health=health) for health in ("passing", "critical")}
    assert found == {"passing": count, "critical": 0}, found
    return bool((await node.discovery())["up"])
