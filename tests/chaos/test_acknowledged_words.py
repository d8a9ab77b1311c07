"""A real node is killed around POSTs and DELETEs of peers, at moments that a seed draws: no acknowledged word is lost.

Every life goes on in the state of the one before. `tests/unit/state/test_overrides_kill.py` kills the writer alone, far
more often. The one rule: after each kill what was acknowledged is there, and beside it at most the word under way.
"""

import asyncio
import os
import random
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.running import RunningNode, running_nodes
from tests.measured import measured
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PEERS = "/api/v1/mcp/peers"
KILLS = 4
WORDS_MAX = 20
# An order takes a few milliseconds, so the blow falls into any of its steps.
BLOW_WITHIN_S = 0.01


async def test_no_acknowledged_word_of_an_operator_is_lost_when_its_node_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    rng, words = random.Random(seed), 0
    # One each: two names of one URL are one peer.
    urls = {f"peer-{n}": f"http://127.0.0.1:{port}/mcp" for n, port in enumerate(free_ports(6))}
    async with running_nodes() as start:
        node = await start("node", tmp_path, MESH_DISCOVERY="off")
        certain: set[str] = set()
        for _ in range(KILLS):
            certain, under_way, acknowledged = await life(node, certain, rng, urls)
            words += acknowledged
            await node.process.wait()
            node = await start(node)
            kept = set(await node.peers())
            assert kept in (certain, certain ^ {under_way}), (kept, certain, under_way)
            certain = kept
    measured(f"{words} words acknowledged, {KILLS} kills, none lost")


async def life(
    node: RunningNode, certain: set[str], rng: random.Random, urls: dict[str, str]
) -> tuple[set[str], str, int]:
    """Order until the node is killed: what was acknowledged then, the word under way, and how many were."""
    limit, acknowledged = rng.randrange(1, WORDS_MAX), 0
    async with aiohttp.ClientSession(base_url=node.base) as http:
        while True:
            name = rng.choice(list(urls))
            order = remove(http, name) if name in certain else add(http, name, urls[name])
            if acknowledged < limit:
                await order
                acknowledged += 1
                certain = certain ^ {name}
                continue
            async with asyncio.TaskGroup() as group:
                last = group.create_task(answered(order), name="the last order")
                with suppress(TimeoutError):
                    async with asyncio.timeout(rng.uniform(0, BLOW_WITHIN_S)):
                        await asyncio.wait([last])
                node.kill()
            # An answer that was sent before the blow counts, also where the blow came first for us.
            return (certain ^ {name}, name, acknowledged + 1) if last.result() else (certain, name, acknowledged)


async def answered(order: Coroutine[None, None, None]) -> bool:
    try:
        await order
    except aiohttp.ClientError:
        return False
    return True


async def add(http: aiohttp.ClientSession, name: str, url: str) -> None:
    async with http.post(PEERS, json={"peer_name": name, "peer_url": url}) as answer:
        assert answer.status == 202, await answer.text()
        await answer.read()


async def remove(http: aiohttp.ClientSession, name: str) -> None:
    async with http.delete(f"{PEERS}/{name}") as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
