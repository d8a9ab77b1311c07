"""Searching 10,000 tools: how long a search takes, and how long the event loop is held while it does.

In one process, on the search alone: many kinds of queries, each after the list has changed and after it has not. Then
on a node: `search_tools` as clients call it, and another client's calls beside that. The one rule: the first search
after a change counts like any other; the very first, which indexes everything, has a figure of its own.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from agent.late import settle_memory
from agent.model import Json
from agent.routing.table import Route, RouteKind, RouteTable
from agent.server.search import ToolSearch
from bench.figures import Figure, percentile
from bench.processes import bare_server, canned_server, node
from bench.raw_client import RawClient

TOOLS: Final = 10_000
OF_A_SERVER: Final = 50
QUERIES: Final = 100
LIMIT: Final = 10
P99_GOAL_MS: Final = 20.0
HELD_GOAL_MS: Final = 10.0
_VERBS: Final = (
    "get",
    "list",
    "create",
    "update",
    "delete",
    "search",
    "send",
    "read",
    "write",
    "move",
    "copy",
    "export",
)


class Held:
    """How long the event loop was held at most, by the clock and by its own processor time; a task of its own."""

    def __init__(self) -> None:
        self.clock_ms: list[float] = []
        self.processor_ms: list[float] = []
        self._counts = True

    async def follow(self) -> None:
        """Take a sample a turn, until cancelled."""
        while True:
            clock_s, processor_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            if self._counts:
                self.clock_ms.append((time.perf_counter() - clock_s) * 1000)
                self.processor_ms.append((time.thread_time() - processor_s) * 1000)

    async def left_out(self, work: Callable[[], None]) -> None:
        """Do what is the benchmark's own, and no part of a search."""
        self._counts = False
        work()
        await asyncio.sleep(0)
        self._counts = True


async def measure() -> list[Figure]:
    """Measure the search alone, then behind a node."""
    return [*await _alone(), *await _behind_a_node()]


async def _alone() -> list[Figure]:
    dice = random.Random(7)
    words = _vocabulary(dice)
    tables = [_table([_tool(dice, words, number) for number in range(TOOLS)])]
    chosen = _queries(dice, words, tables[-1])
    search, held, quiet = ToolSearch(lambda: tables[-1]), Held(), Held()
    settle_memory()  # As a node does.
    await _while_followed(quiet, lambda: asyncio.sleep(2))
    took_ms: dict[str, list[tuple[float, float]]] = {}

    async def timed(kind: str, query: str) -> None:
        started_s, processor_s = time.perf_counter(), time.process_time()
        await search.search(query, LIMIT)
        times = time.perf_counter() - started_s, time.process_time() - processor_s
        took_ms.setdefault(kind, []).append((times[0] * 1000, times[1] * 1000))
        await asyncio.sleep(0)  # One search a turn.

    def change(count: int) -> None:
        tables.append(_changed(tables.pop(), dice, count))

    async def searches() -> None:
        await timed("the very first", "tool")
        for kind, queries in chosen.items():
            for query in queries:
                await timed(kind, query)
        for changed in (1, OF_A_SERVER):
            for _ in range(QUERIES):
                await held.left_out(partial(change, changed))
                await timed(f"after a change of {changed} tools", dice.choice(words))

    await _while_followed(held, searches)
    first, first_processor = took_ms.pop("the very first")[0]
    figures = [
        Figure("the very first search, which indexes 10,000 tools", first, "ms"),
        Figure("the same, its processor time", first_processor, "ms"),
    ]
    for kind, samples in took_ms.items():
        clock, processor = zip(*samples, strict=True)
        figures += [
            Figure(
                f"a search of 10,000 tools, {kind}, p99 of {len(samples)}", percentile(clock, 0.99), "ms", P99_GOAL_MS
            ),
            Figure("the same, p99 of its processor time", percentile(processor, 0.99), "ms", P99_GOAL_MS),
        ]
    return [
        *figures,
        Figure("the loop held at most, of an idle process", max(quiet.clock_ms), "ms"),
        Figure("the loop held at most while searched and indexed", max(held.clock_ms), "ms", HELD_GOAL_MS),
        Figure("the same, in processor time of the loop", max(held.processor_ms), "ms", HELD_GOAL_MS),
    ]


async def _while_followed(held: Held, work: Callable[[], Awaitable[None]]) -> None:
    follower = asyncio.get_running_loop().create_task(held.follow(), name="follower")
    try:
        await work()
    finally:
        follower.cancel()


async def _behind_a_node() -> list[Figure]:
    async with (
        canned_server(tools=TOOLS) as url,
        bare_server() as bare_url,
        node("searched", servers={"many": {"url": url}, "bare": {"url": bare_url}}, MESH_DISCOVERY="off") as base,
        RawClient(f"{base}/mcp") as client,
        RawClient(f"{base}/mcp") as caller,
    ):
        while len(await client.tool_names()) < TOOLS:
            await asyncio.sleep(0.1)
        dice = random.Random(7)
        queries = ["tool", "t", "tool_", "text given unchanged", "return the text that was given as one block", "zzz"]
        queries += [f"tool_{dice.randrange(TOOLS)}" for _ in range(QUERIES - len(queries))]
        beside: list[float] = []
        alone: list[float] = []
        searched: list[float] = []

        async def call(samples: list[float]) -> None:
            started_s = time.perf_counter()
            await caller.call("bare__echo", {"text": "sixteen bytes ok"})
            samples.append((time.perf_counter() - started_s) * 1000)

        async def calls() -> None:
            while True:
                await call(beside)

        for _ in range(1_000):
            await call(alone)
        await client.call("search_tools", {"query": "tool"})  # The first call of an own tool imports its library.
        follower = asyncio.get_running_loop().create_task(calls(), name="caller")
        try:
            for query in queries:
                started_s = time.perf_counter()
                await client.call("search_tools", {"query": query, "limit": LIMIT})
                searched.append((time.perf_counter() - started_s) * 1000)
        finally:
            follower.cancel()
    return [
        Figure("search_tools of a node with 10,000 tools, beside calls, p50", percentile(searched, 0.5), "ms"),
        Figure(f"the same, p99 of {len(searched)}", percentile(searched, 0.99), "ms", P99_GOAL_MS),
        Figure("another client's call, with no search beside it, p99", percentile(alone, 0.99), "ms"),
        Figure("the same beside searches, p99", percentile(beside, 0.99), "ms"),
        Figure("the same, the longest", max(beside), "ms"),
    ]


def _queries(dice: random.Random, words: Sequence[str], table: RouteTable) -> Mapping[str, Sequence[str]]:
    """What people and models type, and what is hard: by kind."""
    texts = [route.definition["description"] for route in dice.sample(list(table.tools.values()), QUERIES)]
    beginnings = ["t", "th", "to", "too", "s", "se", "serv", *"abcdefgh"]
    return {
        "a rare word": [dice.choice(words[1_000:]) for _ in range(QUERIES)],
        "a word that all have": ["tool", "this", "This tool"] * (QUERIES // 3),
        "a beginning that all have": beginnings * (QUERIES // len(beginnings)),
        "five words": [" ".join(dice.sample(text.split(), 5)) for text in texts],
        "a pasted description": texts,
        "no hit": ["xylophonist", "zzyzx", "qqq brrr"] * (QUERIES // 3),
        "no word": [""] * QUERIES,
    }


def _vocabulary(dice: random.Random) -> list[str]:
    """Words that look like words, the most frequent ones first."""
    syllables = [consonant + vowel for consonant in "bcdfghklmnprstvwz" for vowel in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < 4_000:
        found["".join(dice.choices(syllables, k=dice.randint(2, 4))) + dice.choice(("", "s", "n", "r", "ing"))] = None
    return list(found)


def _tool(dice: random.Random, words: Sequence[str], number: int) -> Json:
    """A tool of ordinary size, whose words are as frequent as words are in texts."""
    frequencies = [1 / (place + 3) for place in range(len(words))]
    text = " ".join(dice.choices(words, frequencies, k=dice.randint(8, 60)))
    described = dice.choices(words, frequencies, k=12)
    properties = {
        f"{dice.choice(words)}_id": {"type": "string", "description": " ".join(described[:6])},
        dice.choice(words): {"type": "string", "description": " ".join(described[6:])},
    }
    return {
        "name": f"server{number // OF_A_SERVER}__{dice.choice(_VERBS)}_{dice.choice(words)}_{number}",
        "description": f"This tool {dice.choice(_VERBS)}s the {text}.",
        "inputSchema": {"type": "object", "properties": properties},
    }


def _table(tools: Sequence[Json]) -> RouteTable:
    routes = {tool["name"]: Route(RouteKind.TOOL, tool["name"], tool, "", (), listed=True, owner="") for tool in tools}
    return RouteTable(tools=MappingProxyType(routes))


def _changed(table: RouteTable, dice: random.Random, count: int) -> RouteTable:
    """The table with so many tools described anew."""
    fresh = {
        route.public_name: replace(
            route, definition={**route.definition, "description": f"{route.definition['description']} Anew."}
        )
        for route in dice.sample(list(table.tools.values()), count)
    }
    return RouteTable(tools=MappingProxyType({**table.tools, **fresh}))
