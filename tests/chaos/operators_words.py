"""A real node is killed around POSTs and DELETEs of peers, again and again, at moments that a seed draws.

Each life goes on in the state of the one before. Used by a test for some kills, and by `python -m tests.chaos` for
hundreds (`make chaos`). The one rule: after each kill what was acknowledged is there, and beside it at most the word
that was under way.
"""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.e2e.running import RunningNode, running_nodes
from tests.ports import free_ports

PEERS = "/api/v1/mcp/peers"
WORDS_MAX = 20
# An order takes a few milliseconds, so the blow falls into any of its steps.
BLOW_WITHIN_S = 0.01


@dataclass
class Kills:
    """How it went. `words`: that were acknowledged; `done`: of those that a blow met, how many were carried out.

    `lost`: what a node no longer knew, or knew that was never ordered; empty when all went well.
    """

    kills: int = 0
    words: int = 0
    unanswered: int = 0
    done: int = 0
    lost: list[str] | None = None

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.words:,} words acknowledged; of {self.unanswered} that a blow left without an"
            f" answer {self.done} were carried out"
        )


async def killed_again_and_again(folder: Path, rng: random.Random, kills: int) -> Kills:
    """Kill a node so often; ends with the first word that is lost."""
    told = Kills()
    # One each: two names of one URL are one peer.
    urls = {f"peer-{n}": f"http://127.0.0.1:{port}/mcp" for n, port in enumerate(free_ports(6))}
    async with running_nodes() as start:
        node = await start("node", folder, MESH_DISCOVERY="off")
        certain: set[str] = set()
        for _ in range(kills):
            certain, under_way = await life(node, certain, rng, urls, told)
            await node.process.wait()
            node = await start(node)
            kept = set(await node.peers())
            told.kills += 1
            if kept not in (certain, certain ^ under_way):
                told.lost = [f"kill {told.kills}: kept {sorted(kept)}, certain {sorted(certain)}, {sorted(under_way)}"]
                return told
            told.unanswered += len(under_way)
            told.done += kept != certain
            certain = kept
    return told


async def life(
    node: RunningNode, certain: set[str], rng: random.Random, urls: dict[str, str], told: Kills
) -> tuple[set[str], set[str]]:
    """Order until the node is killed: what was acknowledged then, and the word without an answer, if there is one."""
    limit = rng.randrange(1, WORDS_MAX)
    async with aiohttp.ClientSession(base_url=node.base) as http:
        for number in range(limit + 1):
            name = rng.choice(list(urls))
            order = remove(http, name) if name in certain else add(http, name, urls[name])
            if number < limit:
                await order
            elif not await answered_before_the_blow(node, order, rng.uniform(0, BLOW_WITHIN_S)):
                return certain, {name}
            told.words += 1
            certain = certain ^ {name}
    return certain, set()


async def answered_before_the_blow(node: RunningNode, order: Coroutine[None, None, None], blow_s: float) -> bool:
    """Kill the node so long after the order; an answer that was sent before counts, also where it comes later."""
    async with asyncio.TaskGroup() as group:
        last = group.create_task(answered(order), name="the last order")
        with suppress(TimeoutError):
            async with asyncio.timeout(blow_s):
                await asyncio.wait([last])
        node.kill()
    return last.result()


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
