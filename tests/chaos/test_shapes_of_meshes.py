"""Nodes that add each other by REST in every shape: all see what they should, and nothing of who has left.

Without discovery, so that the shape is the operator's. The interesting ones are rings of gateways: what is listed there
comes round again, and what has left must not live on in what neighbours tell each other.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest

from tests.chaos.journal_server import READ, WRITE, JournalServer, journal_server
from tests.e2e.by_hand import modern_request
from tests.e2e.running import STOP_TIMEOUT_S, RunningNode, running_nodes
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PEERS = "/api/v1/mcp/peers"
# docs/architecture.md: what a gateway lists is passed on over three nodes at most.
GATEWAYS_MAX = 3
# A node that was away is dialled again after a back-off of 30 s at most; the rest is the test machine's.
SETTLED_WITHIN_S = 45.0

NAMES = ("a", "b", "c", "d")
RING = tuple(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True))
STAR = tuple(edge for leaf in NAMES[1:] for edge in ((NAMES[0], leaf), (leaf, NAMES[0])))
FULL = tuple(permutations(NAMES, 2))
LINE_OF_THREE = (("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"))
SHAPES = {
    "ring": (RING, "local"),
    "star": (STAR, "local"),
    "full": (FULL, "local"),
    "ring of gateways": (RING, "mesh"),
    "line of three gateways": (LINE_OF_THREE, "mesh"),
    "all gateways": (FULL, "mesh"),
}

Edges = tuple[tuple[str, str], ...]


def seen_by(name: str, edges: Edges, scope: str, alive: Iterable[str]) -> set[str]:
    """Whose tools a node lists: its own, those of the nodes that it dials, and of those that gateways see."""
    alive = set(alive)
    seen, latest = {name}, {name}
    for _ in range(GATEWAYS_MAX if scope == "mesh" else 1):
        latest = {target for source, target in edges if source in latest and target in alive} - seen
        seen |= latest
    return seen


async def lists_exactly(node: RunningNode, owners: set[str]) -> bool:
    listed = await node.tool_names()
    wanted = {f"{owner}__journal__{tool}" for owner in owners for tool in (READ, WRITE)}
    assert listed == wanted, f"{node.name}: missing {wanted - listed}, ghosts {listed - wanted}"
    return True


async def all_list(nodes: Mapping[str, RunningNode], edges: Edges, scope: str, alive: Iterable[str]) -> None:
    """Wait until everyone who is alive lists what the shape says."""
    for name in alive:
        await eventually(partial(lists_exactly, nodes[name], seen_by(name, edges, scope, alive)), SETTLED_WITHIN_S)


async def each_call_runs_once(node: RunningNode, owners: set[str], server: JournalServer) -> None:
    for owner in sorted(owners):
        call_id = f"{node.name}-{owner}-{sum(server.executed().values())}"
        call = {"name": f"{owner}__journal__{WRITE}", "arguments": {"id": call_id}}
        result = await modern_request(node.url, "tools/call", call)
        assert result["content"][0]["text"] == call_id
        assert server.executed()[call_id] == 1


async def leave(node: RunningNode, *, saying_goodbye: bool) -> None:
    if saying_goodbye:
        node.process.terminate()
    else:
        node.kill()
    async with asyncio.timeout(STOP_TIMEOUT_S):
        assert await node.process.wait() == (0 if saying_goodbye else -signal.SIGKILL)


async def test_nodes_that_add_each_other_in_any_shape_list_what_is_there_and_no_ghosts(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    rng = random.Random(seed)
    async with journal_server(tmp_path / "journal", rng) as server, running_nodes() as start:
        servers = {"journal": {"url": server.url, "mesh": {"scope": "node"}}}
        started = await all_of(
            start(name, tmp_path / name, servers=servers, MESH_DISCOVERY="off", MESH_LOG_FORMAT="json")
            for name in NAMES
        )
        nodes = dict(zip(NAMES, started, strict=True))
        for shape, (edges, scope) in SHAPES.items():
            print(f"shape: {shape}")  # noqa: T201 - as above
            answers = await all_of(
                nodes[source].request(
                    "POST", PEERS, {"peer_name": target, "peer_url": nodes[target].url, "scope": scope}
                )
                for source, target in rng.sample(edges, len(edges))
            )
            assert {code for code, _ in answers} <= {201, 202}, answers  # Connected, or not yet on a busy machine.
            await all_list(nodes, edges, scope, NAMES)
            for node in nodes.values():
                await each_call_runs_once(node, seen_by(node.name, edges, scope, NAMES), server)
            leaver = rng.choice(NAMES)
            await leave(nodes[leaver], saying_goodbye=rng.random() < 0.5)
            await all_list(nodes, edges, scope, set(NAMES) - {leaver})
            nodes[leaver] = await start(nodes[leaver])
            # What operators said is on disk: the shape comes back by itself.
            await all_list(nodes, edges, scope, NAMES)
            answers = await all_of(nodes[source].request("DELETE", f"{PEERS}/{target}") for source, target in edges)
            assert {code for code, _ in answers} == {200}, answers
            await all_list(nodes, (), scope, NAMES)
